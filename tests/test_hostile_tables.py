"""A stranger's table: no hang, no huge allocation, and predictions that are text in every program."""

import bz2
import gzip
import io
import json
import lzma
import os
import warnings
import zipfile

import pytest
from damages import header
from limits import MIB, check_line

from jaxgeo.app.cli import tools
from jaxgeo.app.data import read_table

pytestmark = pytest.mark.usefixtures("bounds")


def zipped(*members, compression=zipfile.ZIP_DEFLATED):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a name twice
        for name, content in members:
            archive.writestr(name, content)
    return file.getvalue()


def lying(content, size):
    """An archive whose first member says that it unpacks to another size."""
    at = content.index(b"PK\x01\x02") + 24
    return content[:at] + size.to_bytes(4, "little") + content[at + 4 :]


ZEROS = b"0" * 300 * MIB
TABLES = {
    "bomb.csv.gz": lambda: gzip.compress(ZEROS),
    "bomb.csv.bz2": lambda: bz2.compress(ZEROS),
    "bomb.csv.xz": lambda: lzma.compress(ZEROS, preset=0),
    "cut.csv.gz": lambda: gzip.compress(b"a,b\n" * 1000)[:-9],
    "wrong.csv.gz": lambda: b"\x1f\x8b\x08\x00" + b"\xff" * 100,
    "wrong.csv.xz": lambda: b"\xfd7zXZ\x00" + b"\xff" * 100,
    "bomb.npz": lambda: zipped(("a.npy", header((300 * MIB,), "|u1") + ZEROS)),
    "header.npz": lambda: zipped(("a.npy", header((10**12,)))),
    "negative.npz": lambda: zipped(("a.npy", header((-3, -2)))),
    "empty.npz": lambda: zipped(("a.npy", header((0, 10**30)))),
    "text.npz": lambda: zipped(("a.npy", header((3,), "<U100000000"))),
    "void.npz": lambda: zipped(("a.npy", header((10**9,), "|V0"))),
    "objects.npz": lambda: zipped(("a.npy", header((3,), "|O") + b"\x80\x05cos\nsystem\n")),
    "pickle.npz": lambda: b"\x80\x04\x95cos\nsystem\n(S'true'\ntR.",
    "two.npz": lambda: zipped(("a.npy", header(()) + bytes(8)), ("a.npy", header(()) + bytes(8))),
    "names.npz": lambda: zipped(("../../a.npy", header((3,)) + bytes(24)), ("/etc/b.npy", header((3,)) + bytes(24))),
    "many.npz": lambda: zipped(*((f"{i}.npy", b"") for i in range(60_000)), compression=zipfile.ZIP_STORED),
    "lying.npz": lambda: lying(zipped(("a.npy", header((10**9,)) + bytes(80))), 2**32 - 2),
    "lzma.npz": lambda: zipped(("a.npy", header((3,)) + bytes(24)), compression=zipfile.ZIP_LZMA)[:-60],
    "bomb.xlsx": lambda: zipped(("xl/workbook.xml", ZEROS)),
    "wrong.xlsx": lambda: zipped(("xl/workbook.xml", b'<!DOCTYPE a [<!ENTITY a "aa"><!ENTITY b "&a;&a;">]><a>&b;</a>')),
    "columns.csv": lambda: ",".join(f"a{i}" for i in range(200_000)).encode() + b"\n" + b"1," * 199_999 + b"1\n",
    "twice.csv": lambda: ",".join(f"a{i}" for i in range(90_000)).encode() + b",a1\n" + b"1," * 90_000 + b"1\n",
    "cell.csv": lambda: b"a,b\n" + b"1" * 10 * MIB + b",2\n",
    "quote.csv": lambda: b'a,b\n"' + b"1,2\n" * MIB,
    "digits.csv": lambda: b"a,b\n" + b"1" * 100_000 + b",2\n3,4\n",
    "zeros.csv": lambda: b"a,b\n\0\0,1\n",
    "utf16.csv": lambda: "a,b\n1,2\n".encode("utf-16"),
    "sparse.jsonl": lambda: "\n".join(json.dumps({f"a{i}_{j}": 1 for j in range(3)}) for i in range(9000)).encode(),
    "deep.jsonl": lambda: b'{"a":' * 100_000,
    "list.jsonl": lambda: b'[["a", 1], ["a", 2]]\n' * 3,
    "digits.jsonl": lambda: b'{"a": ' + b"9" * 10_000 + b"}\n",
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name == "bomb.csv.bz2")) for name in TABLES]
)
def test_a_strangers_table_is_read_or_refused(tmp_path, name):
    (tmp_path / name).write_bytes(TABLES[name]())
    before = sorted(os.listdir(tmp_path.parent))
    try:
        table = read_table(tmp_path / name)
    except (ValueError, ModuleNotFoundError) as error:
        check_line(error)
    else:
        assert len(table.names) < 100_000
    assert sorted(os.listdir(tmp_path.parent)) == before


@pytest.mark.parametrize(
    "name",
    [
        "bomb.csv.gz",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("bomb.csv.bz2", "bomb.csv.xz")),
        "bomb.npz",
        "lying.npz",
    ],
)
def test_what_unpacks_to_much_more_is_refused(tmp_path, name):
    (tmp_path / name).write_bytes(TABLES[name]())
    with pytest.raises(ValueError, match=r"100 times its size|cut off"):
        read_table(tmp_path / name)


@pytest.mark.parametrize(
    ("cells", "shape"),
    [
        ([("A", 1), ("XFD", 1_048_576)], "1048576 rows and 16384 columns"),
        ([("A", 1), ("A", 10**9)], "1000000000 rows and 1 columns"),
        ([("XFD", i) for i in range(1, 3000)], "2999 rows and 16384 columns"),
    ],
)
@pytest.mark.parametrize("prefix", ["", "x:"])
def test_a_sheet_of_empty_cells_is_refused(tmp_path, cells, shape, prefix):
    rows = "".join(f'<{prefix}row r="{i}"><{prefix}c r="{a}{i}"/></{prefix}row>' for a, i in cells)
    sheet = f'<{prefix}worksheet xmlns{":x" * bool(prefix)}="a"><{prefix}sheetData>{rows}</{prefix}sheetData>'
    (tmp_path / "t.xlsx").write_bytes(zipped(("xl/odd", sheet.encode())))
    with pytest.raises(ValueError, match=f"{shape}, and nearly all its cells are empty") as error:
        read_table(tmp_path / "t.xlsx")
    check_line(error.value)


def test_a_device_is_no_table():
    with pytest.raises(ValueError, match="zero bytes"):
        read_table("/dev/zero")


# --- what is printed


def test_a_terminal_does_not_do_what_a_prediction_says():
    assert tools._shown("y\nlow\x1b]0;title\x07\nb\u202ec\n") == "y\nlow\\u001b]0;title\\u0007\nb\\u202ec\n"


def test_predictions_are_cells_in_any_country():
    assert tools._as_csv([["y"], ["low"], ["-1.5"]]) == "y\nlow\n-1.5\n"
    assert tools._as_csv([["y"], ["a;=1+1"]]) == '"y"\n"a;=1+1"\n'
    for cell in ("=1", " =1", "\n=1", "＝1", "\r@x", "+a", "\tx", "\ufeff=1", "\u200b=1", "\0=1", "Sep=z", "\ufeff"):
        assert tools._cell(cell) == f"'{cell}"
