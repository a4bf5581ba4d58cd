"""Writing files and folders: what a kill, a full disk or another process leaves of them."""

import errno
import functools
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sepconv_layers import files
from tests.backends import the_same_everywhere
from tests.hostile import little_disk

pytestmark = the_same_everywhere


def make(text, beside):
    """A folder like a SavedModel, where its name has no ending, or a file."""
    if beside.suffix:
        beside.write_text(text)
    else:
        (beside / "variables").mkdir(parents=True)
        (beside / "saved_model.pb").write_text(text)
        (beside / "variables" / "weights").write_text(text)


def content(path):
    """The text that it was made of, if it is whole."""
    parts = [path] if path.suffix else [path / "saved_model.pb", path / "variables" / "weights"]
    (text,) = {part.read_text() for part in parts}
    return text


def write(path, text):
    files.write(path, functools.partial(make, text))


def fail(path, error):
    """Writes half of it, and then no more."""

    def writer(beside):
        make("half", beside)
        raise error

    files.write(path, writer)


@pytest.fixture(params=["net.json", "net-hub"])
def target(request, tmp_path):
    path = tmp_path / request.param
    write(path, "old")
    return path


# Kills. The script loads the module alone, and forks a process for each kill.
KILLS = """if True:
    import importlib.util, itertools, os, signal, sys
    from pathlib import Path

    spec = importlib.util.spec_from_file_location("files", sys.argv[1])
    files = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(files)
    target, can_swap = Path(sys.argv[2]), sys.argv[3] == "swap"
    if not can_swap:
        files._swap = lambda one, other: False

    def writer(text, beside):
        parts = [beside] if beside.suffix else [beside / "saved_model.pb", beside / "weights"]
        parts[0].parent.mkdir(exist_ok=True)
        for part in parts:
            part.write_text(text)

    def content():
        parts = [target] if target.suffix else [target / "saved_model.pb", target / "weights"]
        (text,) = {part.read_text() for part in parts}
        return text

    def write(text, last=None):
        steps = itertools.count()

        def kill(event, arguments):  # before what the process asks of the system
            if event.startswith(("os.", "open", "shutil.", "tempfile.", "fcntl.", "ctypes.")):
                if next(steps) == last:
                    os.kill(os.getpid(), signal.SIGKILL)

        process = os.fork()
        if not process:
            sys.addaudithook(kill)
            files.write(target, lambda beside: writer(text, beside))
            os._exit(0)
        return os.waitpid(process, 0)[1]

    others = set(target.parent.iterdir())
    write("first")
    for step in itertools.count():
        before = content()
        status = write(f"new {step}", step)
        if not can_swap and not target.exists():
            files.remove_leftovers(target.parent)
            assert content() == before, step
        assert content() in (before, f"new {step}"), step
        assert write(f"next {step}") == 0 and content() == f"next {step}", step
        assert set(target.parent.iterdir()) == {*others, target}, step
        if status == 0:
            break
    print(step)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forked processes")
@pytest.mark.parametrize(
    ("name", "way"), [("net.json", "swap"), ("net-hub", "swap"), ("net-hub", "two steps")]
)
def test_a_kill_at_any_step_leaves_the_old_one_or_the_new_one(name, way, tmp_path):
    if name == "net-hub" and way == "swap":
        for text in ("one", "two"):
            write(tmp_path / text, text)
        if not files._swap(tmp_path / "one", tmp_path / "two"):
            pytest.skip("the file system cannot swap folders")
        assert content(tmp_path / "one") == "two"
    (tmp_path / "net-hub.partial").write_text("mine")
    (tmp_path / ".partial-notes").mkdir()
    command = [sys.executable, "-c", KILLS, files.__file__, tmp_path / name, way]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 15
    assert (tmp_path / "net-hub.partial").read_text() == "mine"


def test_what_a_living_process_writes_is_not_disturbed(target):
    def writer(beside):
        make("slow", beside)
        write(target, "fast")  # as another process would
        write(target.with_name("other.txt"), "other")
        assert content(target) == "fast"

    files.write(target, writer)
    assert content(target) == "slow"
    assert len(list(target.parent.iterdir())) == 2


def test_folders_of_users_are_no_leftovers(target):
    kept = [target.parent / name for name in (".partial-abcdefgh", ".partial-", ".partial-x")]
    for folder in kept:
        folder.mkdir()
        (folder / "notes").write_text("mine")
    link = target.parent / ".partial-ijklmnop"
    link.symlink_to(kept[0])
    write(target, "new")
    assert [(folder / "notes").read_text() for folder in (*kept, link)] == ["mine"] * 4


@pytest.mark.parametrize("error", [OSError("No space"), ValueError("No space"), KeyboardInterrupt])
def test_what_fails_leaves_the_old_one_alone(target, error):
    before = sorted(target.parent.iterdir())
    with pytest.raises(type(error) if isinstance(error, Exception) else error):
        fail(target, error)
    assert content(target) == "old" and sorted(target.parent.iterdir()) == before


def test_a_folder_that_can_be_moved_away_but_not_replaced_comes_back(tmp_path, monkeypatch):
    folder, replace = tmp_path / "net-hub", os.replace
    write(folder, "old")

    def refuse_new(source, to):
        if Path(to) == folder and files.NEW in Path(source).parts:
            raise OSError(errno.EIO, "Input/output error")
        replace(source, to)

    monkeypatch.setattr(files, "_swap", lambda one, other: False)
    monkeypatch.setattr(os, "replace", refuse_new)
    with pytest.raises(OSError, match="net-hub cannot be written: Input/output error"):
        write(folder, "new")
    assert content(folder) == "old" and list(tmp_path.iterdir()) == [folder]


def test_a_full_disk_is_a_sentence_that_names_the_file(target):
    with little_disk(), pytest.raises(OSError, match=f"{target} cannot be written: ") as raised:
        write(target, "x" * 10_000)
    assert raised.value.errno == errno.EFBIG
    assert content(target) == "old" and list(target.parent.iterdir()) == [target]


def test_a_folder_in_the_place_of_a_file_is_left_there(tmp_path):
    (tmp_path / "results.json" / "in it").mkdir(parents=True)
    with pytest.raises(IsADirectoryError, match="results.json cannot be written: Is a directory"):
        files.write_text(tmp_path / "results.json", "text")
    assert [path.name for path in tmp_path.rglob("*")] == ["results.json", "in it"]


def test_a_folder_that_is_missing_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="absent.net.json cannot be written: No such file"):
        files.write_text(tmp_path / "absent" / "net.json", "text")


def test_what_a_writer_cannot_read_is_named(tmp_path):
    def copy(beside):
        beside.write_bytes((tmp_path / "source").read_bytes())

    with pytest.raises(FileNotFoundError, match="net.json cannot be written: No such.*source"):
        files.write(tmp_path / "net.json", copy)


def test_all_is_on_the_disk_before_it_is_in_its_place(target, monkeypatch):
    """Or a power cut would leave a name without content."""
    synced, fsync = [], os.fsync

    def spy(file):
        synced.append((os.fstat(file).st_ino, content(target)))
        fsync(file)

    monkeypatch.setattr(os, "fsync", spy)
    write(target, "new")
    parts = [target, *target.rglob("*")] if target.is_dir() else [target]
    expected = {(part.stat().st_ino, "old") for part in parts}
    assert set(synced) == expected | {(target.parent.stat().st_ino, "new")}
    assert synced[-1] == (target.parent.stat().st_ino, "new")
