"""Atomic writes: a crash at any moment leaves either the old file or folder, or the new one.

New content is written to a staging folder beside its target, hidden and locked while its process
lives, and then moved into place in one step. The next write into the same parent folder removes the
staging folders of crashed processes.
"""

import contextlib
import ctypes
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

__all__ = ["locked", "write", "write_text"]

PREFIX = ".partial-"  # of staging folders
STAGING_NAME = re.compile(re.escape(PREFIX) + r"\w{8}")  # `tempfile` adds eight characters
LOCK, NEW, OLD = "lock", "new", "old"  # in a staging folder: a file and two folders
POLL_SECONDS = 0.2  # between two looks at a lock


def write(path: Path, writer: Callable[[Path], Any]) -> None:
    """Calls `writer` to write a file or folder beside the target, then moves it into place.

    The content is synced to disk first. Either the old or the new target exists at every moment,
    except if a folder is replaced on a system that cannot swap two folders: there a crash may leave
    the target missing until the next call restores it.

    Args:
        path: The target.
        writer: Writes the content to the path that it is passed.

    Raises:
        OSError: If it cannot be written. After this and any error of `writer`, the target is
            unchanged and the partial content is removed.
    """
    try:
        remove_leftovers(path.parent)
        with _staging_folder(path.parent) as staging:
            new = staging / NEW / path.name
            new.parent.mkdir()
            writer(new)
            _sync(new)
            _move(new, path, staging)
    except OSError as error:
        raise _with_path(error, path) from error
    with contextlib.suppress(OSError):  # the content is in place already
        _sync_one(path.parent)


def write_text(path: Path, text: str) -> None:
    """Writes text as UTF-8."""
    write(path, lambda beside: beside.write_text(text, "utf-8"))


def write_report(
    folder: str | os.PathLike, texts: Mapping[str, str], picture: str, plot: Any
) -> None:
    """Writes texts and a picture into a folder. Other files stay untouched.

    Args:
        folder: The folder, which is made if it is missing.
        texts: The name of a file to its text.
        picture: The name of the picture.
        plot: Returns the `matplotlib.figure.Figure`, after the texts are written: it may raise.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        write_text(folder / name, text)
    write(folder / picture, partial(plot().savefig, dpi=150))


def regular(path: Path) -> Path:
    """Returns the path of a regular file; raises `ValueError` otherwise: a pipe may never end."""
    if not path.is_file():
        raise ValueError("it is not a file" if os.path.lexists(path) else "it is missing")
    return path


def regular_below(folder: Path) -> None:
    """Raises `ValueError` if a folder holds anything but regular files and folders."""
    for path in folder.rglob("*"):
        if not (path.is_file() or path.is_dir()):
            raise ValueError(f"{path} is not a file")


@contextlib.contextmanager
def locked(path: Path, waiting: Callable[[], Any] = lambda: None) -> Iterator[None]:
    """Context that one process at a time can be in. The others wait.

    The end of a process, however it comes, ends its lock. On a file system without locks nobody
    waits.

    Args:
        path: The file that is locked, in an existing folder. It is there only while it is needed.
        waiting: Called once, before waiting for another process.

    Raises:
        OSError: If the file cannot be made.
    """
    is_told = False
    while (lock := _lock_of(path)) is None:
        if not is_told:
            waiting()
            is_told = True
        time.sleep(POLL_SECONDS)
    with lock:
        try:
            yield
        finally:
            with contextlib.suppress(OSError):  # Windows removes no open file
                path.unlink()


def remove_leftovers(folder: Path) -> None:
    """Removes the staging folders of dead processes, and restores what they had moved away."""
    for staging in folder.glob(f"{PREFIX}*"):
        if STAGING_NAME.fullmatch(staging.name) and staging.is_dir() and not staging.is_symlink():
            with contextlib.suppress(OSError):  # the next call tries again
                _remove_if_dead(staging)


def _remove_if_dead(staging: Path) -> None:
    if not (staging / LOCK).exists():  # not locked yet, or its process died before: it is empty
        return staging.rmdir()
    with open(staging / LOCK, "r+b") as lock:
        _acquire(lock.fileno())  # raises `OSError` if its process lives
    _remove(staging)


@contextlib.contextmanager
def _staging_folder(parent: Path) -> Iterator[Path]:
    """Context with a new locked staging folder."""
    lock = None
    while lock is None:
        staging = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
        lock = _lock(staging)
    try:
        with lock:
            yield staging
    finally:
        with contextlib.suppress(OSError):  # the next call tries again
            _remove(staging)


def _lock(staging: Path) -> BinaryIO | None:
    """Locks a new staging folder; returns `None` if another process removed it first."""
    try:
        lock = open(staging / LOCK, "x+b")
    except FileNotFoundError:
        return None
    try:
        _acquire(lock.fileno())
        is_ours = (staging / LOCK).exists()
    except BlockingIOError:
        is_ours = False
    except OSError:  # a file system without locks, where leftovers stay
        is_ours = True
    if is_ours:
        return lock
    lock.close()
    return None


def _lock_of(path: Path) -> BinaryIO | None:
    """Locks a file, which is made if it is missing; returns `None` if another process has it."""
    lock = open(path, "a+b")
    try:
        _acquire(lock.fileno())
        is_ours = os.path.samestat(os.fstat(lock.fileno()), os.stat(path))
    except (BlockingIOError, FileNotFoundError):  # locked, or removed by who had it
        is_ours = False
    except OSError:  # a file system without locks
        is_ours = True
    if is_ours:
        return lock
    lock.close()
    return None


def _acquire(file: int) -> None:
    """Locks an open file until it is closed or the process ends, or raises `OSError`."""
    if sys.platform == "win32":
        import msvcrt

        msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _remove(staging: Path) -> None:
    for old in (staging / OLD).glob("*"):
        target = staging.parent / old.name
        if not os.path.lexists(target):  # nothing replaced it
            os.replace(old, target)
    for name in (OLD, NEW):
        if (staging / name).exists():
            shutil.rmtree(staging / name)
    (staging / LOCK).unlink()  # last, because it marks the owner of the rest
    staging.rmdir()


def _move(new: Path, path: Path, staging: Path) -> None:
    if not (new.is_dir() and os.path.lexists(path)):
        os.replace(new, path)
    elif not _swap(new, path):  # a folder cannot be renamed to an existing one
        old = staging / OLD / path.name
        old.parent.mkdir()
        os.replace(path, old)  # `_remove` restores it if the next step fails
        os.replace(new, path)


def _swap(one: Path, other: Path) -> bool:
    """Swaps two paths in one step, if the operating system and file system can."""
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
            with contextlib.suppress(OSError):  # some systems cannot
                _sync_one(part)


def _sync_one(path: Path) -> None:
    file = os.open(path, os.O_RDWR if sys.platform == "win32" else os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def _with_path(error: OSError, path: Path) -> OSError:
    """Returns the error with a message that names the file that could not be written."""
    reason = error.strerror or str(error).partition("\n")[0]
    if error.filename is not None and PREFIX not in str(error.filename):
        # It is a file that `writer` reads.
        reason += f": {error.filename}"
    error_type = type(OSError(error.errno, reason))  # such as `PermissionError`
    named = error_type(f"{path} cannot be written: {reason}. Anything already there is unchanged.")
    named.errno = error.errno
    return named
