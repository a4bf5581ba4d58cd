"""The audio example: its data, its front end, and its commands from recordings to words."""

import dataclasses
import json
import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import keras
import numpy as np
import pytest
import soundfile

from examples.audio import augment, data, features, folds, predict, reading, splits, train
from examples.folders import files_below
from sepconv_layers import timing
from sepconv_layers.comparison import Comparison, Frontier, Row, SizedRow
from tests.test_comparison import without_timing

WORDS = ("high", "low")
RATE = 8_000


def tone(word, seed, seconds=0.5, rate=RATE):
    """A word that is not hard to tell from the other one."""
    rng = np.random.default_rng(seed)
    time = np.arange(round(seconds * rate)) / rate
    pitch = {"high": 1500, "low": 300, "noise": 60}[word] * rng.uniform(0.9, 1.1)
    return 0.3 * np.sin(2 * np.pi * pitch * time) + 0.02 * rng.normal(size=len(time))


def write_words(folder, names, suffix="wav", **how):
    for word in WORDS:
        (folder / word).mkdir(parents=True, exist_ok=True)
        for seed, name in enumerate(names):
            path = folder / word / f"{name}.{suffix}"
            soundfile.write(path, tone(word, seed, **how), how.get("rate", RATE))
    return folder


@pytest.fixture(autouse=True)
def _apart(monkeypatch, tmp_path):
    """A cache of its own, and no timing: how times are measured is not the matter here."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(timing, "SECONDS_PER_CALL", 0.01)  # of a stream
    with without_timing():
        yield


def speech():
    """Recordings of speech: real ones where they are at hand."""
    name = (
        "fsdd" if list(Path(os.environ.get("SEPCONV_DATA", "none")).glob("audio/free*")) else "mini"
    )
    clips, rate, _ = data.SOURCES[name](None, 0)
    settings = features.Settings(rate)
    sounds = [reading.middle(clip.source, rate, settings.samples) for clip in clips[::97]]
    return np.stack([data.fit_length(x.waveform, settings.samples) for x in sounds]), settings


def test_the_front_end_of_a_model_is_that_of_librosa():
    waveforms, settings = speech()
    offline = np.stack([features.log_mel(x, settings) for x in waveforms])
    assert offline.shape == (len(waveforms), settings.frames, settings.bands)
    inside = features.front_end(settings).predict(waveforms, verbose=0)
    # What is ten million times quieter than a frame's loudest band is rounding.
    energy, expected = np.exp(inside), np.exp(offline)
    loudest = expected.max(axis=-1, keepdims=True)
    assert (np.abs(energy - expected) < 1e-3 * expected + 1e-7 * loudest).all()


def test_the_cosine_transform_is_that_of_librosa():
    import scipy.fft

    x = np.random.default_rng(0).normal(size=(3, 40))
    expected = scipy.fft.dct(x, norm="ortho")[:, : features.COEFFICIENTS]
    np.testing.assert_allclose(x @ features.cosine_transform(40), expected, atol=1e-5)


@pytest.mark.parametrize("vary_speakers", [False, True])
def test_augmentation_changes_training_inputs_alone(vary_speakers):
    x = np.random.default_rng(0).normal(-3, 1, (4, 20, 8)).astype("float32")
    layer = augment.augmentation(x, vary_speakers)
    np.testing.assert_array_equal(np.asarray(keras.ops.convert_to_numpy(layer(x))), x)
    changed = keras.ops.convert_to_numpy(layer(x, training=True))
    assert changed.shape == x.shape and np.isfinite(changed).all()
    assert all(not np.allclose(one, other) for one, other in zip(changed, x, strict=True))
    again = layer.from_config(layer.get_config())
    assert again.get_config() == layer.get_config()


def changed_by(layer, x):
    return keras.ops.convert_to_numpy(layer(x, training=True))


def test_a_warp_moves_and_stretches_what_a_spectrogram_shows():
    at = np.arange(41, dtype="float32")
    bump = np.exp(-((at - 20) ** 2) / 18)
    x = np.tile(bump[:, None] * bump, (64, 1, 1))
    none = {"rate": 0, "frames": 0, "tract": 0, "bands": 0}
    np.testing.assert_allclose(changed_by(augment.Warp(**none), x), x, atol=1e-6)

    def moments(x, axis):
        share = x.sum(axis) / x.sum((1, 2))[:, None]
        middle = share @ at
        return middle, np.sqrt(np.sum(share * (at - middle[:, None]) ** 2, axis=1))

    for axis, shift, stretch in ((2, "frames", "rate"), (1, "bands", "tract")):
        moved = changed_by(augment.Warp(**none | {shift: 4.0}, seed=0), x)
        middle, width = moments(moved, axis)
        assert 1.5 < middle.std() < 3 and np.abs(middle - 20).max() < 4.1
        np.testing.assert_allclose(width, 3, atol=0.1)
        np.testing.assert_allclose(moments(moved, 3 - axis)[0], 20, atol=1e-3)
        wide = changed_by(augment.Warp(**none | {stretch: 0.2}, seed=0), x)
        middle, width = moments(wide, axis)
        np.testing.assert_allclose(middle, 20, atol=1e-3)
        assert 0.2 < np.ptp(np.log(width / 3)) < 0.42


def test_another_level_and_microphone_keep_ratios_within_a_band_and_digital_silence():
    floor = np.log(features.FLOOR)
    x = np.random.default_rng(0).uniform(5, 9, (16, 20, 40)).astype("float32")
    x[:, :5] = floor
    changed = changed_by(augment.Equalize(seed=0), x)
    np.testing.assert_allclose(changed[:, :5], floor, atol=1e-5)
    change = changed[:, 5:] - x[:, 5:]
    np.testing.assert_allclose(change, change[:, :1].repeat(15, 1), atol=1e-3)
    assert change[:, 0].mean(1).std() > 0.5  # the level
    assert change[:, 0].std(1).min() > 0.1  # the frequency response


def test_mini_holds_whole_voices_out():
    clips, *_ = data.SOURCES["mini"](None, 0)
    voices = {
        part: {re.search(r"\((.*)\)", clip.name)[1] for clip in clips if clip.part == part}
        for part in ("train", "val", "test")
    }
    assert min(map(len, voices.values())) >= 6
    assert sum(map(len, voices.values())) == len(set.union(*voices.values()))
    size = sum(path.stat().st_size for path in (Path(data.__file__).parent / "mini").iterdir())
    assert size < 3e6


@pytest.mark.parametrize(("suffix", "rate"), [("wav", 8_000), ("flac", 22_050), ("ogg", 16_000)])
def test_recordings_of_any_kind_and_length(tmp_path, suffix, rate):
    names = [f"speaker{i}_{take}" for i in range(6) for take in range(2)]
    folder = write_words(tmp_path / "words", names, suffix, seconds=0.3, rate=rate)
    long = np.stack([tone("high", 1, 2.0, rate)] * 2, axis=1)  # two channels
    soundfile.write(folder / "high" / f"speaker0_long.{suffix}", long, rate)
    dataset = data.load(folder=folder)
    assert dataset.classes == WORDS
    assert dataset.settings.sample_rate == min(rate, 16_000)
    sizes = [len(getattr(dataset, part)[1]) for part in ("train", "val", "test")]
    assert sum(sizes) == 25 and min(sizes) >= 4
    assert dataset.train[0].shape[1:] == (49, 40)


def test_whole_speakers_are_held_out(tmp_path):
    folder = write_words(tmp_path, [f"s{i}_{take}" for i in range(10) for take in range(2)])
    clips, *_ = splits.load_folder(folder, seed=0)
    speakers = {
        part: {splits.speaker_of(clip) for clip in clips if clip.part == part}
        for part in ("train", "val", "test")
    }
    assert {part: len(names) for part, names in speakers.items()} == {
        "train": 7, "val": 1, "test": 2
    }  # fmt: skip
    assert sum(map(len, speakers.values())) == 10 == len(set.union(*speakers.values()))


def test_a_folder_of_nothing_but_a_training_part_is_split(tmp_path):
    write_words(tmp_path / "words" / "train", [f"s{i}_0" for i in range(6)])
    dataset = data.load(folder=tmp_path / "words")
    assert dataset.classes == WORDS
    assert [len(getattr(dataset, part)[1]) for part in ("train", "val", "test")] == [8, 2, 2]


def test_lists_split_a_folder(tmp_path):
    folder = write_words(tmp_path, [f"s{i}_0" for i in range(6)], "flac")
    for name, speaker in (("validation", "s1"), ("testing", "s4")):
        lines = [f"{word}/{speaker}_0.wav" for word in WORDS]
        (folder / f"{name}_list.txt").write_text("\n".join(lines))
    dataset = data.load(folder=folder)
    assert [len(getattr(dataset, part)[1]) for part in ("train", "val", "test")] == [8, 2, 2]


def test_what_a_list_names_that_is_not_there_is_told(tmp_path):
    folder = write_words(tmp_path, ["anna 1_0", "s.2_0", *(f"s{i}_0" for i in range(4))])
    path = folder / "testing_list.txt"
    lines = [f"{word}/{name}_0.wav" for word in WORDS for name in ("anna 1", "s.2")]
    path.write_text("\r\n".join(lines + ["", "other/s1_0.wav", ""]), "utf-8-sig")
    clips, _, note = splits.load_folder(folder, seed=0)
    assert [clip.part for clip in clips if clip.name in lines] == ["test"] * 4
    assert note.endswith("held out: test by testing_list.txt, val word by word")
    for wrong in ("high/s9_0.wav", "s1_0.wav"):
        path.write_text(f"high/s1_0.wav\n{wrong}\n")
        with pytest.warns(UserWarning, match=f"testing_list.txt names 1 that .*'{wrong}'"):
            clips, *_ = splits.load_folder(folder, seed=0)
        assert [clip.name for clip in clips if clip.part == "test"] == ["high/s1_0.wav"]
    path.write_text("other/s1_0.wav\n")
    with pytest.raises(ValueError, match="testing_list.txt must name .*Received none"):
        splits.load_folder(folder, seed=0)
    path.write_text("high/s1_0.wav\n", "utf-16")
    with pytest.raises(ValueError, match="testing_list.txt must be text in UTF-8"):
        splits.load_folder(folder, seed=0)


def test_a_list_leaves_the_parts_that_are_given_as_they_are(tmp_path):
    write_words(tmp_path / "train", ["a", "b"])
    write_words(tmp_path / "test", ["c"])
    names = [f"train/{word}/b.wav" for word in WORDS]
    (tmp_path / "validation_list.txt").write_text("\n".join(names))
    clips, *_ = splits.load_folder(tmp_path, seed=0)
    assert {clip.part: Path(clip.name).stem for clip in clips} == {
        "train": "a", "val": "b", "test": "c"
    }  # fmt: skip


def test_a_word_that_a_list_leaves_no_training_clips_of_is_a_clear_error(tmp_path):
    folder = write_words(tmp_path, [f"s{i}_0" for i in range(4)])
    (folder / "validation_list.txt").write_text("high/s0_0.wav\nlow/s0_0.wav\n")
    names = ["high/s1_0.wav", *(f"low/s{i}_0.wav" for i in (1, 2, 3))]
    (folder / "testing_list.txt").write_text("\n".join(names))
    with pytest.raises(ValueError, match="train part must have .*Received none of .'low'."):
        data.load(folder=folder)


def of_names(names, words=WORDS):
    clips = [(f"{word}/{name.replace('WORD', word)}.wav", word) for word in words for name in names]
    return [data.Clip(name, word, "train", bytes) for name, word in clips]


def split_of(clips, tmp_path, seed=0):
    part_of, how = splits.hold_out(clips, tmp_path, ["test", "val"], seed)
    parts = {"train": set(), "val": set(), "test": set()}
    for clip in clips:
        parts[part_of.get(clip.name, "train")].add(clip.word)
    return parts, how


@pytest.mark.parametrize("names", [["WORD_00", "WORD_01", "WORD_02"], ["0", "1", "2", "3", "4"]])
def test_where_names_begin_with_no_speaker_words_are_split_one_by_one(tmp_path, names):
    words = {"one", "two", "three", "four", "five", "six"}
    parts, how = split_of(of_names(names, sorted(words)), tmp_path)
    assert parts == dict.fromkeys(parts, words)
    assert how == "held out: test and val word by word"


@pytest.mark.parametrize("seed", range(5))
def test_speakers_who_say_all_words_are_held_out_if_not_all_do(tmp_path, seed):
    clips = of_names([f"s{i}_0" for i in range(3)]) + of_names(["t0_0", "t1_0"], ["low"])
    parts, how = split_of(clips, tmp_path, seed)
    assert parts == dict.fromkeys(parts, set(WORDS))
    assert how == "held out: test and val by speaker"


def test_a_split_word_by_word_does_not_depend_on_the_hash_of_strings(tmp_path):
    class Word(str):
        def __hash__(self):
            return hashes.index(self)

    found = []
    names = [str(i) for i in range(30)]
    for order in (WORDS, WORDS[::-1]):
        hashes = order
        clips = of_names(names, [Word(word) for word in WORDS])
        found.append(splits.hold_out(clips, tmp_path, ["test", "val"], seed=0))
    assert found[0] == found[1]


def test_the_commonest_sample_rate_is_used(tmp_path):
    folder = write_words(tmp_path, ["b", "c", "d", "e"], rate=11_025)
    for name, rate in (("a", 1000), ("f", 44_100)):
        soundfile.write(folder / "high" / f"{name}.wav", np.zeros(rate), rate)
    assert splits.load_folder(folder, seed=0)[1] == 11_025
    for name in ("g", "h", "i", "j", "k", "l", "m", "n"):
        soundfile.write(folder / "low" / f"{name}.wav", np.zeros(4800), 48_000)
    assert splits.load_folder(folder, seed=0)[1] == 16_000


def test_recordings_in_hidden_folders_are_left_out_and_links_are_followed(tmp_path):
    folder = write_words(tmp_path / "words", ["a"])
    write_words(folder / "high" / ".trash", ["b"])
    write_words(tmp_path / "elsewhere", ["c"])
    (folder / "high" / "more").symlink_to(tmp_path / "elsewhere" / "high", True)
    (folder / "high" / "again").symlink_to(folder, True)
    found = files_below(folder / "high", reading.SUFFIXES)
    assert [path.relative_to(folder).as_posix() for path in found] == [
        "high/a.wav", "high/more/c.wav"
    ]  # fmt: skip


def test_what_cannot_be_read_is_named_and_skipped_and_the_rest_is_kept(tmp_path):
    folder = write_words(tmp_path / "words", [f"s{i}_0" for i in range(6)])
    (folder / "low" / "s0_broken.wav").write_bytes(b"RIFF no sound")
    soundfile.write(folder / "low" / "s1_empty.wav", np.zeros(0), RATE)
    skipped = {"match": r"Skipped 2 recordings.*s0_broken.wav: it cannot be [^<]+; .*s1_empty"}
    with pytest.warns(UserWarning, **skipped):
        dataset = data.load(folder=folder)
    assert len(dataset.train[1]) + len(dataset.val[1]) + len(dataset.test[1]) == 12
    (cached,) = (tmp_path / "cache" / "sepconv_layers" / "audio").glob("*.npz")
    before = cached.stat().st_mtime_ns
    with pytest.warns(UserWarning, **skipped):
        again = data.load(folder=folder)
    assert cached.stat().st_mtime_ns == before
    np.testing.assert_array_equal(again.train[0], dataset.train[0])
    soundfile.write(folder / "low" / "s1_0.wav", tone("low", 99), RATE)
    (folder / "low" / "s0_broken.wav").unlink()
    (folder / "low" / "s1_empty.wav").unlink()
    data.load(folder=folder)
    assert len(list(cached.parent.glob("*.npz"))) == 2  # other content, other spectrograms


def empty(folder):
    for word in WORDS:
        (folder / word).mkdir()


def one_word(folder):
    write_words(folder, ["a_0", "b_0"])
    for path in (folder / "low").iterdir():
        path.unlink()


def strange_words(folder):
    write_words(folder / "train", ["a_0"])
    write_words(folder / "test", ["b_0"])
    (folder / "test" / "high").rename(folder / "test" / "medium")


def unreadable(folder):
    for word in WORDS:
        (folder / word).mkdir()
        for name in ("a", "b", "c"):
            (folder / word / f"{name}.wav").write_bytes(b"no sound")


@pytest.mark.filterwarnings("ignore:Skipped")
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (empty, "must hold one folder of recordings for each word"),
        (one_word, "at least two"),
        (strange_words, "must have the words of the training part.*medium"),
        (unreadable, "recordings that can be decoded"),
    ],
)
def test_a_bad_folder_is_a_clear_error(tmp_path, make, message, capsys):
    folder = tmp_path / "words"
    folder.mkdir()
    make(folder)
    with pytest.raises(SystemExit, match="2"):
        train.main(["--data", str(folder)])
    assert re.search(message, capsys.readouterr().err.replace("\n", " "))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "nowhere"], "--data must be an existing folder of recordings.*nowhere"),
        (["--limit", "3"], "--limit must be at least the number of words, 8"),
        (["--speaker-independent"], "a split of --dataset fsdd"),
        (["--causal", "--net", "bc_resnet"], "--causal is for ds_cnn, keyword_resnet, matchboxnet"),
        (["--mfcc", "--net", "bc_resnet"], "--mfcc is not for bc_resnet"),
        (["--seconds", "0.01"], "--seconds must be 0.1 or more"),
        (["--epochs", "0"], "--epochs: must be positive"),
    ],
)
def test_a_bad_argument_is_a_clear_error(arguments, message, capsys):
    with pytest.raises(SystemExit, match="2"):
        train.main(arguments)
    assert re.search(message, capsys.readouterr().err.replace("\n", " "))


def test_a_missing_corpus_is_a_clear_error(monkeypatch, capsys):
    monkeypatch.delenv("SEPCONV_DATA", raising=False)
    with pytest.raises(SystemExit, match="2"):
        train.main(["--dataset", "speech_commands"])
    assert "SEPCONV_DATA" in capsys.readouterr().err


def test_the_hash_of_speech_commands_is_that_of_its_lists():
    root = Path(os.environ.get("SEPCONV_DATA", "none"))
    archives = list(root.glob("audio/speech_commands*.tar"))
    if not archives:
        pytest.skip("needs Speech Commands")
    with tarfile.open(archives[0]) as archive:
        base = archive.getnames()[0].split("/")[0]
        for part, name in splits.LISTS.items():
            listed = archive.extractfile(f"{base}/{name}").read().decode().split()
            assert {data.which_part(path) for path in listed} == {part}


def test_speech_commands_has_words_unknown_and_silence(tmp_path, monkeypatch):
    folder = tmp_path / "audio" / "speech_commands_v0.02"
    names = [f"{i:08x}_nohash_{take}" for i in range(30) for take in range(2)]
    for word, tones in (("bed", "high"), ("cat", "low"), ("happy", "high"), ("tree", "low")):
        (folder / word).mkdir(parents=True)
        for seed, name in enumerate(names):
            soundfile.write(folder / word / f"{name}.wav", tone(tones, seed), 16_000)
    (folder / splits.NOISE_FOLDER).mkdir()
    soundfile.write(folder / splits.NOISE_FOLDER / "hum.wav", tone("noise", 0, 30, 16_000), 16_000)
    monkeypatch.setenv("SEPCONV_DATA", str(tmp_path))
    dataset = data.load("speech_commands")
    assert dataset.classes == ("bed", "cat", "happy", "silence", "unknown")
    counts = np.bincount(dataset.train[1])
    assert counts.max() - counts.min() <= 1
    assert dataset.settings.sample_rate == 16_000


APART = """
import json, sys
import keras, numpy as np, sepconv_layers, soundfile
model = keras.saving.load_model(sys.argv[1])
about = json.load(open(sys.argv[1].replace(".keras", ".json")))
for path in sys.argv[2:]:
    x, rate = soundfile.read(path, dtype="float32")
    assert rate == about["sample_rate"]
    missing = about["samples"] - len(x)
    x = np.pad(x, (missing // 2, missing - missing // 2))
    print(about["classes"][model.predict(x[None], verbose=0).argmax()])
assert not any(name.startswith("examples") for name in sys.modules)
"""


@pytest.mark.parametrize("net", train.NETS)
def test_every_net_takes_spectrograms(net):
    x = np.random.default_rng(0).normal(-3, 1, (5, 49, 40)).astype("float32")
    for conv, mfcc in (("separable", None), ("standard", None), ("separable", False)):
        model = train.build(conv, net, x, 3, width=0.5, mfcc=mfcc)
        assert keras.ops.convert_to_numpy(model(x)).shape == (5, 3)


def test_from_recordings_to_words(tmp_path, capsys):
    folder = write_words(
        tmp_path / "words", [f"s{i}_{take}" for i in range(10) for take in range(4)]
    )
    output = tmp_path / "out"
    kinds = "hub,litert,int8" if keras.backend.backend() == "tensorflow" else "none"
    brief = ["--epochs", "8", "--seeds", "1", "--batch-size", "16", "--export", kinds]
    brief += ["--conv", "separable", "--causal", "--no-jit-compile"]
    comparison = train.main(["--data", str(folder), *brief, "--output", str(output)])
    assert str(comparison) in capsys.readouterr().out
    assert comparison.rows[0].accuracy["mean"] > 0.9
    record = json.loads((output / "results.json").read_text("utf-8"))
    assert record["task"] == "Keyword spotting"
    if kinds != "none":
        artifacts = record["rows"][0]["artifacts"]
        assert artifacts["hub"]["agreement"] == 1 and artifacts["int8"]["accuracy"] > 0.9
        assert artifacts["streaming"]["accuracy"] == comparison.rows[0].accuracy["mean"]
        assert artifacts["streaming"]["agreement"] == 1
        assert (output / "separable-streaming.tflite").is_file()
        assert re.search(r"takes 0\.\d+ ms for each hop of 20 ms", comparison.notes[0])
        import tensorflow as tf

        heard = tf.saved_model.load(str(output / "separable-hub")).signatures["classify"]
        one = data.fit_length(tone("low", 78).astype("float32"), RATE)
        assert heard(waveforms=tf.constant(one[None]))["label"].numpy() == b"low"
    confusion = json.loads((output / "confusion.json").read_text("utf-8"))
    assert np.sum(confusion["confusion"]["separable"]) == 16
    assert (output / "confusion.png").stat().st_size > 5000

    files = [tmp_path / f"new_{word}.wav" for word in WORDS]
    for word, path in zip(WORDS, files, strict=True):
        soundfile.write(path, tone(word, 77), RATE)
    predict.main([str(output), *map(str, files)])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines] == list(WORDS)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", APART, str(output / "separable-waveform.keras")]
        + list(map(str, files)),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.split() == list(WORDS), done.stderr[-2000:]
    quiet = np.zeros(2 * RATE)
    long = np.concatenate([quiet, tone("high", 1), quiet, tone("low", 2), quiet])
    soundfile.write(tmp_path / "long.wav", long, RATE)
    predict.main([str(output), str(tmp_path / "long.wav"), "--stream", "--threshold", "0.7"])
    heard = capsys.readouterr().out
    assert heard.index("high") < heard.index("low")


def test_predict_says_what_is_wrong(tmp_path, capsys):
    for arguments in ([str(tmp_path), "x.wav"], [str(tmp_path / "no-waveform.keras"), "x.wav"]):
        with pytest.raises(SystemExit, match="2"):
            predict.main(arguments)
        assert "waveform" in capsys.readouterr().err


class Same:
    """A model that hears the same in all windows."""

    def predict(self, waveforms, verbose):
        return np.tile([9.0, 0.0], (len(waveforms), 1))


@pytest.mark.parametrize("samples", [100, 1_200, 4_000])
def test_a_recording_of_few_windows_is_heard(samples):
    about = {"classes": WORDS, "sample_rate": RATE, "samples": 800}
    found = predict.detections(Same(), about, [np.ones(samples)], threshold=0.4)
    assert [word for _, _, word, _ in found] == ["high"]


def write_run(folder, convs, nets):
    """What predict reads of a run: the record of some nets, and nets that are there."""
    row = dict.fromkeys(field.name for field in dataclasses.fields(Row))
    rows = [row | {"conv": conv, "infer_ms": {}, "infer_mode": {}} for conv in convs]
    record = dict.fromkeys(field.name for field in dataclasses.fields(Comparison)) | {"rows": rows}
    del record["models"]
    (folder / "results.json").write_text(json.dumps(record))
    for conv in nets:
        layers = [keras.Input((4,)), keras.layers.Dense(2)]
        keras.Sequential(layers, name=conv).save(folder / f"{conv}-waveform.keras")
        about = {"classes": WORDS, "sample_rate": RATE, "samples": 4}
        (folder / f"{conv}-waveform.json").write_text(json.dumps(about))


def test_predict_takes_a_model_of_the_record_and_none_of_an_earlier_run(tmp_path, capsys):
    write_run(tmp_path, ["standard"], ["separable", "standard"])
    assert predict.load(tmp_path)[0].name == "standard"
    write_run(tmp_path, ["standard-narrow"], [])
    message = r"must hold a \*-waveform.keras that .*Received the nets \['standard-narrow'\]"
    with pytest.raises(ValueError, match=message):
        predict.load(tmp_path)
    (tmp_path / "results.json").write_text("{}")
    with pytest.raises(ValueError, match="results.json as `compare` writes it"):
        predict.load(tmp_path)
    (tmp_path / "results.json").unlink()
    with pytest.raises(ValueError, match="or the folder of a run with its results.json"):
        predict.load(tmp_path)


@pytest.mark.parametrize("text", ["{}", "[]", '{"classes": []}', "no JSON"])
def test_predict_says_what_the_file_beside_a_model_must_hold(tmp_path, text):
    write_run(tmp_path, ["separable"], ["separable"])
    (tmp_path / "separable-waveform.json").write_text(text)
    with pytest.raises(ValueError, match="separable-waveform.json must hold classes, sample_rate"):
        predict.load(tmp_path)


# Cross-validation over speakers


@pytest.fixture
def speakers(tmp_path, monkeypatch):
    """A corpus in the form of the Free Spoken Digit Dataset, with three speakers and two digits."""
    folder = tmp_path / "audio" / "free-spoken-digit-dataset" / "recordings"
    folder.mkdir(parents=True)
    for digit, word in enumerate(WORDS):
        for i, speaker in enumerate(("anna", "ben", "cleo")):
            for take in range(3, 7):
                path = folder / f"{digit}_{speaker}_{take}.wav"
                soundfile.write(path, tone(word, 10 * i + take), RATE)
    monkeypatch.setenv("SEPCONV_DATA", str(tmp_path))
    return data.fsdd_speakers()


def test_each_speaker_is_held_out_once(speakers):
    assert speakers == ["anna", "ben", "cleo"]
    for speaker in speakers:
        clips, *_ = data.SOURCES["fsdd"](speaker, 0)
        part_of = {(*clip.name.split("/")[-1].split("_"),): clip.part for clip in clips}
        assert len(part_of) == 24
        for (_, name, take), part in part_of.items():
            held_out = "val" if take in ("3.wav", "4.wav") else "train"
            assert part == ("test" if name == speaker else held_out)
    with pytest.raises(ValueError, match="`held_out` must be one of anna, .* Received 'eve'"):
        data.load("fsdd", held_out="eve")
    with pytest.raises(ValueError, match="`held_out` must be left out, except for .* of fsdd"):
        data.load("mini", held_out="anna")


def tiny(conv, spectrograms, classes, **_):
    """In place of a net, for what does not depend on the net."""
    inputs = keras.Input(spectrograms.shape[1:])
    x = keras.layers.GlobalAveragePooling1D()(inputs)
    return keras.Model(inputs, keras.layers.Dense(classes)(x))


def test_speaker_independent_results_are_means_over_all_speakers(
    speakers, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(train, "build", tiny)
    output = tmp_path / "out"
    brief = ["--epochs", "1", "--seeds", "2", "--batch-size", "8", "--conv", "separable"]
    arguments = ["--dataset", "fsdd", "--speaker-independent", *brief, "--output", str(output)]
    found = train.main(arguments)
    assert str(found) in capsys.readouterr().out
    every = {name: Comparison.load(output / f"fold-{name}") for name in speakers}
    (row,) = found.rows
    per_seed = [record.rows[0].accuracy["per_seed"] for record in every.values()]
    np.testing.assert_allclose(row.accuracy["per_seed"], np.mean(per_seed, axis=0), atol=1e-6)
    assert row.accuracy["mean"] == pytest.approx(np.mean(per_seed), abs=1e-6)
    assert row.accuracy["per_fold"] == {
        name: record.rows[0].accuracy["mean"] for name, record in every.items()
    }
    assert row.macs == every["anna"].rows[0].macs
    assert found.test_part == {"samples": 24, "largest_class": 0.5}
    assert "Mean over 3 folds: anna, ben, cleo." in found.notes
    assert Comparison.load(output) == dataclasses.replace(found, models={})
    confusion = json.loads((output / train.CONFUSION).read_text("utf-8"))["confusion"]
    assert np.sum(confusion["separable"]) == 24


def sized_frontier(accuracies, latency):
    """A record of two separable and two standard nets, tested on two samples with two seeds."""
    labels = np.array([0, 1])
    rows, predictions = [], {"labels": labels}
    for (conv, size), per_seed in zip(
        [("separable", 1), ("separable", 2), ("standard", 1), ("standard", 2)],
        accuracies,
        strict=True,
    ):
        spread = {"mean": float(np.mean(per_seed)), "std": 0.0, "per_seed": list(per_seed)}
        artifacts = {"int8": {"bytes": 10, "latency_ms": latency, "accuracy": per_seed[0]}}
        artifacts["int8"]["seed"] = 0
        row = SizedRow(
            conv=conv, model="net", params=1, macs=1000 * size, accuracy=spread,
            infer_ms={1: latency}, infer_mode={1: "xla"}, train_step_ms=latency, train_mode="xla",
            artifacts=artifacts, size=size, val_accuracy=spread,
        )  # fmt: skip
        rows.append(row)
        right = np.array([np.arange(2) < 2 * accuracy for accuracy in per_seed])
        predictions[row.name] = np.where(right, labels, 1 - labels)
    about = dict.fromkeys(("task", "dataset", "command", "device", "backend"), "")
    budget = {"epochs": 1, "batch_size": 1, "seeds": [0, 1], "training_samples": 2}
    test_part = {"samples": 2, "largest_class": 0.5}
    return Frontier(
        **about, versions={}, wall_seconds=1.5, budget=budget, rows=rows, test_part=test_part,
        predictions=predictions,
    )  # fmt: skip


def test_the_mean_of_frontiers_has_the_mean_margin_and_all_predictions():
    one = sized_frontier([(1, 0.5), (1, 1), (0, 0.5), (0.5, 0.5)], 1.0)
    two = sized_frontier([(1, 1), (1, 1), (0.5, 1), (1, 0.5)], 3.0)
    found = folds.mean_of({"one": one, "two": two, "three": two})
    margins = [record.margin("macs").mean for record in (one, two, two)]
    assert found.margin("macs").mean == pytest.approx(np.mean(margins), abs=1e-6)
    assert [row.infer_ms[1] for row in found.rows] == [3.0] * 4
    assert found.rows[0].artifacts == {"int8": {"bytes": 10, "latency_ms": 3.0, "accuracy": 1.0}}
    assert found.test_part["samples"] == 6 and found.wall_seconds == 4.5
    for row in found.rows:  # what was predicted gives the accuracy
        right = found.predictions[row.name] == found.predictions["labels"]
        np.testing.assert_allclose(right.mean(axis=1), row.accuracy["per_seed"], atol=1e-6)
        assert list(row.accuracy["per_fold"]) == ["one", "two", "three"]
