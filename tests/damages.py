"""Numbered damages to a run's folder: bits, lengths, types, headers, missing files, files of other runs."""

import io
import json
import os
import shutil

import numpy as np

from jaxgeo.fitting.digests import Digests

VALUES = (
    None,
    True,
    -1,
    0,
    2**70,
    10**400,
    1e300,
    -0.5,
    "",
    "<img src=x onerror=alert(1)>",
    "</pre><script>alert(1)</script>",
    "=cmd|' /C calc'!A0",
    "\x1b]0;title\x07\u202e",
    [],
    {},
    [[1]],
    {"a": 1},
    [1e308] * 3,
    [0] * 1000,
)
TEXTS = (
    b"",
    b"\0" * 50,
    b"[" * 100_000,
    b'{"a":' * 50_000,
    b"NaN",
    b'{"cost": Infinity}',
    b"9" * 10_000,
    b"1e999",
    b"\xff\xfe{\0}\0",
)


def header(shape, dtype="<f8", fortran=False):
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": dtype, "fortran_order": fortran, "shape": shape})
    return file.getvalue()


def npz():
    file = io.BytesIO()
    np.savez(file, a=np.zeros(3))
    return file.getvalue()


HEADERS = (
    header((10**12,)),
    header((10**9, 10**9)),
    header((3, 2), "|O"),
    header((3, 2), "<U100000000"),
    header((3, 2), "|V0"),
    header((0, 10**30)),
    header((-3, -2)),
    header((3, 2), fortran=True) + b"\0" * 48,
    header(()) * 1000,
    npz(),
    b"\x93NUMPY\x01\x00\xff\xff",
    b"\x93NUMPY\x03\x00\xff\xff\xff\x7f",
    b"\x80\x05\x95",
)


def files_of(folder):
    found = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    return [path for path in found if "figures" not in path.parts and path.suffix != ".html"]


def damage(folder, number, others):
    """Damage the run in `folder`; `others` are folders of the same names. Returns what was done, in words.

    Every second damage is a stranger's, who has the digests agree with it.
    """
    rng = np.random.default_rng(number)
    paths = files_of(folder)
    # Each file as often as the next, but for those of checkpoints, which are many.
    small = [path for path in paths if "checkpoints" not in path.parts]
    path = (small if rng.random() < 0.7 else paths)[rng.integers(len(small))] if len(small) > 0 else paths[0]
    kinds = [flip, cut, append, fill, remove, replace, swap, other, special]
    if path.suffix in (".json", ".jsonl"):
        kinds += [retype] * 8 + [text]
    if path.suffix == ".toml":
        kinds += [settings] * 4 + [text]
    if path.suffix == ".eqx":
        kinds += [headers] * 4
    kind = kinds[rng.integers(len(kinds))]
    name = path.relative_to(folder).as_posix()
    kind(path, rng, folder, others)
    plain = path.is_file() and not path.is_symlink() and path.stat().st_size < 2**30
    forged = bool(number % 2) and name != "digests.json" and plain
    if forged:
        try:
            forge(folder, name)
        except ValueError:  # The digests themselves were swapped.
            forged = False
    return f"{kind.__name__} of {name}{', with its digest' if forged else ''}"


def forge(folder, name):
    files, content = Digests(folder), (folder / name).read_bytes()
    if name.startswith("checkpoints/"):
        files.record("/".join(name.split("/")[:2]))
    else:
        files.forget([name])
        files.write(name, content)


def flip(path, rng, folder, others):
    content = bytearray(path.read_bytes() or b"\0")
    for _ in range(rng.integers(1, 4)):
        content[rng.integers(len(content))] ^= 1 << rng.integers(8)
    path.write_bytes(content)


def cut(path, rng, folder, others):
    content = path.read_bytes()
    path.write_bytes(content[: rng.integers(len(content) + 1)])


def append(path, rng, folder, others):
    content = path.read_bytes()
    path.write_bytes(content + (content if rng.random() < 0.3 else rng.bytes(rng.integers(1, 200))))


def fill(path, rng, folder, others):
    content = bytearray(path.read_bytes())
    first, last = sorted(rng.integers(len(content) + 1, size=2))
    content[first:last] = b"\0" * (last - first)
    path.write_bytes(content)


def remove(path, rng, folder, others):
    if path.parent == folder:
        path.unlink()
    else:
        shutil.rmtree(folder / "checkpoints" if rng.random() < 0.3 else path.parent)


def replace(path, rng, folder, others):
    path.write_bytes(TEXTS[rng.integers(len(TEXTS))] if rng.random() < 0.5 else rng.bytes(rng.integers(1, 2000)))


def swap(path, rng, folder, others):
    paths = files_of(folder)
    one = paths[rng.integers(len(paths))]
    content = one.read_bytes()
    one.write_bytes(path.read_bytes())
    path.write_bytes(content)


def other(path, rng, folder, others):
    source = others[rng.integers(len(others))] / path.relative_to(folder)
    if source.is_file():
        shutil.copy(source, path)
    else:
        path.unlink()


def special(path, rng, folder, others):
    path.unlink()
    makers = (
        path.mkdir,
        lambda: os.mkfifo(path),
        lambda: path.symlink_to("/dev/zero"),
        lambda: path.symlink_to(path),
        lambda: sparse(path),
    )
    makers[rng.integers(len(makers))]()


def sparse(path):
    with path.open("wb") as file:
        file.truncate(2**42)


def retype(path, rng, folder, others):
    lines = path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]
    index = rng.integers(len(lines))
    lines[index] = json.dumps(mutated(json.loads(lines[index]), rng), ensure_ascii=bool(rng.random() < 0.5))
    path.write_text("\n".join(lines) + "\n", errors="replace")


def mutated(value, rng):
    if isinstance(value, dict) and value and rng.random() < 0.9:
        name = list(value)[rng.integers(len(value))]
        if rng.random() < 0.15:
            return {k: v for k, v in value.items() if k != name}
        return {**value, name: mutated(value[name], rng)}
    if isinstance(value, list) and value and rng.random() < 0.7:
        index = rng.integers(len(value))
        return [*value[:index], mutated(value[index], rng), *value[index + 1 :]]
    return VALUES[rng.integers(len(VALUES))]


def text(path, rng, folder, others):
    path.write_bytes(TEXTS[rng.integers(len(TEXTS))])


def settings(path, rng, folder, others):
    lines = path.read_text().splitlines()
    index = rng.integers(len(lines))
    values = (
        "1e-3",
        "nan",
        "-inf",
        "-1",
        "true",
        '"../../x"',
        '"\\u0007"',
        "9223372036854775808",
        "[1, 2.5]",
        "[" * 5000,
        "1979-05-27",
    )
    lines[index] = f"{lines[index].split(' = ')[0]} = {values[rng.integers(len(values))]}"
    path.write_text("\n".join(lines) + "\n")


def headers(path, rng, folder, others):
    content = path.read_bytes() if rng.random() < 0.3 else b""
    chosen = HEADERS[rng.integers(len(HEADERS))]
    path.write_bytes(content + chosen if rng.random() < 0.5 else chosen + content)
