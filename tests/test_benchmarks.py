"""Every benchmark's command on little work: it runs, and its record holds what its table says."""

import json
import types

import pytest

from benchmarks import (
    batch_norm_momentum,
    compile_time,
    examples,
    harness,
    layers,
    lowerings,
    mobilenet,
    nets,
    scaling,
    streaming,
)
from sepconv_layers import timing
from tests.backends import BACKEND, SHORT
from tests.test_comparison import without_timing

BLOCKS = ((8, 2), (12, 1))
MODES = timing.MODES[BACKEND]
pytestmark = pytest.mark.skipif(SHORT, reason="the suite of one backend runs them")


def run(benchmark, path, *arguments):
    """The rows of a brief run on this backend, once its files are seen to be there."""
    brief = ["--backends", BACKEND, "--seconds", "0.001", "--turns", "1", "--output", str(path)]
    record = harness.main(benchmark, [*arguments, *brief])
    (saved,) = path.glob(f"{benchmark.NAME}-*.json")
    assert json.loads(saved.read_text("utf-8")) == json.loads(json.dumps(record))
    assert saved.with_suffix(".png").stat().st_size > 5000
    assert record["command"].startswith(f"python -m benchmarks.{benchmark.NAME} ")
    assert {"keras", BACKEND} <= set(record["versions"])
    return record["rows"]


def in_one_mode(monkeypatch):
    """All modes are in `compile_time`; what XLA compiles for each shape would take long here."""
    monkeypatch.setitem(timing.MODES, BACKEND, dict(list(MODES.items())[:1]))


def test_an_interrupted_run_goes_on(tmp_path):
    measured, fails = [], {"b"}

    def measure(cell, arguments):
        measured.append(cell)
        if cell in fails:
            raise KeyboardInterrupt
        return [{"cell": cell}]

    benchmark = types.SimpleNamespace(
        NAME="letters",
        add_arguments=lambda parser: parser.add_argument("--last", default="c"),
        cells=lambda arguments: ["a", "b", arguments.last],
        measure=measure,
        table=str,
        draw=lambda figure, rows: figure.subplots().plot(range(99), range(99)),
    )
    with pytest.raises(KeyboardInterrupt):
        run(benchmark, tmp_path)
    fails.clear()
    assert [row["cell"] for row in run(benchmark, tmp_path)] == ["a", "b", "c"]
    assert measured == ["a", "b", "b", "c"]
    assert not list(tmp_path.glob("*unfinished*"))

    fails.add("b")
    with pytest.raises(KeyboardInterrupt):
        run(benchmark, tmp_path)
    fails.clear()
    measured.clear()
    run(benchmark, tmp_path, "--last", "d")
    assert measured == ["a", "b", "d"]  # another command begins anew


def test_a_setting_is_an_environment_of_another_process(tmp_path, monkeypatch):
    made = []

    def in_process_of(backend, benchmark, argv, setting, environment):
        made.append((backend, setting, environment))
        return {"device": "cpu", "versions": {}, "rows": [{"cell": setting}]}

    monkeypatch.setattr(harness, "_in_process_of", in_process_of)
    benchmark = types.SimpleNamespace(
        NAME="letters",
        SETTINGS={BACKEND: {"huge pages": {"PAGES": "huge"}}},
        add_arguments=lambda parser: None,
        cells=lambda arguments: ["a"],
        measure=lambda cell, arguments: [{"cell": cell}],
        table=str,
        draw=lambda figure, rows: figure.subplots().plot(range(99), range(99)),
    )
    assert [row["cell"] for row in run(benchmark, tmp_path)] == ["a", "huge pages"]
    assert made == [(BACKEND, "huge pages", {"PAGES": "huge"})]

    path = tmp_path / "part.json"
    measured = {"cell": "a", "mode": "xla"}
    benchmark.measure = lambda cell, arguments: [measured]
    how = ["--backends", BACKEND, "--output", str(tmp_path), "--part-to", str(path)]
    harness.main(benchmark, [*how, "--setting", "huge pages"])
    (row,) = json.loads(path.read_text("utf-8"))["rows"]
    assert row == {**measured, "mode": "xla, huge pages"}


def test_lowerings(tmp_path, monkeypatch, capsys):
    in_one_mode(monkeypatch)
    rank = 3  # which has every lowering
    shape = (2, *(8, 7, 6)[:rank], 4)
    monkeypatch.setattr(lowerings, "TABLE", {rank: [(shape, (2,))]})
    monkeypatch.setattr(lowerings, "HELD_OUT", {rank: [((1, *shape[1:]), (2,))]})
    rows = run(lowerings, tmp_path, "--ranks", str(rank))
    assert len(rows) == 5  # two strides of two shapes, and half precision
    for row in rows:
        assert row["forward_ms"]["taps"] > 0 and row["both_ms"]["auto"] > 0
        assert lowerings.loss(row, "forward_ms") > 0
    assert f"| {rank}D |" in capsys.readouterr().out


def test_nets_agree_on_their_cost(tmp_path, monkeypatch, capsys):
    in_one_mode(monkeypatch)
    monkeypatch.setattr(mobilenet, "FILTERS_AND_STRIDES", BLOCKS)
    rows = run(nets, tmp_path, "--size", "16", "--batch-size", "2", "--width", "0.5")
    separable, theirs = (
        {row["macs"] for row in rows if row["net"] == net} for net in ("separable", "keras.layers")
    )
    assert separable == theirs and len(separable) == 1
    for gain in nets.gains(rows):
        assert gain["mac_ratio"] > 1
        assert gain["speedup"] == pytest.approx(gain["standard_ms"] / gain["ms"])
        assert gain["realized"] == pytest.approx(gain["best_speedup"] / gain["mac_ratio"])
    others = {"tensorflow": "LiteRT separable", "torch": "PyTorch separable"}
    assert others.get(BACKEND, "separable") in {row["net"] for row in rows}
    assert "inference" in capsys.readouterr().out


def test_nets_in_other_libraries_give_the_outputs_that_they_should(monkeypatch):
    import numpy as np

    monkeypatch.setattr(mobilenet, "FILTERS_AND_STRIDES", BLOCKS)
    if BACKEND != "tensorflow":
        pytest.skip("LiteRT files are made on TensorFlow")
    arguments = harness.make_parser(nets).parse_args(["--size", "16", "--width", "0.5"])
    x = np.random.default_rng(0).normal(size=(3, 16, 16, 3)).astype("float32")
    model = mobilenet.BUILDERS["separable"](arguments)
    np.testing.assert_allclose(
        mobilenet.in_litert(model, x)(), model.predict_on_batch(x), atol=1e-5
    )


def test_nets_of_the_examples(tmp_path, monkeypatch, capsys):
    in_one_mode(monkeypatch)
    monkeypatch.setitem(examples.SHAPES, "sounds", (11, 40))
    rows = run(examples, tmp_path, "--batch-size", "2", "--nets", "sounds", "texts")
    places = {BACKEND, "litert"} if BACKEND == "tensorflow" else {BACKEND}
    assert set(examples.gains(rows)) == {
        (net, place, kind)
        for net in ("sounds", "texts")
        for place in places
        for kind in ("infer", "train")
        if (place, kind) != ("litert", "train")
    }
    assert min(examples.mac_ratios(rows).values()) > 2
    assert "| texts |" in capsys.readouterr().out


def test_layers(tmp_path, monkeypatch, capsys):
    in_one_mode(monkeypatch)
    grid = [((1, *(8, 7, 6)[:rank], 4), 6, 3, 1, 2) for rank in (1, 2, 3)]
    monkeypatch.setattr(layers, "GRID", grid)
    rows = run(layers, tmp_path)
    assert {row["rank"] for row in rows} == {1, 2, 3}
    for row in layers.ratios(rows):
        taps = 3 ** row["rank"]
        assert row["mac_ratio"] == pytest.approx(taps * 6 / (2 * (taps + 6)))
        assert row["keras", "forward"] > 0 and row["standard", "both"] > 0
    assert "`keras.layers` ÷ ours" in capsys.readouterr().out


def test_compile_time(tmp_path, monkeypatch):
    monkeypatch.setattr(mobilenet, "FILTERS_AND_STRIDES", BLOCKS[:1])
    tiny = ["--size", "8", "--batch-size", "1", "--width", "0.1", "--kernels", "1"]
    rows = run(compile_time, tmp_path, *tiny)
    assert {row["what"] for row in rows} == {*mobilenet.BUILDERS, "depthwise 3"}
    assert all(row["seconds"] >= 0 for row in rows)


def test_scaling(tmp_path, monkeypatch):
    assert scaling._peak_of_process("separable", {**scaling.POINT, "width": 8}) >= 0
    monkeypatch.setattr(scaling, "_peak_of_process", scaling.peak)
    rows = run(scaling, tmp_path, "--axes", "batch", "--values", "2", "--scale", "8")
    separable = [row for row in rows if row["conv"] == "separable"]
    assert [row["value"] for row in separable] == list(scaling.AXES["batch"][:2])
    assert scaling.exponent(separable, "macs") == pytest.approx(1)


def test_batch_norm_momentum(tmp_path, monkeypatch):
    monkeypatch.setattr(batch_norm_momentum, "MOMENTA", (0.9,))
    path = tmp_path / "new" / "record.json"
    record = batch_norm_momentum.main(["--seeds", "1", "--steps", "1", "2", "--output", str(path)])
    assert json.loads(path.read_text("utf-8"))["steps"] == record["steps"] == [1, 2]
    assert all(0 <= accuracy <= 1 for accuracy in record["val_accuracy"][0.9])


def test_streaming(tmp_path, monkeypatch):
    monkeypatch.setattr(streaming, "SECONDS", 0.01)
    monkeypatch.setattr(streaming, "BATCH_SIZE", 8)
    place, cache = str(tmp_path / "record"), str(tmp_path / "cache")
    with without_timing():
        record = streaming.main(
            ["recordings", "--count", "48", "--cache", cache, "--output", place]
        )
    (saved,) = (tmp_path / "record").iterdir()
    assert json.loads(saved.read_text("utf-8")) == record and record["samples"] == 48
    assert record["input_per_step"] > 0 and len(list((tmp_path / "cache").iterdir())) == 1
