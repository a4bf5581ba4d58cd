"""Data of the examples that are no arrays: decoded when they are needed, or in a cache on disk."""

import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from functools import partial

import numpy as np
import pytest
import soundfile
from PIL import Image

from examples import cache, prediction
from examples.audio import augment, features, reading, spectrograms
from examples.audio import data as audio
from examples.text import ratios, tokens
from examples.vision import data as vision
from examples.vision import image_files, train
from sepconv_layers import files, sources
from tests.test_comparison import without_timing

PARTS = ("train", "val", "test")


def arrays(dataset):
    """All samples, whether they are in memory or not, and their labels."""
    return [array for part in PARTS for x, y in [getattr(dataset, part)] for array in (x[:], y)]


def same(found, expected):
    for one, other in zip(arrays(found), arrays(expected), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.fixture
def large(monkeypatch):
    """All data are larger than what is kept in memory."""
    return partial(monkeypatch.setattr, cache, "IN_MEMORY", 0)


def not_again(*args, **kwargs):
    raise AssertionError("it is read again")


# Images


@pytest.fixture
def pictures(tmp_path):
    """JPEGs of noise, one of them truncated, which only decoding can tell."""
    rng, folder = np.random.default_rng(0), tmp_path / "pictures"
    for name in ("cat", "dog"):
        (folder / name).mkdir(parents=True)
        for i in range(12):
            noise = rng.integers(0, 256, (20 + i, 24, 3), "uint8")
            Image.fromarray(noise).save(folder / name / f"{i}.jpg")
    damaged = folder / "cat" / "3.jpg"
    damaged.write_bytes(damaged.read_bytes()[:-200])
    return folder


def load_pictures(folder, **how):
    with pytest.warns(UserWarning, match="Skipped 1 unreadable image: .*3.jpg"):
        return vision.load(folder=folder, **how)


def test_images_are_the_same_in_memory_in_a_cache_and_decoded_as_needed(
    pictures, tmp_path, large, monkeypatch
):
    expected = load_pictures(pictures)
    assert isinstance(expected.train[0], np.ndarray)
    place = tmp_path / "cache"
    same(load_pictures(pictures, cache=place), expected)  # small: in memory, too
    large()
    decoded = load_pictures(pictures)
    same(decoded, expected)
    order = np.array([5, 0, 5])
    np.testing.assert_array_equal(decoded.train[0][order], expected.train[0][order])
    monkeypatch.setattr(image_files, "pixels", not_again)
    mapped = load_pictures(pictures, cache=place)
    same(mapped, expected)
    (file,) = place.iterdir()
    kinds = [type(dataset.test[0]) for dataset in (decoded, mapped)]
    assert kinds == [sources.Ordered] * 2 and file.suffix == ".npz"


def test_a_changed_image_is_decoded_again(pictures, tmp_path, large):
    large()
    before = load_pictures(pictures, cache=tmp_path / "cache")
    changed = pictures / "dog" / "5.jpg"
    Image.new("RGB", (24, 25), "red").save(changed)
    os.utime(changed, (1, 1))
    after = load_pictures(pictures, cache=tmp_path / "cache")
    assert len(list((tmp_path / "cache").iterdir())) == 2
    assert sources.digest_of(before.train[0]) != sources.digest_of(after.train[0])
    same(after, load_pictures(pictures))


def test_nets_train_on_images_that_are_decoded_as_needed(pictures, tmp_path, large, monkeypatch):
    monkeypatch.setattr(train, "STAGES", train.STAGES[:1])
    brief = ["--epochs", "1", "--seeds", "1", "--width", "0.25", "--no-jit-compile"]
    brief += ["--data", str(pictures), "--conv", "separable", "--batch-size", "8"]
    records = []
    with without_timing(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the damaged file
        records.append(train.main([*brief, "--output", str(tmp_path / "in_memory")]))
        large()
        records.append(train.main([*brief, "--output", str(tmp_path / "decoded")]))
    first, second = ([row.accuracy for row in record.rows] for record in records)
    assert first == second and records[0].test_part == records[1].test_part


def test_an_image_that_vanishes_ends_a_run_with_a_sentence(
    pictures, tmp_path, large, monkeypatch, capsys
):
    large()
    compare = train.compare_nets

    def vanish(net, dataset, *args):
        for path in pictures.glob("*/*.jpg"):
            path.unlink()
        return compare(net, dataset, *args)

    monkeypatch.setattr(train, "compare_nets", vanish)
    with pytest.raises(SystemExit, match="1"), without_timing(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        train.main(["--data", str(pictures), "--output", str(tmp_path / "out")])
    assert "cannot be read any more" in capsys.readouterr().err


# Recordings


@pytest.fixture
def words(tmp_path):
    rng, folder = np.random.default_rng(0), tmp_path / "words"
    for word in ("no", "yes"):
        (folder / word).mkdir(parents=True)
        for i in range(10):
            soundfile.write(folder / word / f"{i}.wav", rng.uniform(-1, 1, 4_000), 8_000)
    return folder


def test_a_cached_run_reads_no_recording(words, tmp_path, large, monkeypatch):
    load = partial(audio.load, folder=words, cache=tmp_path / "cache")
    expected = load()
    monkeypatch.setattr(spectrograms, "sound_of", not_again)
    monkeypatch.setattr(spectrograms, "_scale_of", not_again)
    monkeypatch.setattr(reading, "is_float", not_again)
    same(load(), expected)
    large()
    mapped = load()
    assert isinstance(mapped.train[0], sources.Ordered)
    same(mapped, expected)


def test_recordings_need_no_folder_that_can_be_written(words, tmp_path, large, monkeypatch):
    expected = audio.load(folder=words, cache=tmp_path / "cache")
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    large()
    with pytest.warns(UserWarning, match="not cached for the next run"):
        same(audio.load(folder=words), expected)


def test_a_cache_is_a_folder(words, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="`cache` must be a folder"):
        audio.load(folder=words, cache=tmp_path / "file")


def test_statistics_of_pieces_are_those_of_numpy_to_the_last_bit(monkeypatch):
    x = np.random.default_rng(0).normal(-3, 1, (70, 49, 40)).astype("float32")
    monkeypatch.setattr(spectrograms, "PIECE", 16)
    monkeypatch.setattr(spectrograms, "BANDS_BYTES", 7 * 4 * 70 * 49)
    found = *spectrograms.moments_of(x), spectrograms.background_of(x)
    flat = x.reshape(-1, 40)
    expected = flat.mean(0), flat.var(0), np.quantile(x, 0.1, axis=(0, 1))
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)
    assert augment.augmentation(x).layers[1].background == expected[2].tolist()
    assert features.Settings(8_000).bands == 40


# Texts


def test_tokens_are_the_same_from_a_cache(tmp_path, large, monkeypatch):
    texts = np.array([f"words of text {i % 7} and {i}" for i in range(50)], object)
    tokenizer = tokens.Tokenizer(tokens.learn_vocabulary(texts, 100), 8)
    expected, place = tokenizer.arrays(texts), tmp_path
    np.testing.assert_array_equal(tokenizer.arrays(texts, place), expected)
    large()
    np.testing.assert_array_equal(tokenizer.arrays(texts)[:], expected)
    monkeypatch.setattr(tokens.Tokenizer, "pieces", not_again)
    mapped = tokenizer.arrays(texts, place)
    assert isinstance(mapped, sources.Ordered)
    np.testing.assert_array_equal(mapped[:], expected)
    labels, size = np.arange(50) % 2, len(tokenizer.vocabulary)
    for function in (ratios.occurrences, partial(ratios.log_count_ratios, y=labels)):
        found = [function(x, vocabulary_size=size) for x in (expected, mapped)]
        np.testing.assert_array_equal(*found)


def test_outputs_are_those_of_the_whole_array(monkeypatch):
    class Model:
        def predict(self, x, batch_size, verbose):
            assert len(x) <= 2 * batch_size
            return 2 * x

    monkeypatch.setattr(prediction, "BATCHES", 2)
    x = np.arange(23.0)
    found = prediction.outputs_of(Model(), sources.Ordered(x, np.arange(23)), 4)
    np.testing.assert_array_equal(found, 2 * x)


# Several runs at once


def test_of_several_runs_at_once_one_writes_and_the_others_wait(tmp_path, capsys):
    made, found, rows = [], [], np.arange(12.0).reshape(4, 3)

    def make(add):
        made.append(threading.get_ident())
        time.sleep(0.3)  # the others come meanwhile
        add(cache.SAMPLES, rows.shape, rows.dtype, iter(rows))

    def run():
        found.append(cache.stored(tmp_path, "key", make, lambda arrays: True).samples)

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1 and "Waiting for another run" in capsys.readouterr().out
    for samples in found:
        np.testing.assert_array_equal(samples, rows)
    assert [path.name for path in tmp_path.iterdir()] == ["key.npz"]


KILLED = """
import importlib.util, sys, time
from pathlib import Path
spec = importlib.util.spec_from_file_location("files", sys.argv[1])
files = importlib.util.module_from_spec(spec)
spec.loader.exec_module(files)
def writer(beside):
    beside.write_text("half")
    print("ready", flush=True)
    time.sleep(60)
with files.locked(Path(sys.argv[2]).with_suffix(".lock")):
    files.write(Path(sys.argv[2]), writer)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="sends a signal")
def test_what_a_killed_run_leaves_is_not_taken_for_whole(tmp_path):
    path = tmp_path / "key.npz"
    command = [sys.executable, "-c", KILLED, files.__file__, path]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGKILL)
    rows = np.ones((2, 3))
    make = lambda add: add(cache.SAMPLES, rows.shape, rows.dtype, iter(rows))  # noqa: E731
    found = cache.stored(tmp_path, "key", make, lambda arrays: True)
    np.testing.assert_array_equal(found.samples, rows)
    assert list(tmp_path.iterdir()) == [path]  # nothing is left behind
