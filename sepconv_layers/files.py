"""Atomic writes: a crash at any moment leaves the old file or folder, or the new one.

New content is written into a room beside its target, a hidden folder that is locked while its
process lives, and moved to its place in one step. The next writer into the same folder removes
the rooms of crashed processes.
"""

import contextlib
import ctypes
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

__all__ = ["write", "write_text"]

ROOM = ".partial-"
ROOM_NAME = re.compile(re.escape(ROOM) + r"\w{8}")  # as `tempfile` draws it
LOCK, NEW, OLD = "lock", "new", "old"  # what is in a room


def write(path: Path, writer: Callable[[Path], Any]) -> None:
    """Lets `writer` write a file or a folder beside the target, then puts it in its place.

    It is synced to disk first, and the old or the new one is there at every moment, except when a
    folder is replaced on a system that cannot swap two: there the old one may be missing until the
    next call.

    Raises:
        OSError: If it cannot be written. Then, as after any error of `writer`, the target is as it
            was, and what was written beside it is removed.
    """
    try:
        clear(path.parent)
        with _room(path.parent) as room:
            new = room / NEW / path.name
            new.parent.mkdir()
            writer(new)
            _sync(new)
            _put(new, path, room)
    except OSError as error:
        raise _named(error, path) from error
    with contextlib.suppress(OSError):  # it is in its place, whatever becomes of it
        _sync_one(path.parent)


def write_text(path: Path, text: str) -> None:
    """Writes a text in UTF-8."""
    write(path, lambda beside: beside.write_text(text, "utf-8"))


def regular(path: Path) -> Path:
    """Returns the path; raises `ValueError` if it is not a file: a pipe may never end."""
    if not path.is_file():
        raise ValueError("it is no file" if os.path.lexists(path) else "it is missing")
    return path


def regular_below(folder: Path) -> None:
    """Raises `ValueError` if there is anything but files and folders in a folder."""
    for path in folder.rglob("*"):
        if not (path.is_file() or path.is_dir()):
            raise ValueError(f"{path} is no file")


def clear(folder: Path) -> None:
    """Removes the rooms of dead processes, and restores what they had moved away."""
    for room in folder.glob(f"{ROOM}*"):
        if ROOM_NAME.fullmatch(room.name) and room.is_dir() and not room.is_symlink():
            with contextlib.suppress(OSError):  # then it is for the next call
                _clear_room(room)


def _clear_room(room: Path) -> None:
    if not (room / LOCK).exists():  # still to come; or its process died before, and it is empty
        return room.rmdir()
    with open(room / LOCK, "r+b") as lock:
        _hold(lock.fileno())  # or an error, if its process lives
    _remove_room(room)


@contextlib.contextmanager
def _room(folder: Path) -> Iterator[Path]:
    """A locked room of this process."""
    lock = None
    while lock is None:
        room = Path(tempfile.mkdtemp(prefix=ROOM, dir=folder))
        lock = _lock(room)
    try:
        with lock:
            yield room
    finally:
        with contextlib.suppress(OSError):  # then it is for the next call
            _remove_room(room)


def _lock(room: Path) -> BinaryIO | None:
    """Locks a new room; `None` if another process removed it first."""
    try:
        lock = open(room / LOCK, "x+b")
    except FileNotFoundError:
        return None
    try:
        _hold(lock.fileno())
        is_ours = (room / LOCK).exists()
    except BlockingIOError:
        is_ours = False
    except OSError:  # a file system without locks: what is left behind there stays
        is_ours = True
    if is_ours:
        return lock
    lock.close()
    return None


def _hold(file: int) -> None:
    """Locks an open file until it is closed or the process ends, or raises `OSError`."""
    if sys.platform == "win32":
        import msvcrt

        msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _remove_room(room: Path) -> None:
    for old in (room / OLD).glob("*"):
        target = room.parent / old.name
        if not os.path.lexists(target):  # nothing came in its place
            os.replace(old, target)
    for name in (OLD, NEW):
        if (room / name).exists():
            shutil.rmtree(room / name)
    (room / LOCK).unlink()  # last, for it says whose the rest is
    room.rmdir()


def _put(new: Path, path: Path, room: Path) -> None:
    if not (new.is_dir() and os.path.lexists(path)):
        os.replace(new, path)
    elif not _swap(new, path):  # no folder is renamed to one that is there
        old = room / OLD / path.name
        old.parent.mkdir()
        os.replace(path, old)  # from where it comes back, if the next step fails
        os.replace(new, path)


def _swap(one: Path, other: Path) -> bool:
    """Swaps two paths in one step, if the operating and file systems support that."""
    if os.name != "posix":
        return False
    here, exchange = -100, 2  # AT_FDCWD, and RENAME_EXCHANGE or RENAME_SWAP
    libc, names = ctypes.CDLL(None), (os.fsencode(one), os.fsencode(other))
    if hasattr(libc, "renameat2"):  # Linux
        return libc.renameat2(here, names[0], here, names[1], exchange) == 0
    if hasattr(libc, "renamex_np"):  # macOS
        return libc.renamex_np(*names, exchange) == 0
    return False


def _sync(path: Path) -> None:
    """Syncs a file, or a folder with its contents, to disk."""
    for part in [*path.rglob("*"), path] if path.is_dir() else [path]:
        if part.is_file():
            _sync_one(part)
        elif part.is_dir():
            with contextlib.suppress(OSError):  # not all systems can
                _sync_one(part)


def _sync_one(path: Path) -> None:
    file = os.open(path, os.O_RDWR if sys.platform == "win32" else os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def _named(error: OSError, path: Path) -> OSError:
    """The error as a sentence that names what could not be written."""
    reason = error.strerror or str(error).partition("\n")[0]
    if error.filename is not None and ROOM not in str(error.filename):  # what the writer reads
        reason += f": {error.filename}"
    kind = type(OSError(error.errno, reason))  # such as `PermissionError`
    named = kind(f"{path} cannot be written: {reason}. What was there is untouched.")
    named.errno = error.errno
    return named
