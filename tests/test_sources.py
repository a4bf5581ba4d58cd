"""Files of others: what may not be opened, unpacked or trained on, and what is said of it."""

import argparse
import gzip
import io
import lzma
import os
import socket
import tarfile
import zipfile
from collections import Counter

import numpy as np
import pytest

from examples import folders, sources
from examples.command_line import command, user_errors
from examples.vision import predict, train
from examples.volumes import train as volumes
from tests.fuzz.profiles import within
from tests.test_vision_data import write_classes, write_npz

unix = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes in folders")


def a_pipe(path):
    os.mkfifo(path)


def a_socket(path):
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(path))


def a_device(path):
    path.symlink_to("/dev/zero")


def a_link_to_a_pipe(path):
    os.mkfifo(path.with_suffix(".pipe"))
    path.symlink_to(path.with_suffix(".pipe"))


# What may not be opened


def ends(main, capsys, *arguments):
    """What a command says at once of arguments that it does not take."""
    with within(), pytest.raises(SystemExit, match="2"):
        main([str(argument) for argument in arguments])
    return capsys.readouterr().err


@unix
@pytest.mark.parametrize("make", [a_pipe, a_device, a_link_to_a_pipe])
def test_a_pipe_or_device_is_no_file(tmp_path, capsys, make):
    make(tmp_path / "a.npz")
    for main in (train.main, volumes.main):
        said = ends(main, capsys, "--data", tmp_path / "a.npz")
        assert "--data must be an existing" in said and "which is a " in said
    text = pytest.importorskip("examples.text.train")
    (tmp_path / "own").mkdir()
    make(tmp_path / "own" / "train.tsv")
    assert "which is a " in ends(text.main, capsys, "--data", tmp_path / "a.npz")
    assert "train.tsv must be a file. " in ends(text.main, capsys, "--data", tmp_path / "own")
    # Where a model and its record are looked for.
    assert "must be a file. " in ends(predict.main, capsys, tmp_path / "a.npz", tmp_path / "a.npz")
    make(tmp_path / "saved_model.pb")
    predict_text = pytest.importorskip("examples.text.predict").main
    assert "saved_model.pb must be a file. " in ends(predict_text, capsys, tmp_path, "so")
    make(tmp_path / "results.json")
    assert "which is a" in ends(predict.main, capsys, tmp_path, tmp_path / "a.npz")


@unix
def test_what_is_no_file_in_a_folder_is_left_out_and_counted(tmp_path, capsys):
    write_classes(tmp_path)
    a_pipe(tmp_path / "cat" / "a.png")
    a_socket(tmp_path / "cat" / "b.png")
    (tmp_path / "dog" / "broken.jpg").symlink_to("nowhere")
    with within():
        assert len(folders.files_by_class({"train": tmp_path}, (".png",), "images")) == 1
    out = capsys.readouterr().out
    assert "2 files that are no regular files, 1 .jpg file" in out


@pytest.mark.parametrize("place", ["x" * 5_000, "~nobody-here/x", "a\0b", "x/" * 3_000])
def test_places_that_cannot_be_are_named_in_short(capsys, place):
    text = pytest.importorskip("examples.text.train")
    for main in (train.main, volumes.main, text.main):
        said = ends(main, capsys, "--data", place)
        assert "--data must be an existing" in said and len(said.split("error:")[1]) < 400


def test_a_circle_of_links_is_named(tmp_path, capsys):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    assert "Symlink loop" in ends(train.main, capsys, "--data", tmp_path / "loop")


def test_a_folder_where_a_file_should_be_and_a_file_where_a_folder_should_be(tmp_path, capsys):
    (tmp_path / "own" / "train.tsv").mkdir(parents=True)
    (tmp_path / "a.npz").mkdir()
    (tmp_path / "images").write_text("no folder")
    text = pytest.importorskip("examples.text.train")
    said = ends(text.main, capsys, "--data", tmp_path / "own")
    assert "train.tsv must be a file. Received a folder" in said
    assert "one folder of images" in ends(train.main, capsys, "--data", tmp_path / "a.npz")
    assert "must be an existing .npz" in ends(volumes.main, capsys, "--data", tmp_path / "a.npz")
    assert "must be an existing folder" in ends(train.main, capsys, "--data", tmp_path / "images")


def test_what_may_not_be_read_is_a_sentence(tmp_path, capsys, monkeypatch):
    path = write_npz(tmp_path / "a.npz")

    def refuse(*arguments, **options):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(zipfile, "ZipFile", refuse)
    assert "a.npz cannot be read: Permission denied" in ends(train.main, capsys, "--data", path)
    monkeypatch.setattr(sources.Path, "iterdir", refuse)
    said = ends(train.main, capsys, "--data", tmp_path)
    assert "cannot be read: Permission denied" in said


# What may not be unpacked


def claiming(path, shape, dtype="<f4"):
    """A small `.npz` file with an array that says that it is large."""
    head = io.BytesIO()
    about = {"descr": dtype, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(head, about)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x_train.npy", head.getvalue() + bytes(100))
        archive.writestr("y_train.npy", head.getvalue() + bytes(100))


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        ((2**40, 4, 4), "<f4"),  # 64 TiB
        ((2**62, 2**62), "|u1"),
        ((2**25, 24, 24), "<f8"),  # 144 GiB
        ((99,), "<U5000000"),
        ((-1, 8, 8), "<f4"),
    ],
)
def test_an_array_is_not_larger_than_its_file(tmp_path, capsys, shape, dtype):
    claiming(tmp_path / "a.npz", shape, dtype)
    for main in (train.main, volumes.main):
        assert "a.npz" in ends(main, capsys, "--data", tmp_path / "a.npz")


def zeros_in_zip(path, size):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("x_train.npy", "y_train.npy"):
            with archive.open(name, "w", force_zip64=True) as file:
                about = {"descr": "|u1", "fortran_order": False, "shape": (size // 64, 8, 8)}
                np.lib.format.write_array_header_1_0(file, about)
                for _ in range(size // 2**20):
                    file.write(bytes(2**20))


def zeros_in(opened, path, size):
    with opened(path, "wb") as file:
        for _ in range(size // 2**20):
            file.write(bytes(2**20))


def zeros_in_tar(path, size):
    with tarfile.open(path, "w:gz") as archive:
        info = tarfile.TarInfo("a.txt")
        info.size = size
        archive.addfile(info, io.BytesIO(bytes(size)))


BOMBS = {
    "a.npz": (zeros_in_zip, lambda path: sources.read_npz(path, ["x_train"])),
    "a.tsv.gz": (lambda *of: zeros_in(gzip.open, *of), sources.read_file),
    "a.tsv.xz": (lambda *of: zeros_in(lzma.open, *of), sources.read_file),
    "a.tar.gz": (zeros_in_tar, lambda path: list(sources.tar_files(path, bool))),
}


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_not_unpacked(tmp_path, monkeypatch, name):
    write, read = BOMBS[name]
    write(tmp_path / name, 2**24)
    assert read(tmp_path / name)  # which is harmless
    monkeypatch.setattr(sources, "HARMLESS", 2**22)
    with within(), pytest.raises(ValueError, match=f"{name} must not unpack to more than 500"):
        read(tmp_path / name)
    monkeypatch.setattr(sources, "HARMLESS", 2**30)
    monkeypatch.setattr(sources, "MEMORY", 2**24)
    with within(), pytest.raises(ValueError, match=f"{name} must fit into memory"):
        read(tmp_path / name)


def test_only_what_is_wanted_has_to_fit(tmp_path, monkeypatch):
    path = write_npz(tmp_path / "a.npz", more=np.zeros(2**20))
    monkeypatch.setattr(sources, "MEMORY", 2**20)
    assert "more" in sources.npz_names(path)
    assert set(sources.read_npz(path, ["x_train", "y_train"])) == {"x_train", "y_train"}
    with pytest.raises(ValueError, match="memory"):
        sources.read_npz(path, ["more"])


def test_an_archive_is_read_to_its_end_or_refused(tmp_path):
    path = tmp_path / "a.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for i in range(3):
            info = tarfile.TarInfo(f"folder/{i}.txt")
            content = np.random.default_rng(i).bytes(3_000)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    content = path.read_bytes()
    assert len(list(sources.tar_files(path, lambda name: name.endswith("1.txt")))) == 1
    packed = {"a.tar.gz": content, "a.tar": gzip.decompress(content)}
    for name, whole in packed.items():
        for cut in (0, 200, 512, 3_584, len(whole) // 2, len(whole) - 10_300):
            (tmp_path / name).write_bytes(whole[: max(cut, 0)])
            with pytest.raises(ValueError, match=name):
                list(sources.tar_files(tmp_path / name, bool))
    path.write_bytes(os.urandom(1_000))
    with pytest.raises(ValueError, match="a.tar.gz is truncated or not what its name says"):
        list(sources.tar_files(path, bool))
    info = tarfile.TarInfo("a")
    info.size = -512  # to be read again and again
    (tmp_path / "b.tar").write_bytes(info.tobuf(tarfile.GNU_FORMAT) * 4)
    with within(), pytest.raises(ValueError, match="b.tar"):
        list(sources.tar_files(tmp_path / "b.tar", bool))


@pytest.mark.parametrize("content", ["[" * 100_000, '{"a":' * 50_000, "", "{", "\xff"])
def test_json_that_is_none_or_too_deep_is_named(tmp_path, capsys, content):
    path = tmp_path / "results.json"
    path.write_text(content, "latin-1")
    with pytest.raises(ValueError, match="results.json is truncated or not what"):
        sources.read_json(path)
    # The same where the record of a run is read.
    assert "results.json" in ends(predict.main, capsys, tmp_path, tmp_path / "a.png")


# What is left out, and names


def test_a_class_whose_files_end_otherwise_is_an_error(tmp_path, capsys):
    write_classes(tmp_path, classes=("cat", "dog", "eel"))
    for path in (tmp_path / "eel").iterdir():
        path.rename(path.with_suffix(".heic"))
    said = ends(train.main, capsys, "--data", tmp_path)
    assert "eel must hold images that can be read. Received 10 .heic files" in said
    (tmp_path / "eel").rename(tmp_path / "cat" / "eel")
    found = folders.files_by_class({"train": tmp_path}, (".png",), "images")
    assert {name: len(paths) for name, paths in found["train"].items()} == {"cat": 10, "dog": 10}
    assert f"Left out of {tmp_path}: 10 .heic files.\n" in capsys.readouterr().out


def test_files_beside_the_folders_are_counted(tmp_path, capsys):
    write_classes(tmp_path)
    for name in ("a.png", "b.PNG", "README.md", ".hidden.png"):
        (tmp_path / name).touch()
    folders.files_by_class({"train": tmp_path}, (".png",), "images")
    said = f"Left out of {tmp_path}: 2 .png files, in no folder of a class.\n"
    assert said == capsys.readouterr().out


def test_what_a_folder_of_texts_leaves_out_is_named(tmp_path, capsys):
    pytest.importorskip("tensorflow_text")
    from examples.text import data

    for part in ("train", "test"):
        lines = [f"{label}\ttext {i} of {label}\n" for i in range(6) for label in ("a", "b")]
        (tmp_path / f"{part}.tsv").write_text("".join(lines))
    for name in ("val.xlsx", "more.tsv", ".hidden"):
        (tmp_path / name).touch()
    data.load(file=tmp_path)
    assert f"Left out of {tmp_path}: more.tsv, val.xlsx.\n" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["two\nlines", "two\rlines"])
def test_a_class_of_two_lines_is_refused_before_any_training(tmp_path, capsys, name):
    write_classes(tmp_path, classes=("cat", name))
    said = ends(train.main, capsys, "--data", tmp_path)
    assert "must be one line" in said and "Rename the folder" in said


@unix
def test_names_that_are_no_utf_8_do_not_stop_a_run(tmp_path, capfd):
    from examples.vision import data

    root = tmp_path / os.fsdecode(b"caf\xe9")
    try:
        write_classes(root, classes=("cat", os.fsdecode(b"ch\xe2t")))
    except OSError:
        pytest.skip("this file system takes no such names")
    os.rename(root / "cat" / "0.png", os.path.join(os.fsencode(root), b"cat", b"0\xff.png"))
    (root / "cat" / "notes.txt").touch()
    dataset = data.load(folder=root)
    assert dataset.classes == ("cat", "ch\\xe2t") and dataset.name == "caf\\xe9"
    assert sum(len(y) for _, y in (dataset.train, dataset.val, dataset.test)) == 20
    said = [dataset.note, dataset.sizes("images"), command("m", [str(root)])]
    "".join(said).encode("utf-8")
    assert "caf\\xe9: 1 .txt file" in capfd.readouterr().out


def test_counts_are_words():
    assert folders.counted(Counter({".a": 1, ".b": 1_234})) == "1,234 .b files, 1 .a file"


# The sentence at the end of a command


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError("`text_column` must be `x`. Give `limit`."), "--text-column must be `x`. Give"),
        (ValueError("`folder` must be"), "error: --data must be"),
        (MemoryError("Unable to allocate 58. TiB"), "more memory than is available: Unable to a"),
        (FileNotFoundError(2, "No such file", "x" * 5_000), "… (5,000 characters): No such file"),
        (RecursionError("too deep"), "error: too deep"),
    ],
)
def test_errors_of_users_are_sentences_with_the_options_as_they_are_spelled(capsys, error, said):
    parser = argparse.ArgumentParser()
    parser.add_argument("--text-column")
    parser.add_argument("--limit")
    with pytest.raises(SystemExit, match="2"), user_errors(parser, folder="--data"):
        raise error
    assert said in capsys.readouterr().err
