"""`frontier` on a toy problem, and the arithmetic of margins, fronts and differences."""

import contextlib
import json
import re
import shutil
from unittest import mock

import numpy as np
import pytest

from benchmarks import readme
from sepconv_layers import Frontier, cli, compare, frontier, profile, timing
from sepconv_layers.comparison import deployment, memory
from sepconv_layers.comparison.frontier_record import COSTS
from sepconv_layers.comparison.recipe import Training
from sepconv_layers.comparison.task_choice import classification
from sepconv_layers.comparison.tradeoff import (
    margin_at_equal_cost,
    paired_bootstrap,
    pareto_front,
)
from tests.backends import BACKEND
from tests.test_comparison import DATA, build, count_epochs, without_timing
from tests.test_resume import empty, flip, replace_by_folder, replace_by_text, truncate

TRAIN_PEAK_BYTES = memory.train_peak_bytes
SIZES = {"separable": (1, 4), "standard": (0.5, 1)}


@contextlib.contextmanager
def brief():
    """Measures latencies briefly, and no times in Keras and no memory."""
    peak = mock.patch.object(memory, "train_peak_bytes", lambda model, **_: model.count_params())
    with without_timing(), peak, mock.patch.object(timing, "SECONDS_PER_CALL", 0.01):
        yield


def without_files():
    """Writes no LiteRT files, which takes as long as all else."""
    return mock.patch.object(deployment, "unavailable", lambda: "LiteRT files are left out here")


@pytest.fixture(autouse=True)
def _brief():
    with brief():
        yield


def build_sized(conv, size):
    return build(conv, filters=round(8 * size))


def run(**changes):
    arguments = {
        "build": build_sized,
        "data": DATA,
        "sizes": SIZES,
        "epochs": 2,
        "batch_size": 16,
        "seeds": 2,
        "learning_rate": 0.03,
        "progress": False,
    }
    return frontier(**arguments | changes)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    with brief():
        output = tmp_path_factory.mktemp("frontier")
        return run(output=output), output


# The arithmetic.


def test_the_margin_of_a_line_that_is_shifted_in_cost_is_its_slope_times_the_shift():
    costs = np.array([1, 3, 10, 40.0])
    line = [(cost, [0.5 + 0.1 * np.log2(cost)]) for cost in costs]
    dearer = [(2 * cost, accuracies) for cost, accuracies in line]
    margin = margin_at_equal_cost(line, dearer)
    assert margin.mean == pytest.approx(0.1)
    assert (margin.low, margin.high) == pytest.approx((2, 40))
    assert margin.std is None and str(margin) == "+10.00"  # no spread of a single seed


@pytest.mark.parametrize("seed", range(5))
def test_the_margin_is_the_mean_difference_over_the_logarithm_of_the_common_costs(seed):
    rng = np.random.default_rng(seed)
    families = [
        [(cost, rng.uniform(0.5, 1, 3)) for cost in rng.permutation(rng.uniform(1, 100, 5))]
        for _ in range(2)
    ]
    margin = margin_at_equal_cost(*families)
    grid = np.linspace(np.log(margin.low), np.log(margin.high), 200_001)
    per_seed = []
    for number in range(3):
        lines = []
        for family in families:
            points = sorted((np.log(cost), accuracies[number]) for cost, accuracies in family)
            lines.append(np.interp(grid, *zip(*points, strict=True)))
        per_seed.append((lines[0] - lines[1]).mean())
    assert margin.mean == pytest.approx(np.mean(per_seed), abs=1e-5)
    assert margin.std == pytest.approx(np.std(per_seed, ddof=1), abs=1e-5)


def test_there_is_no_margin_without_common_costs():
    assert margin_at_equal_cost([(1, [0.5]), (2, [0.6])], [(3, [0.5]), (4, [0.6])]) is None


def test_families_that_meet_in_one_cost_have_the_margin_there():
    margin = margin_at_equal_cost([(1, [0.5]), (2, [0.8])], [(2, [0.6]), (4, [0.9])])
    assert margin.mean == pytest.approx(0.2)


def test_nets_of_equal_cost_count_with_their_mean():
    margin = margin_at_equal_cost([(1, [0.4]), (1, [0.6]), (2, [0.5])], [(1, [0.5]), (2, [0.5])])
    assert margin.mean == pytest.approx(0)


@pytest.mark.parametrize("seed", range(5))
def test_no_net_of_the_front_is_beaten_and_every_other_net_is(seed):
    points = [tuple(pair) for pair in np.random.default_rng(seed).integers(0, 6, (12, 2))]

    def is_beaten(one):
        return any(other[0] <= one[0] and other[1] >= one[1] and other != one for other in points)

    front = [points[index] for index in pareto_front(points)]
    assert set(front) == {point for point in points if not is_beaten(point)}
    assert front == sorted(front)


def test_the_interval_of_a_difference_covers_it_as_often_as_it_says():
    rng, covered = np.random.default_rng(0), 0
    for _ in range(60):
        difficulty = rng.uniform(size=300)
        better, worse = difficulty < 0.9, difficulty + rng.normal(0, 0.05, 300) < 0.8
        difference = paired_bootstrap(better[None], worse[None])
        covered += difference.low <= 0.1 <= difference.high
        assert difference.is_significant
    assert covered >= 50


def test_equal_nets_do_not_differ():
    right = np.random.default_rng(0).uniform(size=(2, 500)) < 0.8
    difference = paired_bootstrap(right, right[::-1])
    assert difference.mean == 0
    assert not difference.is_significant


# The engine.


def test_a_frontier_has_every_size_of_both_families(found):
    result, _ = found
    assert [row.name for row in result.rows] == [
        "separable-1", "separable-4", "standard-0.5", "standard-1",
    ]  # fmt: skip
    for row in result.rows:
        model = build_sized(row.conv, row.size)
        assert row.params == model.count_params()
        assert len(row.accuracy["per_seed"]) == len(row.val_accuracy["per_seed"]) == 2
        labels, predicted = result.predictions["labels"], result.predictions[row.name]
        assert (predicted == labels).mean() == pytest.approx(row.accuracy["mean"], abs=1e-5)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="LiteRT files need TensorFlow")
def test_files_for_devices_are_measured(found):
    result, _ = found
    for row in result.rows:
        assert row.costs["int8_bytes"] == row.artifacts["int8"]["bytes"] > 1000
        assert row.costs["litert_ms"] > 0
        assert abs(row.artifacts["litert"]["accuracy"] - row.accuracy["mean"]) < 0.5


@pytest.mark.skipif(BACKEND == "tensorflow", reason="LiteRT files need TensorFlow")
def test_a_note_says_why_there_are_no_files_for_devices(found):
    result, _ = found
    assert "LiteRT files need the TensorFlow backend" in result.notes[0]
    assert "int8_bytes" not in result.rows[0].costs


def test_the_record_has_the_margins_and_loads_again(found):
    result, output = found
    record = json.loads((output / "frontier.json").read_text("utf-8"))
    assert record["margins"]["macs"]["mean"] == result.margin("macs").mean
    assert set(record["margins"]) == set(COSTS)
    loaded = Frontier.load(output)
    assert loaded == result
    first, *_, last = loaded.rows
    assert loaded.difference(first, last) == result.difference(first, last)
    assert (output / "frontier.png").stat().st_size > 1000
    assert result.to_markdown() in (output / "frontier.md").read_text("utf-8")


def test_the_best_net_is_the_most_accurate_one_on_validation_data_within_the_limits(found):
    result, _ = found
    for limit in sorted(row.macs for row in result.rows):
        best = result.best(macs=limit)
        within = [row.val_accuracy["mean"] for row in result.rows if row.macs <= limit]
        assert best.macs <= limit
        assert best.val_accuracy["mean"] == max(within)


def test_the_front_consists_of_nets_in_the_order_of_their_cost(found):
    result, _ = found
    front = result.front("macs")
    assert [row.macs for row in front] == sorted(row.macs for row in front)
    assert front[0].macs == min(row.macs for row in result.rows)


def test_a_frontier_resumes_and_more_sizes_train_only_the_new_ones(found):
    result, output = found
    with count_epochs() as fit, without_files():
        again = run(output=output)
    assert fit.call_count == 0
    assert [row.accuracy for row in again.rows] == [row.accuracy for row in result.rows]
    with count_epochs() as fit, without_files():
        more = run(output=output, sizes={**SIZES, "standard": (0.5, 1, 1.5)})
    assert fit.call_count == 2 * 2
    assert len(more.rows) == 5
    result.save(output)


def test_nets_beyond_the_limits_are_left_out_before_any_training():
    macs = {row: profile_macs("separable", row) for row in (1, 4)}
    with count_epochs() as fit, without_files():
        result = run(limits={"macs": macs[1]}, seeds=1)
    assert {row.name for row in result.rows} <= {"separable-1", "standard-0.5", "standard-1"}
    assert all(row.macs <= macs[1] for row in result.rows)
    assert fit.call_count == 2 * len(result.rows)
    assert any("separable-4 was left out: macs" in note for note in result.notes)


def profile_macs(conv, size):
    return profile(build_sized(conv, size)).macs


@pytest.mark.skipif(BACKEND != "tensorflow", reason="LiteRT files need TensorFlow")
def test_the_size_of_the_int8_file_is_checked_before_any_training():
    with count_epochs() as fit, pytest.raises(ValueError, match=r"`limits`.*int8_bytes"):
        run(limits={"int8_bytes": 100})
    assert fit.call_count == 0


def test_twins_get_the_budget_of_compare(found):
    result, _ = found
    arguments = {"epochs": 2, "batch_size": 16, "seeds": 2, "learning_rate": 0.03}
    twins = compare(build, DATA, **arguments, progress=False)
    by_name = {row.name: row for row in result.rows}
    for row in twins.rows:
        assert row.accuracy == by_name[f"{row.conv}-1"].accuracy


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sizes": (1,)}, "`sizes` must be at least 2 distinct positive numbers"),
        ({"sizes": (1, 1)}, "`sizes` must be at least 2"),
        ({"sizes": (0, 1)}, "`sizes` must be at least 2"),
        ({"sizes": (1, float("inf"))}, "`sizes` must be at least 2"),
        ({"sizes": "12"}, "`sizes` must be at least 2"),
        ({"sizes": {"separable": (1, 2)}}, "'separable' and 'standard'"),
        ({"limits": {"latency": 1}}, "`limits` must map any of 'macs', 'params', 'int8_bytes'"),
        ({"limits": {"macs": -1}}, "macs"),
        ({"limits": {"macs": 1}}, "`limits` must leave at least one net"),
        ({"epochs": 0}, "epochs"),
        ({"build": None}, "`build` must be a function"),
    ],
)
def test_a_bad_argument_is_an_early_error(changes, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        run(**changes)


def test_unknown_costs_and_limits_that_nothing_meets_are_errors(found):
    result, _ = found
    with pytest.raises(ValueError, match="must name costs: macs"):
        result.margin("flops")
    with pytest.raises(ValueError, match="must name costs: macs"):
        result.best(flops=1)
    with pytest.raises(ValueError, match=r"smallest costs are macs=\d+\. Received: macs=1"):
        result.best(macs=1)
    with pytest.raises(ValueError, match="must be beside the record"):
        Frontier(**{**vars(result), "predictions": {}}).difference(*result.rows[:2])


def test_a_file_that_is_no_record_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        Frontier.load(tmp_path)
    with pytest.raises(ValueError, match=r"a folder in place of the file frontier\.json"):
        (tmp_path / "frontier.json").mkdir()
        run(output=tmp_path)
    (tmp_path / "frontier.json").rmdir()
    (tmp_path / "frontier.json").write_text('{"rows": [1]}', "utf-8")
    with pytest.raises(ValueError, match=r"must be a frontier\.json"):
        Frontier.load(tmp_path)


@pytest.mark.parametrize("damage", [truncate, empty, flip, replace_by_text, replace_by_folder])
def test_damaged_predictions_are_a_clear_error(found, tmp_path, damage):
    result, output = found
    copy = shutil.copytree(output, tmp_path / "copy", ignore=shutil.ignore_patterns("runs"))
    damage(copy / "predictions.npz")
    with pytest.raises(ValueError, match=r"`frontier` writes them\. Delete the file"):
        Frontier.load(copy)
    shutil.rmtree(copy / "predictions.npz", ignore_errors=True)
    (copy / "predictions.npz").unlink(missing_ok=True)
    assert Frontier.load(copy) == result


def test_a_page_shows_frontiers_and_their_margins(found, tmp_path, monkeypatch):
    result, output = found
    monkeypatch.setattr(readme, "ROOT", tmp_path)
    shutil.copytree(output, tmp_path / "results" / "toys" / "crosses")
    places = "results/toys/crosses/frontier.json", "results/*/frontier.json"
    page = readme.render("".join(f"<!-- {place} -->\nold\n<!-- end -->\n" for place in places))
    assert "old" not in page and result.to_markdown() in page
    (line,) = [line for line in page.splitlines() if line.startswith(f"| {result.task}: ")]
    for cost in ("macs", "infer_ms", "train_step_ms"):
        assert str(result.margin(cost) or "–") in line
    assert f"{max(row.macs for row in result.family('separable')) / 1e6:.2g} M MACs" in line


def test_an_argument_that_compare_does_not_have_is_named():
    with pytest.raises(TypeError, match="unexpected argument 'epoch'.*: loss, .*, epochs,"):
        run(epoch=1)
    with pytest.raises(TypeError, match="unexpected argument 'convs'"):
        run(convs="separable")


def test_peak_memory_grows_with_the_batch(monkeypatch):
    monkeypatch.setattr(memory, "train_peak_bytes", TRAIN_PEAK_BYTES)
    model = build_sized("standard", 4)
    part = np.zeros((4096, 6, 6, 3), "float32"), np.zeros(4096, int)
    brief = {"epochs": 1, "learning_rate": 1e-3, "classes": 3, "task": classification(3)}
    peaks = [
        memory.train_peak_bytes(model, part, Training(**brief, batch_size=size))
        for size in (2048, 4096)
    ]
    if None in peaks:
        pytest.skip("not measured on this system")
    values = 2048 * 4 * 4 * 32 * 4  # bytes of one activation for the smaller batch
    assert 2 * values < peaks[0] < 6 * values  # without what tracing takes
    assert peaks[1] - peaks[0] > 2 * values  # the rest does not depend on the batch


def test_the_command_shows_a_record_and_the_best_net(found, tmp_path, capsys):
    result, output = found
    most = max(row.macs for row in result.rows)
    plot = tmp_path / "plot.png"
    arguments = ["frontier", str(output), "--limit", f"macs={most}"]
    assert cli.main([*arguments, "--plot", str(plot), "--costs", "macs"]) == 0
    printed = capsys.readouterr().out
    assert str(result) in printed
    assert f"Best on validation data: {result.best(macs=most).name}" in printed
    assert plot.stat().st_size > 1000


def test_mistakes_of_the_command_are_named(found, tmp_path, capsys):
    _, output = found
    assert cli.main(["frontier", str(tmp_path)]) == 1
    assert "frontier.json does not exist" in capsys.readouterr().err
    assert cli.main(["frontier", str(output), "--limit", "flops=1"]) == 1
    assert "must name costs: macs" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        cli.main(["frontier", str(output), "--limit", "macs"])
    assert "must be a number" in capsys.readouterr().err
