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
from sepconv_layers import profile
from tests.test_comparison import no_training, without_timing

TINY = ["--epochs", "1", "--width", "0.25", "--limit", "60", "--no-jit-compile"]


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(nets, "HALVINGS", 1)
    monkeypatch.setattr(train, "STAGES", train.STAGES[:1])
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


@pytest.mark.parametrize("macs", ["1", "0", "0.5,x", "-0.1"])
def test_shares_that_are_none_are_refused(macs, capsys):
    with pytest.raises(SystemExit, match="2"):
        vision.main(["--macs", macs])
    assert "--macs" in capsys.readouterr().err
