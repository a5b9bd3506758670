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
# Do not follow a link in its place, nor wait for a pipe.
FLAGS = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
# Error codes of a file system without locks.
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


@dataclass
class _Held:
    """A lock of this process: the open file, the thread that holds it, and how often the thread has taken it."""

    descriptor: int
    process: int
    thread: int
    count: int = 1


_GUARD = threading.RLock()
_held: dict[str, _Held] = {}


class FolderLock:
    """Creates the folder and holds its lock until `release`, or until this object is deleted.

    The operating system holds the lock for the process. So a killed process leaves no lock behind, and a forked child
    does not have the lock. The thread that holds the lock may take it again, as `fit` does within a run of the command
    line.

    **Raises:** `InUse`, a `ValueError`, if another process or thread holds the lock; `ValueError` if the folder cannot
    be written.
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
        # Writing to a hard link would change another file, which may belong to anybody.
        os.close(descriptor)
        raise ValueError(f"{path} is not a plain file, or has a second name (a hard link); remove it.")
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
        warnings.warn(f"{folder} is on a file system without locks; do not start two runs in it at once.", stacklevel=4)
    os.ftruncate(descriptor, 0)
    os.write(descriptor, f"{os.getpid()}\n".encode())
    return descriptor


class InUse(ValueError):
    """Another process or thread is using the folder."""


def _in_use(folder: Path, process: int | str) -> InUse:
    return InUse(
        f"another run is using {folder} (process {process}); wait until it has ended, or choose another folder."
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
