"""Words in long recordings: the detector, its figures, and what the net hears on the way there."""

import dataclasses
import json
import sys
from importlib.util import find_spec
from types import SimpleNamespace
from unittest import mock

import keras
import numpy as np
import pytest

from examples.audio import (
    detection,
    features,
    listen,
    listening,
    micro_features,
    recording,
    train,
)
from examples.audio.detector import (
    Detection,
    Detector,
    Errors,
    Settings,
    Spoken,
    det_curve,
    detections,
    errors,
    operating_point,
)
from sepconv_layers import files
from tests.backends import BACKEND
from tests.test_audio import tone

CLASSES = ["high", "low", "silence", "unknown"]
STEP = 0.04
RATE = 8_000


def drawn_probabilities(seed, steps=3000):
    """Probabilities that rise and fall slowly, so that there are words in them."""
    rng = np.random.default_rng(seed)
    logits = np.cumsum(rng.normal(size=(steps, len(CLASSES))), 0)
    odds = np.exp(logits - logits.max(1, keepdims=True))
    return odds / odds.sum(1, keepdims=True)


def expected_detections(probabilities, settings):
    """The definition, step by step."""
    window, pause = round(settings.smoothing / STEP), round(settings.suppression / STEP)
    found, quiet_until = [], 0
    for step in range(len(probabilities)):
        last = probabilities[max(0, step + 1 - window) : step + 1]
        mean = last.sum(0) / window
        word = int(mean[:2].argmax())  # neither silence nor unknown
        if step >= quiet_until and mean[word] >= settings.threshold:
            found.append((step, CLASSES[word], mean[word]))
            quiet_until = step + pause
    return found


@pytest.mark.parametrize("seed", range(5))
def test_a_detector_reports_what_its_definition_says(seed):
    probabilities = drawn_probabilities(seed)
    settings = Settings(threshold=(0.3, 0.6, 0.9)[seed % 3], smoothing=0.2, suppression=0.4)
    expected = expected_detections(probabilities, settings)
    assert len(expected) > 3
    detector = Detector(CLASSES, STEP, settings)
    live = [one for step, row in enumerate(probabilities) if (one := detector(step, row))]
    for found in (live, detections(probabilities, CLASSES, STEP, settings)):
        assert [(one.word, round(one.seconds / STEP) - 1) for one in found] == [
            (word, step) for step, word, _ in expected
        ]
        np.testing.assert_allclose(
            [one.probability for one in found], [mean for *_, mean in expected]
        )


def test_errors_are_counted_word_by_word():
    said = [Spoken(1, 2, "high"), Spoken(3, 4, "low"), Spoken(6, 7, "high"), Spoken(9, 10, "low")]
    found = [
        Detection(0.5, "high", 1),  # too early
        Detection(2.4, "high", 1),  # within the tolerance
        Detection(2.5, "high", 1),  # a second time
        Detection(3.5, "high", 1),  # another word
        Detection(3.9, "low", 1),
        Detection(7.6, "high", 1),  # too late
    ]
    counted = errors(found, said, 1800, 0.5)
    assert (counted.false_accepts, counted.false_rejects, counted.said) == (4, 2, 4)
    assert counted.false_accepts_per_hour == 8
    assert counted.false_reject_rate == 0.5
    assert errors([], [], 1800, 0.5).false_reject_rate == 0


def test_words_close_together_are_both_found():
    said = [Spoken(1, 2, "high"), Spoken(2.1, 3.1, "low")]
    found = [Detection(2.2, "high", 1), Detection(2.9, "low", 1)]
    assert errors(found, said, 60, 0.5).false_accepts == 0
    assert errors(found, said, 60, 0.5).false_rejects == 0


def test_a_curve_trades_false_accepts_for_false_rejects():
    probabilities = drawn_probabilities(0, 5000)
    said = [Spoken(one.seconds - 0.5, one.seconds, one.word) for one in
            detections(probabilities, CLASSES, STEP, Settings(0.8))]  # fmt: skip
    curve = det_curve(probabilities, said, CLASSES, STEP, 200, [0.2, 0.5, 0.8, 0.99])
    assert [one.threshold for one in curve] == [0.2, 0.5, 0.8, 0.99]
    assert (curve[2].false_accepts, curve[2].false_rejects) == (0, 0)
    assert curve[0].false_accepts > 0 < curve[3].false_rejects
    assert operating_point(curve) == curve[2]
    hopeless = [Errors(0.1, 9, 0, 9, 1.0), Errors(0.2, 5, 3, 9, 1.0)]
    assert operating_point(hopeless) == hopeless[1]


@pytest.mark.parametrize("name", ["threshold", "smoothing", "suppression"])
def test_bad_settings_are_named(name):
    for value in (-0.1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=f"`{name}` must be 0 or more"):
            Settings(**{name: value})


def clips_of(words, rate=RATE, seconds=0.5):
    settings = features.Settings(rate, seconds)
    sounds = [tone("noise" if word == "silence" else word, n, seconds, rate) for n, word in
              enumerate(words)]  # fmt: skip
    classes = sorted(set(words))
    labels = np.array([classes.index(word) for word in words])
    x = np.stack([features.log_mel(np.float32(sound), settings) for sound in sounds])
    return SimpleNamespace(
        train=(x, labels),
        test=(x, labels),
        classes=tuple(classes),
        settings=settings,
        waveforms=lambda count: np.stack(sounds[:count]).astype("float32"),
    )


def test_a_recording_has_each_clip_where_it_says():
    made = recording.make(clips_of(["high", "low"] * 4 + ["silence"] * 2), 0.01, seed=3)
    whole = np.concatenate(list(made.pieces()))
    assert len(whole) == made.samples == 36 * RATE
    rest = whole - made.noise[np.arange(len(whole)) % len(made.noise)]
    assert [one.word for one in made.spoken].count("high") == 4
    for one, clip in zip(made.spoken, made.clips, strict=True):
        start, end = round(one.start * RATE), round(one.end * RATE)
        np.testing.assert_allclose(rest[start:end], clip, atol=1e-6)
        rest[start:end] = 0
    assert np.abs(rest).max() < 1e-6
    gaps = np.diff([one.start for one in made.spoken])
    assert gaps.min() >= 0.5 + recording.SHORTEST_PAUSE - 1e-9
    with pytest.raises(ValueError, match="`hours` must be .* or more, for 8 clips"):
        recording.make(clips_of(["high", "low"] * 4), 0.002)


def test_frames_of_pieces_are_the_frames_of_the_whole():
    settings = features.Settings(RATE)
    waveform = np.float32(tone("high", 0, 2.0))
    frames = listening.Frames(settings)
    pieces = np.split(waveform, [10, 400, 900, 7_000, 7_001])
    np.testing.assert_allclose(
        np.concatenate([frames(piece) for piece in pieces]),
        features.log_mel(waveform, settings),
        atol=1e-4,
    )


def run_of(folder, clips, causal=True):
    """A run with a net that is sure of what it says, without training."""
    keras.utils.set_random_seed(0)
    model = train.build("separable", "ds_cnn", clips.train[0], 3, width=0.25, causal=causal)
    *first, kernel, bias = model.get_weights()
    logits = model.predict(clips.train[0], verbose=0)
    scale = 4 / logits.std(0)
    model.set_weights([*first, kernel * scale, -logits.mean(0) * scale])
    model.save(folder / "separable.keras")
    about = {"classes": list(clips.classes), "sample_rate": RATE,
             "samples": clips.settings.samples, "scale": 1}  # fmt: skip
    files.write_text(folder / "separable-waveform.json", json.dumps(about))
    return model


@pytest.fixture(scope="module")
def words():
    return clips_of(["high", "low", "silence"] * 8)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="the exports are made of TensorFlow graphs")
def test_the_int8_file_of_a_step_hears_the_words(words, tmp_path, capsys, monkeypatch):
    from examples.audio import steps

    model = run_of(tmp_path, words)
    found = SimpleNamespace(
        rows=[SimpleNamespace(conv="separable", artifacts={})],
        models={"separable": model},
        notes=[],
    )
    steps.export_steps(found, ("litert", "int8", "onnx"), words, tmp_path)
    record = found.rows[0].artifacts
    accuracy = np.mean(model.predict(words.test[0], verbose=0).argmax(-1) == words.test[1])
    assert accuracy == record["streaming"]["accuracy"]
    assert record["streaming"]["agreement"] == 1
    assert record["int8-streaming"]["agreement"] > 0.8
    assert record["int8-streaming"]["bytes"] < record["streaming"]["bytes"]
    assert len(found.notes) == 2

    listener = listening.Listener(tmp_path)
    assert listener.path.name == "separable-int8-streaming.tflite"
    assert listener.step_seconds == 0.04
    load = mock.create_autospec(detection.data.load, return_value=words)
    monkeypatch.setattr(detection.data, "load", load)
    wav = tmp_path / "long.wav"
    options = ["--smoothing", "0.1", "--suppression", "0.4"]
    curve = detection.main([str(tmp_path), "--hours", "0.02", "--wav", str(wav), *options])
    rejects = [one.false_rejects for one in curve]
    assert rejects == sorted(rejects) and {one.said for one in curve} == {16}
    best = operating_point(curve)
    about = json.loads((tmp_path / "separable-int8-streaming-det.json").read_text("utf-8"))
    assert about["best"] == dataclasses.asdict(best)
    assert (tmp_path / "separable-int8-streaming-det.png").is_file()

    capsys.readouterr()
    heard = listen.main([str(tmp_path), str(wav), "--threshold", "0.5", *options])
    assert len(heard) > 3
    assert len(capsys.readouterr().out.splitlines()) == len(heard)
    lines = wav.with_suffix(".tsv").read_text("utf-8").splitlines()
    said = [Spoken(float(start), float(end), word) for start, end, word in
            (line.split("\t") for line in lines)]  # fmt: skip
    again = errors(heard, said, 72, 0.5)
    (once,) = (one for one in curve if one.threshold == 0.5)
    assert abs(again.false_rejects - once.false_rejects) <= 2  # 16 bits round the samples
    assert abs(again.false_accepts - once.false_accepts) <= 4


def test_any_other_net_hears_the_last_clip(words, tmp_path):
    model = run_of(tmp_path, words, causal=False)
    listener = listening.Listener(tmp_path / "separable.keras")
    waveform = np.float32(tone("low", 1, 1.0))
    heard = [pair for piece in np.split(waveform, 10) for pair in listener(piece)]
    assert heard[0][0] == listener.first
    frames = features.log_mel(waveform, words.settings)
    for step, odds in heard:
        end = (step + 1) * listener.chunk
        clip = frames[end - words.settings.frames : end]
        logits = model.predict_on_batch(clip[None])
        np.testing.assert_allclose(odds, listening.softmax(logits)[0], atol=1e-4)


def test_the_microphone_needs_its_package(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    with pytest.raises(SystemExit):
        listen.main([str(tmp_path), "--microphone"])
    assert "pip install 'sepconv-layers[listen]'" in capsys.readouterr().err


def test_what_the_microphone_hears_is_shown(monkeypatch, capsys):
    class Stream:
        def __init__(self, rate, block, channels, dtype, callback):
            assert (rate, block, channels, dtype) == (RATE, RATE // 10, 1, "int16")
            self.callback, self.block = callback, block

        def __enter__(self):
            for level in (2**14, -(2**14)):
                self.callback(np.full((self.block, 1), level, "int16"), self.block, None, None)

        def __exit__(self, *error):
            pass

    module = SimpleNamespace(InputStream=Stream, PortAudioError=OSError)
    monkeypatch.setitem(sys.modules, "sounddevice", module)
    blocks = listen.microphone(RATE)
    assert [next(blocks)[0] for _ in range(2)] == [0.5, -0.5]

    odds = np.array([0.9, 0.1, 0.0, 0.0])
    steps = iter([[(0, odds), (1, odds)], [(2, odds)], []])

    class Listener(SimpleNamespace):
        def __call__(self, piece):
            return next(steps)

    listener = Listener(classes=CLASSES, step_seconds=0.1)
    heard = listen._show_words(
        listener, iter([np.ones(9)] * 3), Settings(0.8, 0.1, 1.0), is_live=True
    )
    assert [(one.word, round(one.seconds, 3)) for one in heard] == [("high", 0.1)]
    shown = capsys.readouterr().out
    assert "0.10 s  high 0.90" in shown and "high #########" in shown


def test_a_missing_or_foreign_model_is_named(tmp_path):
    with pytest.raises(ValueError, match="The model must be"):
        listening.Listener(tmp_path / "none")
    (tmp_path / "net.onnx").touch()
    with pytest.raises(ValueError, match=r"-int8-streaming.tflite"):
        listening.Listener(tmp_path / "net.onnx")


MICRO = pytest.mark.skipif(find_spec("pymicro_features") is None, reason="needs pymicro-features")


@MICRO
def test_features_in_integers_are_those_of_any_pieces():
    settings = micro_features.settings(1.0)
    waveform = np.float32(tone("high", 0, 1.0, settings.sample_rate))
    whole = micro_features.log_mel(waveform)
    assert whole.shape == (settings.frames, settings.bands) == (49, 40)
    assert (whole * 25.6 == np.round(whole * 25.6)).all()  # integers, divided by 25.6
    frames = micro_features.MicroFrames()
    pieces = np.split(waveform, [100, 101, 5_000, 12_345])
    np.testing.assert_array_equal(np.concatenate([frames(piece) for piece in pieces]), whole)
    loud = whole.mean(0).argmax()  # the band of 1,500 Hz, of 125 to 7,500 Hz on the mel scale
    mel = 1127 * np.log1p(np.array([125, 1500, 7500]) / 700)
    assert abs(loud - 41 * (mel[1] - mel[0]) / (mel[2] - mel[0])) < 3


@MICRO
def test_a_net_of_features_in_integers_listens(tmp_path):
    settings = micro_features.settings(0.5)
    waveform = np.float32(tone("low", 1, 2.0, settings.sample_rate))
    x = micro_features.log_mel(waveform)
    keras.utils.set_random_seed(0)
    clips = np.stack([x[: settings.frames]])
    train.build("separable", "ds_cnn", clips, 2, width=0.25).save(tmp_path / "separable.keras")
    about = {"classes": ["a", "b"], "sample_rate": settings.sample_rate,
             "samples": settings.samples, "scale": 1, "front_end": "micro"}  # fmt: skip
    files.write_text(tmp_path / "separable-waveform.json", json.dumps(about))
    listener = listening.Listener(tmp_path / "separable.keras")
    heard = [pair for piece in np.split(waveform, 10) for pair in listener(piece)]
    assert len(heard) == len(x) // listener.chunk - listener.first


def test_features_in_integers_need_their_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "pymicro_features", None)
    with pytest.raises(ImportError, match=r"pip install 'sepconv-layers\[listen\]'"):
        micro_features.MicroFrames()
