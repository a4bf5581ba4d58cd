"""Recordings of others: formats, sizes, scales and names of all kinds, and what is damaged."""

import hashlib
import io
import json
import os
import re
import shutil
import struct
import tarfile
import tracemalloc
import warnings
from pathlib import Path

import keras
import librosa
import numpy as np
import pytest
import soundfile

from examples import nets
from examples.audio import data, features, predict, reading, splits, train
from examples.audio.reading import Clip

RATE = 8_000
WORDS = ("high", "low")


class Trained(Exception):
    """What training is replaced by."""


@pytest.fixture(autouse=True)
def _no_training(monkeypatch, tmp_path):
    """A cache of its own, and no comparison where an error is expected."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)

    def stop(*args, **kwargs):
        raise Trained

    monkeypatch.setattr(nets, "compare", stop)


def caches(tmp_path):
    return sorted((tmp_path / "cache" / "sepconv_layers" / "audio").glob("*.npz"))


def speech(seconds=1.0, rate=RATE, seed=0):
    """No two moments of it are alike."""
    steps = np.random.default_rng(seed).uniform(0.05, 0.2, round(seconds * rate))
    return (0.3 * np.sin(np.cumsum(steps))).astype("float32")


def write_words(folder, names, ending="wav", factor=1.0, words=WORDS, **how):
    """One recording of each name for each word; those of two words differ."""
    for word in words:
        (folder / word).mkdir(parents=True, exist_ok=True)
        for seed, name in enumerate(names):
            waveform = factor * speech(0.3, seed=seed + 100 * words.index(word))
            soundfile.write(folder / word / f"{name}.{ending}", waveform, RATE, **how)
    return folder


def sizes(dataset):
    return {part: len(getattr(dataset, part)[1]) for part in ("train", "val", "test")}


# Formats

NO_ENDING = {"MAT4", "MAT5", "MPC2K", "RAW", "SD2"}  # see `reading.ENDINGS`
WRITTEN = {"OGG": "VORBIS", "MP3": "MPEG_LAYER_III", "WVE": "ALAW", "XI": "DPCM_16"}


def test_every_format_of_libsndfile_has_its_endings():
    assert set(soundfile.available_formats()) == {*reading.ENDINGS, *NO_ENDING}


@pytest.mark.parametrize("kind", reading.ENDINGS)
def test_every_format_is_read_under_each_of_its_endings(tmp_path, kind):
    for ending in reading.ENDINGS[kind]:
        path = tmp_path / f"a{ending}"
        soundfile.write(path, speech(), RATE, WRITTEN.get(kind, "PCM_16"), format=kind)
        sound = reading.middle(path, reading.header(path)[0], RATE // 2)
        assert len(sound.waveform) == RATE // 2 and np.abs(sound.waveform).max() > 0.1


def test_recordings_of_other_endings_are_read_or_counted(tmp_path, capsys):
    names = [f"s{i}_0" for i in range(6)]
    folder = write_words(tmp_path / "words", names[:2])
    write_words(folder, names[2:3], "OPUS", format="OGG", subtype="OPUS")
    write_words(folder, names[3:4], "AIFF")
    write_words(folder, names[4:5], "au")
    write_words(folder, names[5:6], "oga", format="OGG", subtype="VORBIS")
    for name in ("a.m4a", "b.m4a", "c.webm"):
        (folder / "low" / name).write_bytes(b"others read it")
    dataset = data.load(folder=folder)
    assert sum(sizes(dataset).values()) == 12
    said = capsys.readouterr().out
    assert "2 .m4a files, 1 .webm file" in said


@pytest.mark.parametrize("ending", [".m4a", ".WMA"])
def test_a_word_whose_recordings_cannot_be_read_is_an_error(tmp_path, ending, capsys):
    folder = write_words(tmp_path / "words", [f"s{i}_0" for i in range(6)])
    shutil.copytree(folder / "low", folder / "third")
    for path in (folder / "third").iterdir():
        path.rename(path.with_suffix(ending))
    with pytest.raises(SystemExit, match="2"):
        train.main(["--data", str(folder)])
    said = capsys.readouterr().err
    assert re.search(rf"third must hold recordings.*6 {ending.lower()} files.*\.opus", said)


UNSOUGHT = {  # formats that libsndfile decodes, but cannot seek in
    "GSM 6.10 as WAV": ("WAV", "GSM610"),
    "GSM 6.10 as AIFF": ("AIFF", "GSM610"),
    "G.721": ("WAV", "G721_32"),
    "G.723 as AU": ("AU", "G723_24"),
    "NMS": ("WAV", "NMS_ADPCM_16"),
    "DWVW, which says it can": ("AIFF", "DWVW_16"),
}


@pytest.mark.parametrize("how", UNSOUGHT.values(), ids=UNSOUGHT)
def test_recordings_that_do_not_seek_are_read(tmp_path, how):
    """Short ones, and the middle of long ones."""
    for seconds in (0.5, 4):
        path = tmp_path / f"{seconds}"
        soundfile.write(path, speech(seconds), RATE, format=how[0], subtype=how[1])
        whole = np.concatenate([sound.waveform for sound in reading.stream(path, RATE)])
        assert len(whole) >= seconds * RATE and whole.std() > 0.1
        sound = reading.middle(path, RATE, RATE)
        np.testing.assert_array_equal(sound.waveform, reading.fit_length(whole, RATE)[: len(whole)]
                                      if len(whole) > RATE else whole)  # fmt: skip


def test_a_folder_of_recordings_that_do_not_seek_is_used(tmp_path):
    folder = write_words(tmp_path / "w", [f"s{i}_0" for i in range(6)], subtype="GSM610")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert sum(sizes(data.load(folder=folder)).values()) == 12


# Long recordings, and headers that are wrong


@pytest.mark.parametrize("rate", [16_000, 44_100, 44_101, 11_025])
def test_the_middle_of_a_long_recording_is_that_of_the_whole(tmp_path, rate):
    waveform = speech(5, rate)
    soundfile.write(tmp_path / "a.wav", waveform, rate, "FLOAT")
    whole = librosa.resample(waveform, orig_sr=rate, target_sr=16_000)
    for samples in (16_000, 4_001):
        sound = reading.middle(tmp_path / "a.wav", 16_000, samples)
        expected = reading.fit_length(whole, samples)
        np.testing.assert_allclose(sound.waveform, expected, atol=1e-6)
    streamed = [sound.waveform for sound in reading.stream(tmp_path / "a.wav", 16_000)]
    np.testing.assert_allclose(np.concatenate(streamed)[: len(whole)], whole, atol=1e-6)


def flac_of(waveform, total):
    """A FLAC file whose header claims so many samples; 0, as of a stream, is an unknown number."""
    file = io.BytesIO()
    soundfile.write(file, waveform, RATE, format="FLAC")
    content = bytearray(file.getvalue())
    content[21:26] = bytes([content[21] & 0xF0 | total >> 32]) + struct.pack(">I", total % 2**32)
    return bytes(content)


@pytest.mark.parametrize("total", [0, 2**36 - 1, 3 * RATE])
@pytest.mark.parametrize("seconds", [0.5, 6])
def test_a_header_may_claim_more_than_there_is(total, seconds):
    waveform = speech(seconds)
    right = reading.middle(flac_of(waveform, len(waveform)), RATE, RATE).waveform
    found = reading.middle(flac_of(waveform, total), RATE, RATE).waveform
    if total == 3 * RATE < len(waveform):  # libsndfile reads no more than is claimed
        right = reading.middle(flac_of(waveform[:total], total), RATE, RATE).waveform
    np.testing.assert_array_equal(found, right)


@pytest.mark.parametrize("ending", ["mp3", "ogg", "wav", "flac"])
def test_a_truncated_recording_is_read_as_far_as_it_goes_or_refused(tmp_path, ending):
    path = tmp_path / f"a.{ending}"
    soundfile.write(path, speech(20), RATE)
    content = path.read_bytes()
    for share in (0.9, 0.5, 0.1, 0.001):
        path.write_bytes(content[: round(share * len(content))])
        try:
            assert len(reading.middle(path, RATE, RATE).waveform) <= RATE
        except ValueError as error:
            assert re.search("cannot be decoded|must not be empty", str(error))


DAMAGED = ["WAV", "FLAC", "OGG", "MP3", "AIFF", "AU", "CAF", "VOC"]


@pytest.mark.filterwarnings("error")  # also those of what is raised where nobody can catch it
@pytest.mark.parametrize("kind", DAMAGED)
def test_a_damaged_recording_is_read_or_refused(tmp_path, kind):
    rng = np.random.default_rng(DAMAGED.index(kind))
    whole, path = io.BytesIO(), tmp_path / "damaged"
    soundfile.write(whole, speech(2), RATE, WRITTEN.get(kind, "PCM_16"), format=kind)
    for i in range(40):
        content = bytearray(whole.getvalue())
        for at in rng.integers(0, 200 if i % 2 else len(content), 8):
            content[at] = rng.choice([0, 127, 128, 255, rng.integers(256)])
        path.write_bytes(content)
        for source in (path, bytes(content)):
            try:
                assert len(reading.middle(source, RATE, RATE).waveform) <= RATE
                assert sum(len(sound.waveform) for sound in reading.stream(source, RATE)) < 10**7
            except ValueError as error:
                assert len(str(error)) < 300


def write_zeros(path, seconds, rate=44_100, channels=2):
    """A WAV file that takes no room on the disk."""
    size = 2 * channels * round(seconds * rate)
    form = struct.pack("<HHIIHH", 1, channels, rate, 2 * channels * rate, 2 * channels, 16)
    with path.open("wb") as file:
        file.write(b"RIFF" + struct.pack("<I", size + 36) + b"WAVEfmt " + struct.pack("<I", 16))
        file.write(form + b"data" + struct.pack("<I", size))
        file.truncate(44 + size)


def peak_memory(action):
    tracemalloc.start()
    try:
        action()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_an_hour_takes_no_more_memory_than_a_second(tmp_path):
    write_zeros(tmp_path / "hour.wav", 3600)
    assert peak_memory(lambda: reading.middle(tmp_path / "hour.wav", 16_000, 16_000)) < 5e7
    sound = reading.middle(tmp_path / "hour.wav", 16_000, 16_000)
    assert len(sound.waveform) == 16_000


class Same:
    """A model that hears the same in all windows."""

    def predict(self, waveforms, verbose):
        assert waveforms.size <= 2**24
        return np.tile([9.0, 0.0], (len(waveforms), 1))


def test_a_long_recording_is_heard_piece_by_piece(tmp_path):
    about = {"classes": WORDS, "sample_rate": RATE, "samples": RATE, "scale": 1}
    write_zeros(tmp_path / "long.wav", 1200, rate=16_000, channels=1)
    hear = lambda: predict._detected_words(Same(), about, tmp_path / "long.wav", 0.5)  # noqa: E731
    assert peak_memory(hear) < 5e7  # all of it takes 77 MB


@pytest.mark.parametrize("pieces", [1, 7, 50])
def test_windows_do_not_depend_on_the_pieces(pieces):
    waveform = speech(3)
    padded = np.pad(waveform, (1000, 2001))
    expected = np.lib.stride_tricks.sliding_window_view(padded, 2001)[::800]
    found = predict._windows(np.array_split(waveform, pieces), 2001, 800)
    np.testing.assert_array_equal(np.concatenate(list(found)), expected)


def test_the_clip_that_a_net_is_given_has_a_sensible_length(capsys):
    with pytest.raises(SystemExit, match="2"):
        train.main(["--seconds", "1e12"])
    assert "--seconds must be 0.1 or more, and at most 3,600" in capsys.readouterr().err


@pytest.mark.parametrize("rate", [1, 2**31 - 1])
def test_a_recording_of_no_sensible_sample_rate_is_skipped(tmp_path, rate):
    folder = write_words(tmp_path / "words", [f"s{i}_0" for i in range(6)])
    write_zeros(folder / "low" / "s0_1.wav", 10_000 / rate, rate, 1)
    with pytest.warns(UserWarning, match="Skipped 1 .*s0_1.wav: .*100 to 10,000,000 samples per"):
        dataset = data.load(folder=folder)
    assert dataset.settings.sample_rate == RATE


# The scale of floats


def load_scaled(tmp_path, name, factor, **how):
    names = [f"s{i}_0" for i in range(6)]
    return data.load(folder=write_words(tmp_path / name, names, factor=factor, **how))


@pytest.mark.parametrize("bits", [8, 16, 24, 32])
def test_floats_on_the_scale_of_whole_numbers_are_divided(tmp_path, bits):
    full = 2 ** (bits - 1)
    right = load_scaled(tmp_path, "right", 1, subtype="DOUBLE")
    assert (right.scale, right.scaling) == (1, "")
    for _ in range(2):  # the second comes from the cache
        found = load_scaled(tmp_path, "found", full, subtype="FLOAT")
        assert found.scale == full
        assert found.scaling == f"floats in recordings divided by {full:,}"
        np.testing.assert_allclose(found.train[0], right.train[0], atol=1e-4)
    np.testing.assert_allclose(found.waveforms(2), right.waveforms(2), atol=1e-6)


def test_a_quiet_recording_has_the_scale_of_the_data_set(tmp_path):
    """Whole numbers of 0 and 1 are silence on the one scale, and loud on the other."""
    folder = write_words(tmp_path / "w", [f"s{i}_0" for i in range(6)], factor=2**15)
    for path in folder.glob("*/*.wav"):
        waveform, rate = soundfile.read(path)
        soundfile.write(path, np.rint(32768 * waveform), rate, "FLOAT")
    quiet = np.random.default_rng(0).integers(-1, 2, RATE).astype("float32")
    soundfile.write(folder / "low" / "s0_quiet.wav", quiet, RATE, "FLOAT")
    dataset = data.load(folder=folder)
    assert dataset.scale == 2**15
    every = np.concatenate([part[0] for part in (dataset.train, dataset.val, dataset.test)])
    assert every.max(axis=(1, 2)).min() < np.log(features.FLOOR) + 1


@pytest.mark.parametrize("factor", [0.02, 3.0, 30.0])
def test_floats_that_are_quiet_or_normalized_are_left_alone(tmp_path, factor):
    assert load_scaled(tmp_path, "words", factor, subtype="FLOAT").scale == 1


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "PCM_U8", "ULAW"])
def test_whole_numbers_beside_floats_are_from_minus_1_to_1_already(tmp_path, subtype):
    folder = write_words(tmp_path / "words", [f"s{i}_0" for i in range(6)], subtype=subtype)
    before = data.load(folder=folder)
    for path in sorted(folder.glob("*/s0_0.wav")):
        waveform, rate = soundfile.read(path)
        soundfile.write(path, 32768 * waveform, rate, "FLOAT")
    dataset = data.load(folder=folder)
    assert dataset.scale == 2**15
    np.testing.assert_allclose(dataset.train[0], before.train[0], atol=1e-4)


@pytest.mark.parametrize("where", ["", "test"])
def test_floats_on_two_scales_are_refused(tmp_path, where, capsys):
    names = [f"s{i}_0" for i in range(6)]
    folder = write_words(tmp_path / "w" / ("train" * bool(where)), names, subtype="FLOAT")
    other = tmp_path / "w" / where
    write_words(other, ["s0_1", "s1_1"], factor=20_000, subtype="FLOAT")
    assert folder.is_dir()
    with pytest.raises(SystemExit, match="2"):
        train.main(["--data", str(tmp_path / "w")])
    said = capsys.readouterr().err
    assert re.search(r"all hold numbers from -1 to 1.*s\d_1.wav with numbers up to 6,000", said)


def write_model(folder, classes=WORDS, outputs=2, scale=1, samples=800, **others):
    folder.mkdir(exist_ok=True)
    layers = [keras.Input((samples,)), keras.layers.Dense(outputs)]
    keras.Sequential(layers).save(folder / "net-waveform.keras")
    about = {"classes": classes, "sample_rate": RATE, "samples": samples, "scale": scale, **others}
    (folder / "net-waveform.json").write_text(json.dumps(about))
    return str(folder / "net-waveform.keras")


@pytest.mark.parametrize("stream", [[], ["--stream", "--threshold", "0"]])
@pytest.mark.parametrize(("scale", "other"), [(1, 2**15), (2**15, 1)])
def test_predict_scales_as_the_training_did(tmp_path, scale, other, stream, capsys):
    model = write_model(tmp_path, scale=scale)
    said = []
    for name, factor, subtype in (
        ("pcm", 1, "PCM_24"), ("float", scale, "FLOAT"), ("other", other, "FLOAT")
    ):  # fmt: skip
        soundfile.write(tmp_path / f"{name}.wav", factor * speech(0.3), RATE, subtype)
        if name == "other":
            with pytest.raises(SystemExit, match="2"):
                predict.main([model, str(tmp_path / f"{name}.wav"), *stream])
            assert "scale of the training recordings" in capsys.readouterr().err
        else:
            predict.main([model, str(tmp_path / f"{name}.wav"), *stream])
            said.append(capsys.readouterr().out.replace(f"{name}.wav", ""))
    assert said[0] == said[1] != ""


def test_the_scale_is_said_and_goes_with_the_model(tmp_path, capsys):
    folder = write_words(tmp_path / "w", [f"s{i}_0" for i in range(6)], factor=2**15,
                         subtype="FLOAT")  # fmt: skip
    dataset = data.load(folder=folder)
    net = train.build("separable", "ds_cnn", dataset.train[0], 2, width=0.1)
    front = train.features.front_end(dataset.settings)
    train.save_for_waveforms(front, net, dataset, tmp_path / "net-waveform.keras")
    _, about = predict.load(tmp_path / "net-waveform.keras")
    assert about["scale"] == 2**15


# Splits


def clips_of(counts, words=("a", "b", "c")):
    """So many recordings of each word by each speaker."""
    return [
        Clip(f"{word}/s{speaker}_{take}.wav", word, "train", b"")
        for word in words
        for speaker, count in enumerate(counts)
        for take in range(count)
    ]


def split_of(clips, tmp_path, seed=0):
    part_of, how = splits.hold_out(clips, tmp_path, ["test", "val"], seed)
    found = {"train": set(), "val": set(), "test": set()}
    for clip in clips:
        found[part_of.get(clip.name, "train")].add(clip)
    return found, how


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "counts", [[40, 2, 2, 2, 2, 2], [20, 20, 1, 1, 1, 1, 1, 1, 1, 1], [1, 2, 3, 5, 8, 13, 21, 34]]
)
def test_whole_speakers_make_parts_near_their_shares(tmp_path, counts, seed):
    clips = clips_of(counts)
    found, how = split_of(clips, tmp_path, seed)
    assert how == "held out: test and val by speaker"
    speakers = {part: {splits.speaker_of(clip) for clip in some} for part, some in found.items()}
    assert sum(map(len, speakers.values())) == len(counts)
    assert 0.1 <= len(found["test"]) / len(clips) <= 0.4
    assert 0.04 <= len(found["val"]) / len(clips) <= 0.2


@pytest.mark.parametrize("counts", [[100, 1, 1, 1, 1], [60, 60, 1, 1, 1]])
def test_where_no_speakers_do_words_are_split_and_it_is_said(tmp_path, counts):
    clips = clips_of(counts)
    found, how = split_of(clips, tmp_path)
    assert "word by word, because whole speakers would leave a part far from its share" in how
    assert 0.15 <= len(found["test"]) / len(clips) <= 0.25


def test_the_sizes_of_all_parts_are_printed(tmp_path, capsys):
    folder = write_words(tmp_path / "words", [f"s{i}_{j}" for i in range(10) for j in range(2)])
    with pytest.raises(Trained):
        train.main(["--data", str(folder)])
    assert "28 training, 4 validation and 8 test clips of 1 s" in capsys.readouterr().out


PUBLISHED = {  # of the names, words and parts of all clips
    ("mini", None): "d801d903c2738a7b",
    ("fsdd", None): "370da4786822623b",
    ("fsdd", "yweweler"): "dcc9c1575fb240f1",
    ("speech_commands", None): "14d2beb436c9e03b",
}


@pytest.mark.parametrize(("name", "held_out"), PUBLISHED)
def test_the_splits_of_the_records_are_what_they_were(name, held_out):
    try:
        clips, *_ = data.SOURCES[name](held_out, 0)
    except RuntimeError:
        pytest.skip(f"needs {name}")
    lines = "\n".join(f"{x.name}|{x.word}|{x.part}|{x.offset!r}" for x in clips)
    assert hashlib.sha256(lines.encode()).hexdigest()[:16] == PUBLISHED[name, held_out]


# Damaged, foreign and hostile files


def truncated(path):
    path.write_bytes(path.read_bytes()[:500])


def flipped(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x55
    path.write_bytes(content)


def folder_in_its_place(path):
    path.unlink()
    path.mkdir()
    (path / "mine.txt").write_text("kept")


def pipe_in_its_place(path):
    path.unlink()
    os.mkfifo(path)


def of_other_clips(path):
    with np.load(path) as file:
        arrays = dict(file)
    np.savez(path, **arrays | {"is_kept": arrays["is_kept"][1:]})


def one_array(path):
    with path.open("wb") as file:
        np.save(file, np.ones(3))


DAMAGES = {
    "truncated": truncated,
    "bits flipped": flipped,
    "empty": lambda path: path.write_bytes(b""),
    "a text": lambda path: path.write_text("spectrograms"),
    "one array": one_array,
    "other arrays": lambda path: np.savez(path, x=np.ones(3)),
    "objects": lambda path: np.savez(path, spectrograms=np.array([{}]), is_kept=1, skipped=1),
    "of other clips": of_other_clips,
    "a folder": folder_in_its_place,
    "a pipe": pipe_in_its_place,
}


@pytest.mark.filterwarnings("error:unclosed")
@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_cache_that_cannot_be_read_is_made_again(tmp_path, damage):
    folder = write_words(tmp_path / "words", [f"s{i}_0" for i in range(6)])
    right = data.load(folder=folder)
    (cache,) = caches(tmp_path)
    damage(cache)
    with pytest.warns(UserWarning, match="not a readable cache: spectrograms are computed again"):
        found = data.load(folder=folder)
    np.testing.assert_array_equal(found.train[0], right.train[0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data.load(folder=folder)
    kept = [path for path in cache.parent.rglob("mine.txt")]
    assert len(kept) == (damage is folder_in_its_place)


def test_recordings_with_any_name_are_read_and_heard(tmp_path, capsys):
    folder = write_words(tmp_path / "words", [f"s{i}_0" for i in range(6)])
    name = os.fsdecode(b"caf\xe9_0.wav")
    try:
        soundfile.write(os.fsencode(folder / "low") + b"/caf\xe9_0.wav", speech(), RATE,
                        format="WAV")  # fmt: skip
    except OSError:
        pytest.skip("names of files are UTF-8 here")
    (folder / "low" / os.fsdecode(b"caf\xe9_1.wav")).write_bytes(b"no sound")
    with pytest.warns(UserWarning, match=r"Skipped 1 recording: low/caf\\xe9_1.wav"):
        assert sum(sizes(data.load(folder=folder)).values()) == 13
    for stream in ([], ["--stream", "--threshold", "0"]):
        predict.main([write_model(tmp_path), str(folder / "low" / name), *stream])
        assert "caf\\xe9_0.wav: " in capsys.readouterr().out.encode().decode()


@pytest.mark.parametrize("word", ["lo\nw", "lo\rw"])
def test_a_word_of_two_lines_is_refused_at_once(tmp_path, word, capsys):
    folder = write_words(tmp_path / "words", [f"s{i}_0" for i in range(6)])
    (folder / "low").rename(folder / word)
    with pytest.raises(SystemExit, match="2"):
        train.main(["--data", str(folder)])
    assert re.search(r"'lo\\[nr]w' must be one line", capsys.readouterr().err)


def pipe(path):
    os.mkfifo(path)


def folder(path):
    path.mkdir()


def link_to_nothing(path):
    path.symlink_to("nothing")


@pytest.mark.parametrize("make", [pipe, folder, link_to_nothing])
def test_a_list_must_be_a_file(tmp_path, make, capsys):
    words = write_words(tmp_path / "words", [f"s{i}_0" for i in range(6)])
    make(words / "testing_list.txt")
    with pytest.raises(SystemExit, match="2"):
        train.main(["--data", str(words)])
    assert re.search("testing_list.txt (must be a file|cannot be read)", capsys.readouterr().err)


@pytest.mark.parametrize("line", [".", "/", "..", "low/", "\0", "a" * 5000])
def test_a_list_may_hold_any_line(tmp_path, line):
    words = write_words(tmp_path / "words", [f"s{i}_0" for i in range(6)])
    lines = [f"{word}/s0_0.wav" for word in WORDS]
    (words / "testing_list.txt").write_text("\n".join([*lines, line]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        clips, *_ = splits.load_folder(words, seed=0)
    assert sorted(clip.name for clip in clips if clip.part == "test") == lines


@pytest.mark.parametrize("make", [pipe, folder, link_to_nothing])
def test_what_is_no_file_is_no_recording(tmp_path, make, capsys):
    words = write_words(tmp_path / "words", [f"s{i}_0" for i in range(6)])
    make(words / "low" / "s0_1.wav")
    assert sum(sizes(data.load(folder=words)).values()) == 12
    assert ("no regular file" in capsys.readouterr().out) == (make is not folder)
    with pytest.raises(SystemExit, match="2"):
        predict.main([write_model(tmp_path), str(words / "low" / "s0_1.wav")])
    said = capsys.readouterr().err
    assert re.search("must be a file", said)


LONG = "a" * 5000


@pytest.mark.parametrize("long", [LONG, f"{'a/' * 2500}b", "a\0b"], ids=["name", "path", "zero"])
def test_a_path_that_cannot_be_is_a_sentence(tmp_path, long, capsys, monkeypatch):
    model = write_model(tmp_path)
    for main, arguments in (
        (train.main, ["--data", long]), (predict.main, [long, "x.wav"]),
        (predict.main, [model, long]),
    ):  # fmt: skip
        with pytest.raises(SystemExit, match="2"):
            main(arguments)
        _, _, said = capsys.readouterr().err.partition("error: ")  # after the options
        assert re.search("must be", said) and len(said) < 500
    monkeypatch.setenv("SEPCONV_DATA", long.replace("\0", ""))
    with pytest.raises(SystemExit, match="2"):
        train.main(["--dataset", "fsdd"])
    assert "was not found" in capsys.readouterr().err


def corpus(path, suffix="gz"):
    with tarfile.open(path, f"w:{suffix}") as archive:
        for digit in "012":
            for speaker in "abc":
                for index in range(12):
                    file = io.BytesIO()
                    soundfile.write(file, speech(0.3, seed=index), RATE, format="WAV")
                    about = tarfile.TarInfo(f"fsdd/recordings/{digit}_{speaker}_{index}.wav")
                    about.size = len(file.getvalue())
                    archive.addfile(about, io.BytesIO(file.getvalue()))


def cut(share):
    return lambda path: path.write_bytes(path.read_bytes()[: round(share * path.stat().st_size)])


ARCHIVES = {
    "garbage": lambda path: path.write_bytes(b"garbage" * 1000),
    "empty": lambda path: path.write_bytes(b""),
    "a tenth": cut(0.1),
    "nearly all": cut(0.8),
    "bits flipped": flipped,
    "cut before a head": lambda path: path.write_bytes(path.read_bytes()[: 40 * 512]),
    "a pipe": pipe_in_its_place,
}


@pytest.mark.parametrize("suffix", ["gz", "", "xz"])
@pytest.mark.parametrize("damage", ARCHIVES.values(), ids=ARCHIVES)
def test_a_damaged_archive_of_a_corpus_is_named(tmp_path, monkeypatch, damage, suffix, capsys):
    path = tmp_path / "audio" / f"free-spoken-digit-dataset.tar{'.' * bool(suffix)}{suffix}"
    path.parent.mkdir()
    corpus(path, suffix)
    monkeypatch.setenv("SEPCONV_DATA", str(tmp_path))
    assert len(data.SOURCES["fsdd"](None, 0)[0]) == 108
    if (damage, suffix) == (flipped, ""):  # only a head has a checksum
        path.write_bytes(
            path.read_bytes().replace(b"fsdd/recordings/1_a_0", b"FSDD/recordings/1_a_0")
        )
    else:
        damage(path)
    with pytest.raises(SystemExit, match="2"):
        train.main(["--dataset", "fsdd"])
    assert re.search(rf"{path.name} (is truncated|must be a file)", capsys.readouterr().err)


def test_a_corpus_of_one_speaker_cannot_hold_it_out(tmp_path, monkeypatch):
    folder = tmp_path / "audio" / "free-spoken-digit-dataset" / "recordings"
    folder.mkdir(parents=True)
    soundfile.write(folder / "0_anna_0.wav", speech(), RATE)
    monkeypatch.setenv("SEPCONV_DATA", str(tmp_path))
    with pytest.raises(ValueError, match="must have two speakers"):
        data.load("fsdd", held_out="anna")


@pytest.mark.parametrize(
    "wrong",
    [
        {"classes": ["a"]},
        {"classes": ["a", "b", "c"]},
        {"classes": "ab"},
        {"classes": [1, 2]},
        {"samples": 900},
        {"samples": -1},
        {"sample_rate": 0},
        {"sample_rate": "8000"},
        {"scale": 0},
    ],
    ids=repr,
)
def test_predict_refuses_a_model_and_a_description_that_do_not_match(tmp_path, wrong, capsys):
    model = write_model(tmp_path)
    about = json.loads((tmp_path / "net-waveform.json").read_text())
    (tmp_path / "net-waveform.json").write_text(json.dumps(about | wrong))
    soundfile.write(tmp_path / "a.wav", speech(), RATE)
    for stream in ([], ["--stream"]):
        with pytest.raises(SystemExit, match="2"):
            predict.main([model, str(tmp_path / "a.wav"), *stream])
        assert re.search(r"net-waveform.* must (take|hold)", capsys.readouterr().err)


def test_predict_takes_models_of_earlier_runs(tmp_path, capsys):
    model = write_model(tmp_path)
    about = json.loads((tmp_path / "net-waveform.json").read_text())
    del about["scale"]
    (tmp_path / "net-waveform.json").write_text(json.dumps(about))
    soundfile.write(tmp_path / "a.wav", speech(), RATE)
    predict.main([model, str(tmp_path / "a.wav")])
    assert "high" in capsys.readouterr().out


@pytest.mark.parametrize("content", [b"", b"no model", None], ids=["empty", "garbage", "truncated"])
def test_a_damaged_model_is_a_sentence(tmp_path, content, capsys):
    model = Path(write_model(tmp_path))
    model.write_bytes(model.read_bytes()[:3000] if content is None else content)
    with pytest.raises(SystemExit, match="2"):
        predict.main([str(model), "x.wav"])
    assert "net-waveform.keras is truncated or not" in capsys.readouterr().err


def test_deeply_nested_json_beside_a_model_is_a_sentence(tmp_path, capsys):
    model = write_model(tmp_path)
    (tmp_path / "net-waveform.json").write_text("[" * 100_000)
    with pytest.raises(SystemExit, match="2"):
        predict.main([model, "x.wav"])
    assert "net-waveform.json must hold classes" in capsys.readouterr().err
