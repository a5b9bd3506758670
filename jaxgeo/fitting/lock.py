"""A folder has one owner at a time."""

import errno
import os
import stat
import threading
import warnings
import weakref
from dataclasses import dataclass
from pathlib import Path

from jaxgeo.fitting.files import cannot_write

try:
    import fcntl
except ModuleNotFoundError:  # Windows
    fcntl = None
    import msvcrt

NAME = ".lock"
# Neither is a link in its place followed, nor a pipe waited for.
FLAGS = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
# What a file system answers that has no locks.
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


@dataclass
class _Held:
    """A lock of this process: the open file, who holds it, and how often that thread has asked for it."""

    descriptor: int
    process: int
    thread: int
    count: int = 1


_GUARD = threading.RLock()
_held: dict[str, _Held] = {}


class FolderLock:
    """Makes the folder and takes the lock in it, until `release`, or until this is forgotten.

    The system keeps the lock for the process, so one that is killed leaves none behind, and a child that it forked has
    none. The thread that has it may take it again, as `fit` does within a run of the command line.

    **Raises:** `InUse`, a `ValueError`, if another process or thread has it; `ValueError` if the folder
    cannot be written.
    """

    def __init__(self, folder: Path):
        key = os.path.realpath(folder)
        with _GUARD:
            held = _held.get(key)
            if held is not None and held.process == os.getpid():
                if held.thread != threading.get_ident():
                    raise _in_use(folder, os.getpid())
                held.count += 1
            else:
                _held[key] = _Held(_take(folder), os.getpid(), threading.get_ident())
        self.release = weakref.finalize(self, _release, key)


def _take(folder: Path) -> int:
    path = folder / NAME
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, FLAGS, 0o666)
    except OSError as error:
        raise cannot_write(folder, error) from error
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
        # What is written into a hard link is written into the other file, which may be anybody's.
        os.close(descriptor)
        raise ValueError(f"{path} is not a plain file of its own; remove it.")
    try:
        if fcntl is None:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)  # pyright: ignore
        else:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            number = os.read(descriptor, 20).decode("ascii", "replace").strip()
            os.close(descriptor)
            raise _in_use(folder, number if number.isdigit() else "unknown") from None
        warnings.warn(f"{folder} is on a file system without locks; do not train into it twice at once.", stacklevel=4)
    os.ftruncate(descriptor, 0)
    os.write(descriptor, f"{os.getpid()}\n".encode())
    return descriptor


class InUse(ValueError):
    """Another process or thread owns the folder."""


def _in_use(folder: Path, process: int | str) -> InUse:
    return InUse(
        f"another run is going on in {folder} (process {process}); wait until it has ended, or choose another folder."
    )


def _release(key: str) -> None:
    with _GUARD:
        held = _held.get(key)
        if held is None or held.process != os.getpid():
            return
        held.count -= 1
        if held.count == 0:
            del _held[key]
            os.close(held.descriptor)
