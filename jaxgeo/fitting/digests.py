"""The digests of a folder: what is read back from it is only trusted if it matches its digest."""

import contextlib
import hashlib
import io
import itertools
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from jaxgeo.fitting.files import (
    MOST_DIGESTS,
    MOST_LINES,
    MOST_NAMES,
    MOST_ROWS,
    MOST_TEXT,
    open_plain,
    read_bytes,
    read_json,
    to_json,
    write_bytes,
)
from jaxgeo.linalg.memory import total_memory

NAME = "digests.json"
DIFFERS = "its contents do not match its digest"
# Hexadecimal digits in the digest of a line.
LINE = 16
# Bytes that are read at once.
PART = 2**20


class Digests:
    """Files of a folder, each with its SHA-256 in `digests.json`; a `.jsonl` file has one digest for each line.

    The new digest of a file is written before the file, next to the digest of the old content. If the process is killed
    between the two writes, one of the digests still matches; the next write settles which. Digests detect damage and
    mixed-up folders. They are not signatures, and do not prove who wrote a folder.
    """

    def __init__(self, folder: Path):
        self.folder = folder

    @property
    def names(self) -> list[str]:
        """The names of all files and folders that have a digest."""
        return list(self._listed())

    def place(self, name: str) -> Path:
        """The path at which to write `name`; raises `ValueError` if a link leads out of the folder."""
        path = self.folder / name
        if os.path.realpath(path.parent) != os.path.join(os.path.realpath(self.folder), *Path(name).parent.parts):
            raise ValueError(f"{path.parent} is a link that leads out of the folder; remove it.")
        return path

    def write(self, name: str, content: bytes) -> None:
        """Write a file and its digest, all or nothing; raises `ValueError` if this fails."""
        path, listed = self.place(name), self._settle(self._listed())
        self._put({**listed, name: list(dict.fromkeys([_digest(name, io.BytesIO(content)), *listed.get(name, [])]))})
        write_bytes(path, content)

    def record(self, name: str, forget: Sequence[str] = ()) -> None:
        """Record the digest of a folder that exists by now, and forget the digests of others."""
        self._put(
            {
                **{k: v for k, v in self._settle(self._listed()).items() if k not in forget},
                name: [self._of_folder(name)],
            }
        )

    def forget(self, names: Sequence[str]) -> None:
        """Drop the digests of files or folders."""
        self._put({name: found for name, found in self._settle(self._listed()).items() if name not in names})

    def settle(self) -> None:
        """Keep only the digests of files that exist."""
        listed = self._listed()
        if (settled := self._settle(listed)) != listed:
            self._put(settled)

    def read(self, name: str, most: int = MOST_TEXT) -> bytes:
        """The content of a file; raises as `open` does."""
        with self.open(name, most) as (file, size):
            return file.read(size)

    @contextlib.contextmanager
    def open(self, name: str, most: int) -> Iterator[tuple[io.BufferedIOBase, int]]:
        """A file, opened for reading after its digest was compared, and its size.

        **Raises:** `FileNotFoundError`; `ValueError` if its digest differs or is missing, or it has more than `most`
        bytes.
        """
        with self._opened(name, most) as (file, size, found, known):
            if found not in known:
                raise ValueError(f"{name}: {DIFFERS}")
            yield file, size

    def read_lines(self, name: str) -> tuple[Iterator[bytes], int]:
        """The lines of a `.jsonl` file up to the first damaged one, and the number of lines lost from there on.

        Lines beyond `MOST_LINES` count as lost.

        **Raises:** `FileNotFoundError`; `ValueError` if the file has no digest, or is too large.
        """
        with self._opened(name, MOST_ROWS) as (file, size, found, known):
            content = file.read(size)
        there = content.count(b"\n") + (content[-1:] not in (b"", b"\n"))
        whole = max((len(os.path.commonprefix([found, each])) // LINE, -len(each)) for each in known)
        return _lines(io.BytesIO(content), whole[0]), max(-whole[1] // LINE, there) - whole[0]

    def check_folder(self, name: str, most: int) -> None:
        """Raise `ValueError` unless the folder `name`, of limited size, matches its digest."""
        if self._of_folder(name, most) not in self._listed().get(name, []):
            raise ValueError(DIFFERS)

    @contextlib.contextmanager
    def _opened(self, name: str, most: int) -> Iterator[tuple[io.BufferedIOBase, int, str, list[str]]]:
        """A file with its size, its digest, and those that it may have."""
        for last in (False, False, True):
            listed = self._listed()
            with open_plain(self.folder / name, most) as (file, size):
                if not listed.get(name):
                    raise ValueError(f"there is no digest of {name} in {NAME}")
                found = _digest(name, file)
                # Unless an active run has written it in the meantime.
                if last or found in listed[name] or listed == self._listed():
                    file.seek(0)
                    yield file, size, found, listed[name]
                    return

    def _listed(self) -> dict[str, list[str]]:
        try:
            found: Any = read_json(read_bytes(self.folder / NAME, MOST_DIGESTS), MOST_NAMES)
        except FileNotFoundError:
            return {}
        except ValueError as error:
            raise ValueError(f"{NAME} cannot be read ({error})") from None
        kinds = isinstance(found, dict) and all(
            isinstance(each, list) and all(isinstance(digest, str) for digest in each) for each in found.values()
        )
        if not kinds:
            raise ValueError(f"{NAME} does not map names to digests")
        if outside := [name for name in found if not _is_inside(name)]:
            raise ValueError(f"{NAME} has a digest of {outside[0][:80]!r}, which is no file of its folder")
        return found

    def _settle(self, listed: dict[str, list[str]]) -> dict[str, list[str]]:
        """For each file the digest that it has, of those it may have; for one that has none, or is too large, all."""
        left, found = total_memory() // 2, dict(listed)
        for name, known in listed.items():
            if len(known) > 1:
                with contextlib.suppress(OSError, ValueError):
                    most = min(left, MOST_ROWS) if name.endswith(".jsonl") else left
                    with open_plain(self.place(name), most) as (file, size):
                        left -= size
                        digest = _digest(name, file)
                    found[name] = [digest] if digest in known else known
        return found

    def _put(self, listed: dict[str, list[str]]) -> None:
        write_bytes(self.place(NAME), to_json(listed, indent=0).encode())

    def _of_folder(self, name: str, most: int = 2**62) -> str:
        """Digest the names, sizes and contents of all files; raises `ValueError` for a link or too many bytes."""
        top, total = self.place(f"{name}/{NAME}").parent, hashlib.sha256()
        if not top.is_dir():
            raise ValueError("it is not there")
        for parent, folders, names in os.walk(top):
            folders.sort()
            for each in (*folders, *sorted(names)):
                path = Path(parent, each)
                if stat.S_ISDIR(path.lstat().st_mode):
                    continue
                with open_plain(path, most) as (file, size):
                    most -= size
                    total.update(f"{path.relative_to(top).as_posix()}\0{size}\0".encode())
                    while part := file.read(PART):
                        total.update(part)
        return total.hexdigest()


def _is_inside(name: str) -> bool:
    """Whether it is that of a file in the folder, or in one of its folders."""
    return not {"", ".", ".."} & {*name.split("/")} and not {"\\", ":", "\0"} & {*name}


def _digest(name: str, file: io.BufferedIOBase) -> str:
    """The digest of an open file, which is not held in memory."""
    if not name.endswith(".jsonl"):
        return hashlib.file_digest(file, "sha256").hexdigest()
    return "".join(hashlib.sha256(line).hexdigest()[:LINE] for line in _lines(file, MOST_LINES))


def _lines(file: io.BufferedIOBase, most: int) -> Iterator[bytes]:
    """The first lines, one by one, since a file of nothing but line ends would have hundreds of millions."""
    return itertools.islice(file, most)
