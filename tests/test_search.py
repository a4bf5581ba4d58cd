"""`search` on toy problems: its limits, its order, what it survives and what it refuses.

Most trainings are replaced by a formula. How nets are really trained is tested with `compare`.
"""

import contextlib
import itertools
import json
import math
import re
import sys
from types import SimpleNamespace
from unittest import mock

import keras
import numpy as np
import optuna
import pytest

from sepconv_layers import Search, cli, profile, search
from sepconv_layers.comparison import choices, deployment, trials
from sepconv_layers.comparison.row import Row
from tests.backends import BACKEND
from tests.test_comparison import DATA, build, changed, count_epochs, within_epoch, without_timing

EPOCHS = 4
SPACE = {"filters": (1, 64), "kernel_size": [1, 3, 5]}


def build_chosen(conv, filters, kernel_size):
    """A net that is quick to build. Its trainings are replaced, so any will do."""
    units = 2 * filters * kernel_size if conv == "standard" else filters * kernel_size
    return keras.Sequential([
        keras.Input((6, 6, 3)),
        keras.layers.GlobalAveragePooling2D(),
        keras.layers.Dense(units, use_bias=False),
        keras.layers.Dense(3, use_bias=False),
    ])  # fmt: skip


def macs_of(trial):
    return profile(build_chosen(trial.conv, **trial.choices)).macs


def formula(filters, kernel_size, **_):
    """What a net achieves at the end: best with 32 filters of size 3."""
    return 0.9 - 0.02 * abs(math.log2(filters) - 5) - 0.05 * abs(kernel_size - 3)


class Trainings:
    """Trainings by a formula, each of whose epochs an action may interrupt."""

    def __init__(self, action=lambda epoch: None, formula=formula):
        self.action, self.formula = action, formula
        self.epochs, self.count = itertools.count(1), 0

    def run(self, build, conv, seed, parts, training, folder, jit_compile, watch):
        self.count, self.parts = self.count + 1, parts
        history = []
        for epoch in range(training.epochs):
            watch(history)
            self.action(next(self.epochs))
            accuracy = self.formula(**build.keywords) * (1 - 0.5 ** (epoch + 2))
            history.append({"val_accuracy": accuracy, "seconds": 1.0})
        return {"history": history}, 0.0


def compare_by_formula(build, data, convs, **settings):
    """Rows as those of `compare`."""
    times = {"infer_ms": {1: 1.0}, "infer_mode": {1: "xla"}, "train_step_ms": 1.0}
    rows = [
        Row(
            conv=conv,
            model="net",
            params=1,
            macs=profile(build(conv)).macs,
            accuracy={"mean": 0.9, "std": 0.0, "per_seed": [0.9]},
            train_mode="xla",
            artifacts={"keras": {"bytes": 1}},
            **times,
        )
        for conv in convs
    ]
    return SimpleNamespace(rows=rows, wall_seconds=1.0)


@contextlib.contextmanager
def by_formula(trainings=None):
    trainings = trainings or Trainings()
    with (
        mock.patch.object(trials, "run", trainings.run),
        mock.patch.object(choices, "compare", compare_by_formula),
    ):
        yield trainings


def run(**changes):
    arguments = {
        "build": build_chosen,
        "data": DATA,
        "space": SPACE,
        "trials": 5,
        "convs": "separable",
        "epochs": EPOCHS,
        "seeds": 1,
        "progress": False,
    }
    return search(**arguments | changes)


def without_seconds(result):
    return [{**vars(trial), "seconds": None} for trial in result.trials]


# What it finds.


def test_the_best_choices_are_found_within_few_trials():
    with by_formula():
        result = run(trials=25, space={"filters": (1, 128), "kernel_size": [1, 2, 3, 4, 5]})
    assert result.best().choices["kernel_size"] == 3
    assert 24 <= result.best().choices["filters"] <= 40


def test_limits_hold_and_nets_beyond_them_are_not_trained():
    limit = profile(build_chosen("separable", 16, 3)).macs
    with by_formula() as trainings:
        result = run(trials=7, limits={"macs": limit}, convs=("separable", "standard"))
    trained = [trial for trial in result.trials if trial.epochs]
    over = [trial for trial in result.trials if trial.outcome == "over limits"]
    assert len(trained) == trainings.count == 14
    assert len(trained) + len(over) == len(result.trials) and over
    for trial in trained:
        assert trial.costs["macs"] == macs_of(trial) <= limit
    for trial in over:
        assert macs_of(trial) > limit
        assert f"{limit:,}" in trial.note
    assert [row.conv for row in result.rows] == ["separable", "standard"]
    assert [row.macs for row in result.rows] == [
        result.best(conv).costs["macs"] for conv in ("separable", "standard")
    ]


def test_without_a_net_within_the_limits_nothing_is_trained():
    with (
        count_epochs() as fit,
        pytest.raises(ValueError, match=r"smallest costs of \d+ nets.*macs"),
    ):
        run(limits={"macs": 10}, space={"filters": [8, 16], "kernel_size": [3]})
    assert fit.call_count == 0


@pytest.mark.skipif(BACKEND != "tensorflow", reason="LiteRT files need TensorFlow")
def test_the_size_of_the_int8_file_can_be_limited():
    space = {"filters": [8, 60], "kernel_size": [3]}
    with by_formula():
        result = run(convs="standard", space=space, limits={"int8_bytes": 4000, "params": 10_000})
        small, large = sorted(result.trials, key=lambda trial: trial.costs["params"])
    assert small.outcome == "trained" and small.costs["int8_bytes"] <= 4000
    assert large.outcome == "over limits" and large.costs["int8_bytes"] > 4000
    with mock.patch.object(deployment, "write_artifact", side_effect=AssertionError), by_formula():
        with pytest.raises(ValueError, match="int8_bytes': 'not measured'"):
            run(
                space=space, limits={"int8_bytes": 4000, "params": 2}
            )  # the cheap check comes first


def test_nets_that_are_not_promising_are_stopped_early():
    with by_formula():
        result = run(trials=12)
        patient = run(trials=6, stop_early=False)
    stopped = [trial for trial in result.trials if trial.outcome == "stopped early"]
    assert stopped and all(1 <= trial.epochs < EPOCHS for trial in stopped)
    assert all(trial.epochs == EPOCHS for trial in patient.trials)
    assert {trial.outcome for trial in patient.trials} == {"trained"}


def test_a_net_is_trained_once_and_a_space_that_is_exhausted_ends_the_search():
    def rounded(conv, filters, kernel_size, unused):
        return build_chosen(conv, 8 * max(1, filters // 8), kernel_size)

    space = {"filters": (8, 23), "kernel_size": [3], "unused": [True, False]}
    with by_formula() as trainings, mock.patch.object(trials, "FRUITLESS", 20):
        result = run(build=rounded, space=space)
    assert trainings.count == len(result.trials) == 2
    assert result.notes == [
        "No more than 2 separable nets were found within the limits and the space."
    ]


def test_choices_that_make_no_net_are_left_out():
    def strict(conv, filters, kernel_size):
        if kernel_size == 3:
            raise ValueError("No 3.")
        return build_chosen(conv, filters, kernel_size)

    with by_formula():
        result = run(build=strict)
    refused = [trial for trial in result.trials if trial.outcome == "refused"]
    assert refused and all(trial.note == "No 3." and not trial.epochs for trial in refused)
    assert sum(trial.epochs > 0 for trial in result.trials) == 5


def test_a_net_that_diverges_does_not_end_the_search():
    def diverge(epoch):
        if epoch == 3:
            raise FloatingPointError("infinite")

    with by_formula(Trainings(diverge)):
        result = run()
    assert [trial.outcome for trial in result.trials[:2]] == ["diverged", "trained"]
    assert result.trials[0].note == "infinite"


@pytest.mark.parametrize(
    ("values", "possible"),
    [
        ((2, 4), {2, 3, 4}),
        (range(8, 25, 8), {8, 16, 24}),
        ([3, (3, 1), "x", None], {3, (3, 1), "x", None}),
        (optuna.distributions.FloatDistribution(0.5, 1.0, step=0.5), {0.5, 1.0}),
        (optuna.distributions.CategoricalDistribution([3, 5]), {3, 5}),
    ],
)
def test_every_form_of_values_is_searched(values, possible):
    seen = []

    def noting(conv, value):
        seen.append(value)
        return build_chosen(conv, len(set(seen)), 1)

    with by_formula(Trainings(formula=lambda value: 0.5)):
        result = run(build=noting, space={"value": values}, trials=20)
    assert set(seen) == possible
    assert {trial.choices["value"] for trial in result.trials} <= possible
    json.loads(result.to_json())


def test_a_pair_of_floats_is_a_range():
    with by_formula(Trainings(formula=lambda width: width / 5)):
        result = run(
            build=lambda conv, width: build_chosen(conv, round(100 * width), 1),
            space={"width": (0.25, 4.0)},
        )
    widths = [trial.choices["width"] for trial in result.trials]
    assert len(set(widths)) == 5 and 0.25 <= min(widths) < max(widths) <= 4


# What it survives.


def test_the_same_search_gives_the_same_trials_and_another_seed_gives_others():
    with by_formula():
        first, again, other = run(), run(), run(seeds=[1])
    assert without_seconds(first) == without_seconds(again) != without_seconds(other)


def test_both_families_start_with_the_same_choices():
    with by_formula():
        result = run(convs=("separable", "standard"), trials=2)
    ours, theirs = (
        [trial.choices for trial in result.trials if trial.conv == conv]
        for conv in ("separable", "standard")
    )
    assert ours[0] == theirs[0]


@pytest.mark.parametrize("epoch", [1, 14])
def test_an_interrupted_search_goes_on_as_if_nothing_had_happened(tmp_path, epoch):
    def interrupt(number):
        if number == epoch:
            raise KeyboardInterrupt

    limits = {"macs": profile(build_chosen("separable", 32, 3)).macs}
    with by_formula():
        undisturbed = run(limits=limits)
    with by_formula(Trainings(interrupt)) as before, pytest.raises(KeyboardInterrupt):
        run(limits=limits, output=tmp_path)
    with by_formula() as after:
        resumed = run(limits=limits, output=tmp_path)
    assert without_seconds(resumed) == without_seconds(undisturbed)
    assert before.count + after.count == 5 + 1  # the training that was interrupted


def test_a_search_that_is_killed_before_it_notes_a_result_goes_on(tmp_path):
    tell, numbers = optuna.Study.tell, itertools.count(1)

    def killed(self, *args, **kwargs):
        if next(numbers) == 4:
            raise KeyboardInterrupt
        return tell(self, *args, **kwargs)

    with by_formula():
        undisturbed = run()
        with mock.patch.object(optuna.Study, "tell", killed), pytest.raises(KeyboardInterrupt):
            run(output=tmp_path)
        assert without_seconds(run(output=tmp_path)) == without_seconds(undisturbed)


def test_more_trials_go_on_after_the_earlier_ones_and_fewer_need_no_training(tmp_path):
    with by_formula():
        whole = run()
    with by_formula() as trainings:
        run(output=tmp_path, trials=3)
        more = run(output=tmp_path)
        assert trainings.count == 5
        fewer = run(output=tmp_path, trials=3)
    assert trainings.count == 5
    assert without_seconds(more) == without_seconds(whole)
    assert more.trials[: len(fewer.trials)] == fewer.trials


def test_other_nets_or_limits_start_from_the_beginning(tmp_path, capsys):
    def other(conv, filters, kernel_size):
        return build_chosen(conv, filters + 1, kernel_size)

    with by_formula() as trainings:
        run(output=tmp_path, trials=2)
        run(output=tmp_path, trials=2, build=other, progress=True)
        assert "Earlier trials of the separable family" in capsys.readouterr().out
        run(output=tmp_path, trials=2, limits={"macs": 1e6})
        assert trainings.count == 6
        run(output=tmp_path, trials=2)
        assert trainings.count == 6  # the first ones are still there


def cut(content):
    return content[:-20]


def garble(content):
    return b"something else\n" + content


@pytest.mark.parametrize("damage", [cut, garble])
def test_a_damaged_journal_costs_at_most_the_search(tmp_path, damage, capsys):
    with by_formula():
        undisturbed = run(output=tmp_path)
        journal = tmp_path / "trials" / "journal.log"
        journal.write_bytes(damage(journal.read_bytes()))
        again = run(output=tmp_path)
    assert without_seconds(again) == without_seconds(undisturbed)
    assert (tmp_path / "trials" / "journal.log.damaged").exists() == (damage is garble)
    assert ("cannot be used" in capsys.readouterr().err) == (damage is garble)


# Real trainings.


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """A search with real trainings, interrupted in the last epoch of a trial."""
    output = tmp_path_factory.mktemp("search")
    arguments = {"space": {"filters": [4]}, "trials": 1, "epochs": 2, "batch_size": 48}
    arguments |= {"build": build, "learning_rate": 0.03, "output": output}

    def interrupt():
        raise KeyboardInterrupt

    with without_timing():
        with within_epoch(2, interrupt), pytest.raises(KeyboardInterrupt):
            run(**arguments)
        with count_epochs() as fit:
            result = run(**arguments)
    return result, output, fit.call_count


def test_a_search_resumes_within_a_trial_and_ends_with_a_comparison(found):
    result, output, epochs = found
    assert epochs == 1 + 2  # the last epoch of the trial, and the best net
    assert [trial.outcome for trial in result.trials] == ["trained"]
    (row,) = result.rows
    assert row.params == build("separable", **result.best().choices).count_params()
    model = keras.models.load_model(output / "best" / "separable.keras")
    x, y = DATA["test"]
    accuracy = np.mean(model.predict(x, verbose=0).argmax(-1) == y)
    assert row.accuracy["mean"] == pytest.approx(accuracy, abs=1e-5)
    assert result.budget["trials"] == 1


def test_the_search_does_not_use_the_test_part():
    data = changed("test", x=lambda x: np.full_like(x, np.nan), y=np.zeros_like)
    with by_formula() as trainings:
        run(data=data, trials=1)
    assert all(np.isfinite(x).all() for x, _ in trainings.parts.values())
    assert np.array_equal(trainings.parts["val"][0], DATA["val"][0])


# The record.


def test_the_record_loads_again_and_says_what_was_done(found):
    result, output, _ = found
    assert Search.load(output) == result
    assert (output / "search.png").stat().st_size > 1000
    report = (output / "search.md").read_text("utf-8")
    assert result.to_markdown() in report
    assert "Space: filters: 4. Limits: none." in report
    assert "1 nets trained for 2 epochs in all" in report
    (output / "search.json").rename(output / "other.json")
    with pytest.raises(FileNotFoundError, match="`search` writes it"):
        Search.load(output)
    (output / "other.json").rename(output / "search.json")


def test_the_front_has_no_net_that_another_one_beats():
    with by_formula():
        result = run(trials=8)
    front = result.front("macs")
    assert [trial.costs["macs"] for trial in front] == sorted(macs_of(trial) for trial in front)
    assert front[-1] == result.best()
    with pytest.raises(ValueError, match="`cost` must be"):
        result.front("int8_bytes")
    with pytest.raises(ValueError, match="`conv` must be"):
        result.best("standard")


def test_the_command_shows_a_search(found, capsys):
    result, output, _ = found
    assert cli.main(["search", str(output)]) == 0
    assert str(result) in capsys.readouterr().out


# What it refuses.


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"space": {}}, "`space` must map"),
        ({"space": [1]}, "`space` must map"),
        ({"space": {"conv": [1]}}, "arguments of `build` other than 'conv'"),
        ({"space": {"filters": 8}}, "The values of 'filters' in `space` must be a list"),
        ({"space": {"filters": []}}, "The values of 'filters'"),
        ({"space": {"filters": [3, 3]}}, "The values of 'filters'"),
        ({"space": {"filters": [object()]}}, "The values of 'filters'"),
        ({"space": {"filters": (8, 8)}}, "The values of 'filters'"),
        ({"space": {"filters": (1, 2, 3)}}, "The values of 'filters'"),
        ({"space": {"filters": (1.0, math.inf)}}, "The values of 'filters'"),
        ({"space": {"filters": range(8, 8)}}, "The values of 'filters'"),
        ({"space": {"filters": [1], "depth": [1]}}, "the names in `space` as keywords"),
        ({"trials": 0}, "trials"),
        ({"limits": {"infer_ms": 1}}, "`limits` must map any of 'macs'"),
        ({"convs": "standard-narrow"}, "`convs` must be names of ('separable', 'standard')"),
        ({"stop_early": 1}, "`stop_early` must be"),
        ({"epochs": 0}, "epochs"),
        ({"build": None}, "`build` must be a function"),
        ({"build": lambda conv, **choices: None}, "must return a Keras model"),
    ],
)
def test_a_bad_argument_is_an_early_error(changes, message):
    with count_epochs() as fit, pytest.raises(ValueError, match=re.escape(message)):
        run(**changes)
    assert fit.call_count == 0


def test_an_unknown_argument_is_named():
    with pytest.raises(TypeError, match="`search` got an unexpected argument 'epoch'"):
        run(epoch=1)


def test_a_missing_optuna_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ImportError, match=r"`search` needs.*sepconv-layers\[search\]"):
        run()
