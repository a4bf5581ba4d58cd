"""Files of others and of earlier runs, damaged in any way: read, made again, or refused by name."""

import contextlib
import functools
import io
import json
import os
import shutil
import warnings
import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sepconv_layers import cli, comparison, export
from tests.backends import BACKEND
from tests.fuzz.profiles import LIMIT, cases, within
from tests.fuzz.strategies import SEEDS
from tests.test_comparison import build, compare_toy, without_timing

pytestmark = pytest.mark.skipif(BACKEND != "tensorflow", reason="the same on every backend")

examples = pytest.importorskip("examples.sources")


# Damage: functions of a path.


def truncate(share, path):
    os.truncate(path, int(path.stat().st_size * share))


def flip(positions, path):
    content = bytearray(path.read_bytes())
    for position in positions:
        if content:
            content[int(position * (len(content) - 1))] ^= 1 << int(position * 1e6) % 8
    path.write_bytes(content)


def replace(name, path):
    path.write_bytes(FOREIGN[name])


def scramble(seed, path):
    path.write_bytes(np.random.default_rng(seed).bytes(200))


def make_folder(path):
    path.unlink()
    path.mkdir()


def make_pipe(path):
    path.unlink()
    os.mkfifo(path)


def make_loop(path):
    path.unlink()
    path.symlink_to(path)


def _npz(**arrays):
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def _zip(**files):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return file.getvalue()


FOREIGN = {
    "nothing": b"",
    "a zero": b"\0",
    "text": b"hello\nworld\n",
    "Latin-1": "Grüße;ja\n".encode("latin-1"),
    "UTF-16": "Grüße,ja\n".encode("utf-16"),
    "JSON": b"{}",
    "a JSON list": b"[1, 2]",
    "a JSON null": b"null",
    "nested JSON": b"[" * 100_000,
    "half a record": b'{"rows": [{"conv": 1}], "task": ',
    "an archive": _zip(a="b"),
    "a Keras file of another kind": _zip(
        **{"config.json": '{"config": []}', "metadata.json": "{}"}
    ),
    "arrays": _npz(a=np.arange(3)),
    "one image of each": _npz(x_train=np.zeros((2, 3, 3)), y_train=np.array([0, 1])),
    "objects": _npz(x_train=np.array([None, {}], object), y_train=np.arange(2)),
    "a claim": b"\x93NUMPY\x01\x00v\x00"
    + b"{'descr': '<f8', 'fortran_order': False, 'shape': (99999999999999,), }".ljust(117)
    + b"\n",
    "a WAV header": b"RIFF\x24\0\0\0WAVEfmt \x10\0\0\0\1\0\1\0\1\0\0\0"
    b"\2\0\0\0\2\0\x10\0data\0\0\0\0",
    "a PNG header": b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR",
    "a gzip header": b"\x1f\x8b\x08\0",
    "bytes": bytes(range(256)) * 8,
}
MILD = st.floats(0, 1).map(lambda share: functools.partial(truncate, share)) | st.lists(
    st.floats(0, 1), min_size=1, max_size=9
).map(lambda positions: functools.partial(flip, positions))
HARSH = st.one_of(
    st.sampled_from(list(FOREIGN)).map(lambda name: functools.partial(replace, name)),
    SEEDS.map(lambda seed: functools.partial(scramble, seed)),
    st.sampled_from([make_folder, make_pipe, make_loop]),
)
DAMAGE = MILD | HARSH


# What there is to read. Each of these makes a folder, and gives the files to damage and a reader.


def images_in_folders(folder):
    from PIL import Image

    from examples.vision import data

    rng = np.random.default_rng(0)
    for number in range(16):
        place = folder / "own" / ("a", "b")[number % 2]
        place.mkdir(parents=True, exist_ok=True)
        array = rng.integers(256, size=(6, 7, 3)).astype("uint8")
        Image.fromarray(array).save(place / f"{number}.{('png', 'jpg', 'bmp', 'gif')[number % 4]}")
    return sorted(folder.rglob("*.*"))[:4], lambda: data.load(folder=folder / "own")


def arrays_of_images(folder):
    from examples.vision import data

    rng = np.random.default_rng(0)
    x, y = rng.integers(256, size=(40, 6, 7)).astype("uint8"), np.arange(40) % 2
    np.savez_compressed(folder / "own.npz", x_train=x, y_train=y)
    return [folder / "own.npz"], lambda: data.load(folder=folder / "own.npz")


def tables_of_texts(suffix, folder):
    from examples.text import data

    rows = [(f"some {word} text {n}", word) for n in range(20) for word in ("good", "bad")]
    path = folder / f"own{suffix}"
    if suffix == ".jsonl":
        lines = [json.dumps({"text": text, "label": label}) for text, label in rows]
    else:
        lines = [("," if suffix == ".csv" else "\t").join(row) for row in rows]
    path.write_text("\n".join(lines) + "\n")
    return [path], lambda: data.load(file=path)


def recordings(folder):
    import soundfile

    from examples.audio import data

    rng = np.random.default_rng(0)
    for number in range(16):
        place = folder / "own" / ("yes", "no")[number % 2]
        place.mkdir(parents=True, exist_ok=True)
        waveform = rng.normal(0, 0.1, 2000).clip(-1, 1)
        soundfile.write(place / f"{number}.{('wav', 'flac', 'ogg')[number % 3]}", waveform, 8000)
    return sorted(folder.rglob("*.*"))[:3], functools.partial(
        data.load, folder=folder / "own", seconds=0.25, cache=folder / "cache"
    )


def a_cache_of_spectrograms(folder):
    _, read = recordings(folder)
    read()
    return list((folder / "cache").iterdir()), read


def a_list_of_recordings(folder):
    _, read = recordings(folder)
    path = folder / "own" / "testing_list.txt"
    path.write_text("yes/0.wav\nyes/2.ogg\nno/1.flac\n")
    return [path], read


def a_record(folder):
    found = comparison.Comparison.load(Path(__file__).parents[2] / "results" / "vision" / "cifar10")
    found.save(folder)
    return [folder / "results.json"], functools.partial(comparison.Comparison.load, folder)


def a_model(folder):
    build("separable").save(folder / "net.keras")
    return [folder / "net.keras"], functools.partial(command, "profile", folder / "net.keras")


def arrays_for_an_export(folder):
    build("separable").save(folder / "net.keras")
    np.savez(folder / "sample.npz", np.zeros((2, 6, 6, 3), "float32"))
    net, sample, to = folder / "net.keras", folder / "sample.npz", folder / "net.tflite"
    words = ("export", net, "--to", "litert", "--sample", sample, "--output", to)
    return [sample], functools.partial(command, *words)


def a_litert_file(folder):
    export.to_litert(build("separable"), folder / "net.tflite")
    return [folder / "net.tflite"], functools.partial(export.load, folder / "net.tflite")


def an_onnx_file(folder):
    export.to_onnx(build("separable"), folder / "net.onnx")
    return [folder / "net.onnx"], functools.partial(export.load, folder / "net.onnx")


def a_saved_model(folder):
    export.to_hub(build("separable"), folder / "net-hub")
    files = [path for path in (folder / "net-hub").rglob("*") if path.is_file()]
    return sorted(files), functools.partial(export.load, folder / "net-hub")


def command(*words):
    """A call of `sepconv`; what is wrong with its files ends it with a sentence."""
    errors = io.StringIO()
    with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
        code = cli.main(list(map(str, words)))
    if code:
        raise ValueError(errors.getvalue())


OF_OTHERS = {
    "images": images_in_folders,
    "arrays": arrays_of_images,
    "csv": functools.partial(tables_of_texts, ".csv"),
    "tsv": functools.partial(tables_of_texts, ".tsv"),
    "jsonl": functools.partial(tables_of_texts, ".jsonl"),
    "recordings": recordings,
    "list": a_list_of_recordings,
    "record": a_record,
    "model": a_model,
    "export": arrays_for_an_export,
}
# Engines in C++ read these, and may crash on a bit that is another one.
OF_ENGINES = {"litert": a_litert_file, "onnx": an_onnx_file, "hub": a_saved_model}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Makes each kind of files once, and restores what was damaged."""

    @functools.cache
    def make(maker):
        folder = tmp_path_factory.mktemp("files")
        files, read = maker(folder)
        shutil.copytree(folder, folder.with_name(f"{folder.name}-whole"))
        if read is not None:
            read()  # libraries that it imports late take seconds, which no time limit should count
        return folder, files, read

    def restored(maker):
        folder, files, read = make(maker)
        shutil.rmtree(folder)
        shutil.copytree(folder.with_name(f"{folder.name}-whole"), folder)
        return files, read

    return restored


def read_or_refuse(files, read, which, damage):
    path = files[which % len(files)]
    damage(path)
    with within(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            read()
        except ValueError as error:
            # A part of a table may be one, but of too few rows: then this is what is said.
            said = (path.name, str(path.parent), path.parents[1].name, "Received")
            assert any(words in str(error) for words in said), f"it names no file: {error}"


@pytest.mark.parametrize("kind", OF_OTHERS)
@cases(few=2, many=35)
@given(which=st.integers(0, 9), damage=DAMAGE)
def test_a_damaged_file_of_others_is_read_or_refused_by_name(made, kind, which, damage):
    read_or_refuse(*made(OF_OTHERS[kind]), which, damage)


@pytest.mark.parametrize("kind", OF_ENGINES)
@cases(few=1, many=15)
@given(which=st.integers(0, 9), damage=HARSH)
def test_a_damaged_artifact_is_refused_by_name(made, kind, which, damage):
    read_or_refuse(*made(OF_ENGINES[kind]), which, damage)


@cases(few=2, many=40)
@given(damage=DAMAGE)
def test_a_damaged_cache_is_made_again(made, damage):
    (path,), read = made(a_cache_of_spectrograms)
    expected = read()
    damage(path)
    with within(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = read()
    for part in ("train", "val", "test"):
        for a, b in zip(getattr(found, part), getattr(expected, part), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-4)


def a_finished_run(folder):
    run_toy(folder)
    return sorted(path for path in folder.glob("runs/*/*") if path.is_file()), None


def run_toy(folder):
    with without_timing():
        found = compare_toy(convs="separable", seeds=1, epochs=1, output=folder)
    keras.utils.clear_session()
    return found


@cases(few=1, many=12)
@given(which=st.integers(0, 9), damage=DAMAGE)
def test_a_damaged_file_of_a_run_is_made_again(made, which, damage):
    files, _ = made(a_finished_run)
    path = files[which % len(files)]
    folder = path.parents[2]
    expected = comparison.Comparison.load(folder)
    damage(path)
    with within(3 * LIMIT), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = run_toy(folder)
    assert found.rows[0].accuracy == expected.rows[0].accuracy
