"""The examples of conversion, on little data."""

import json

import keras
import numpy as np
import pytest

from examples import conversion, nets
from examples.audio import convert as audio
from examples.text import convert as text
from examples.vision import convert as vision
from examples.vision import train
from sepconv_layers import profile, timing
from tests.test_comparison import no_training, without_timing

# The functions themselves, which most tests replace.
infer_ms, litert_ms = conversion.infer_ms, conversion.litert_ms
TINY = ["--epochs", "1", "--width", "0.25", "--limit", "60", "--no-jit-compile"]


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(nets, "HALVINGS", 1)
    monkeypatch.setattr(train, "STAGES", train.STAGES[:1])
    for name in ("infer_ms", "litert_ms"):
        monkeypatch.setattr(conversion, name, lambda models, *_: [1.0] * len(models))
    with without_timing():
        yield


@pytest.mark.filterwarnings("ignore:The pruned model has")  # few channels, few numbers of MACs
def test_a_net_is_converted_adapted_and_compared(tmp_path, capsys):
    argv = [*TINY, "--macs", "0.1", "--output", str(tmp_path)]
    points = vision.main(argv)
    original, *others = points
    assert [point.kind for point in points] == list(conversion.COLORS)
    for point in others[:2]:  # fewer MACs than separable kernels alone have
        assert point.macs <= 0.1 * original.macs
        assert len(point.per_seed) == 1 and 0 <= point.per_seed[0] <= 1
    assert {point.epochs for point in others} == {1, 2}
    record = json.loads((tmp_path / "conversion.json").read_text("utf-8"))
    assert record["command"].startswith("python -m examples.vision.convert --epochs 1 ")
    assert [conversion.Point(**point) for point in record["points"]] == points
    adapted = keras.saving.load_model(tmp_path / "adapted-0.1-seed-0.keras")
    assert profile(adapted).macs == points[2].macs
    table = (tmp_path / "conversion.md").read_text("utf-8")
    assert table == f"{conversion.markdown(record)}\n"
    assert all(point.accuracy in table for point in points)
    assert (tmp_path / "conversion.png").read_bytes()[:4] == b"\x89PNG"
    assert "Saved in" in capsys.readouterr().out
    with no_training():
        assert vision.main(argv) == points  # nothing is trained again


@pytest.mark.parametrize("example", [audio, text])
def test_every_kind_of_data_has_such_an_example(example, tmp_path, monkeypatch):
    def untrained(trials, name, conv, width, epochs, seed):
        return trials.experiment.build(conv, width=width)

    monkeypatch.setattr(conversion.Trials, "_trained", untrained)
    pytest.importorskip({audio: "librosa", text: "tensorflow_text"}[example])
    points = example.main([*TINY, "--macs", "0.5", "--output", str(tmp_path)])
    assert [point.kind for point in points] == list(conversion.COLORS)
    assert points[2].macs <= 0.5 * points[0].macs
    assert all(np.isfinite(point.per_seed).all() for point in points)


def test_nets_take_turns_and_count_in_their_fastest_mode(monkeypatch):
    times = iter([4.0, 2.0, 1.0, 3.0])
    timed = []

    def medians(calls):
        timed.extend(calls)
        assert all(call().shape == (2, 3) for call in calls.values())
        return {key: next(times) for key in calls}

    monkeypatch.setattr(timing, "MODES", {keras.backend.backend(): {"a": False, "b": 0}})
    monkeypatch.setattr(timing, "medians", medians)
    nets = [keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)]) for _ in range(2)]
    assert infer_ms(nets, np.ones((2, 4), "float32")) == [2.0, 1.0]
    assert timed == [(0, "a"), (0, "b"), (1, "a"), (1, "b")]


def test_files_take_turns_where_there_are_any(monkeypatch):
    def medians(calls):
        assert [call()[0].shape for call in calls.values()] == [(1, 3), (1, 2)]
        return dict(zip(calls, [2.0, 1.0], strict=True))

    monkeypatch.setattr(timing, "medians", medians)
    nets = [keras.Sequential([keras.Input((4,)), keras.layers.Dense(units)]) for units in (3, 2)]
    sample = np.ones((1, 4), "float32")
    if keras.backend.backend() == "tensorflow":
        assert list(litert_ms(nets, sample)) == [2.0, 1.0]
    monkeypatch.setattr(conversion.importlib.util, "find_spec", lambda name: None)
    assert litert_ms(nets, sample) == [None, None]


@pytest.mark.parametrize("macs", ["1", "0", "0.5,x", "-0.1"])
def test_shares_that_are_none_are_refused(macs, capsys):
    with pytest.raises(SystemExit, match="2"):
        vision.main(["--macs", macs])
    assert "--macs" in capsys.readouterr().err
