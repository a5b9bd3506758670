"""Cells of a table as people write them: how they are read, and what they become."""

import bz2
import gzip
import json
import lzma

import numpy as np
import pytest

from jaxgeo.app.data import Encoder, Kind, read_table, table_task
from jaxgeo.app.data.cells import Meaning, find_readings
from jaxgeo.app.data.table import as_table

NAN = float("nan")


@pytest.fixture
def columns(tmp_path):
    def columns(text):
        path = tmp_path / "data.csv"
        path.write_text(text, encoding="utf-8")
        table = read_table(path)
        readings, notes = find_readings(table, table.names)
        return {name: (readings[name], readings[name].read(table, name)) for name in table.names}, notes

    return columns


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("a;b\n1,5;1.234\n2,25;2.500\n", {"a": [1.5, 2.25], "b": [1234, 2500]}),
        ("a;b\n1,5;€ 1.234\n;€ 2.500\n", {"a": [1.5, NAN], "b": [1234, 2500]}),
        ("a;b\n1,234;x\n2,345;y\n", {"a": [1.234, 2.345]}),
        ('a,b\n"1,234",x\n"12,345,678",y\n', {"a": [1234, 12345678]}),
        ('a,b\n"1,5",x\n"2,75",y\n', {"a": [1.5, 2.75]}),
        ("a\tb\n1.234\t5\n2.345\t6\n", {"a": [1.234, 2.345], "b": [5, 6]}),
        ("a,b\n1 234,$5\n12 345 678,$7.5\n", {"a": [1234, 12345678], "b": [5, 7.5]}),
        ("a,b\n1'234.5,12 %\n-2,-3%\n", {"a": [1234.5, -2], "b": [12, -3]}),
        ("a b   c\n 1 2 3\n4  5  6\n", {"a": [1, 4], "b": [2, 5], "c": [3, 6]}),
        ('"x" "y"\n"first" 2 3\n"second" 4 5\n', {"x": [2, 4], "y": [3, 5]}),
        ("\n\na|b\n1|NA\n\n3|1e-3\n", {"a": [1, 3], "b": [NAN, 1e-3]}),
        ("a,b\n−1,?\n+2,1\n", {"a": [-1, 2], "b": [NAN, 1]}),
        ("a,b\nTrue,no\nFALSE,Yes\n", {"a": [1, 0], "b": [0, 1]}),
        ("a,b\n1970-01-02,31.12.2020\n1970-01-03T12:00:00,01.01.2021\n", {"a": [1, 2.5], "b": [18627, 18628]}),
        ("a,b\n1970-01-02T02:00+02:00,12/31/2020\n,1/1/2021\n", {"a": [1, NAN], "b": [18627, 18628]}),
        ("a,b\n1_000,x\n2_000,y\n", {}),
        ("a,b\n1.2.3,x\n4.5.6,y\n", {}),
    ],
)
def test_numbers_truth_values_and_dates_however_they_are_written(columns, text, numbers):
    found, _ = columns(text)
    read = {name: values for name, (reading, values) in found.items() if reading.meaning is not Meaning.TEXT}
    assert {name: values.tolist() for name, values in read.items()} == {
        name: pytest.approx(values, nan_ok=True) for name, values in numbers.items()
    }


def test_what_could_be_meant_otherwise_is_told(columns):
    _, notes = columns("a,b,c\n01/02/2020,1 000,$5\n03/04/2020,2 000,$6\n")
    for part in ("%m/%d/%Y; %d/%m/%Y would fit too", "between thousands", "without their sign $"):
        assert any(part in note for note in notes), part
    found, notes = columns("a\n" + "".join(f"{i}\n" for i in range(30)) + "broken\n")
    assert np.isnan(found["a"][1][-1])
    assert "'broken'" in notes[0]


def test_a_column_read_alone_has_the_decimal_commas_of_the_others(tmp_path):
    path = tmp_path / "flats.csv"
    path.write_text("area;price;noted\n37,5;€ 70.067;1.5\n51;€ 102.300;2\n")
    table = read_table(path)
    readings, notes = find_readings(table, ["price"])
    np.testing.assert_array_equal(readings["price"].read(table, "price"), [70067, 102300])
    assert notes == ["Numbers in 'price' are read without their sign € and with '.' between thousands."]


@pytest.mark.parametrize(("suffix", "compress"), [("gz", gzip.compress), ("bz2", bz2.compress), ("xz", lzma.compress)])
def test_text_may_be_compressed(tmp_path, suffix, compress):
    path = tmp_path / f"data.csv.{suffix}"
    path.write_bytes(compress(b"a,y\n1,2\n3,4\n"))
    assert read_table(path).frame["y"].tolist() == ["2", "4"]
    path.write_bytes(b"a,y\n1,2\n3,4\n")
    with pytest.raises(ValueError, match="cannot be read"):
        read_table(path)


def test_json_lines_and_frames_keep_their_types(tmp_path):
    rows = [{"n": 1.5, "t": True, "w": "x"}, {"n": None, "t": False, "w": None}, {"n": 2, "t": True, "w": "y"}]
    path = tmp_path / "data.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    frame = {name: [row[name] for row in rows] for name in rows[0]}
    for table in (read_table(path), as_table(frame)):
        readings, _ = find_readings(table, table.names)
        np.testing.assert_array_equal(readings["n"].read(table, "n"), [1.5, NAN, 2])
        np.testing.assert_array_equal(readings["t"].read(table, "t"), [1, 0, 1])
        assert readings["w"].read(table, "w").tolist() == ["x", None, "y"]
    path.write_text('{"a": [1, 2]}\n{"a": [3]}\n')
    with pytest.raises(ValueError, match="'a' .* holds list"):
        read_table(path)
    path.write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="JSON lines"):
        read_table(path)


ROWS = 60


def mixed(rows=ROWS):
    """Numbers with gaps, text, dates, truth values, a number for each row, a name for each, and a constant."""
    rng = np.random.default_rng(0)
    size = rng.normal(50, 10, rows)
    city = rng.choice(["Bern", "Basel", "Chur"], rows)
    frame = {
        "(row)": np.arange(rows),
        "size": np.where(np.arange(rows) % 7 == 3, NAN, size),
        "city": np.where(np.arange(rows) % 11 == 5, "", city).astype(object),
        "when": np.datetime64("2019-03-01", "ns") + 13 * np.arange(rows).astype("timedelta64[D]"),
        "new": rng.random(rows) < 0.5,
        "name": np.array([f"row {i}" for i in range(rows)], object),
        "unit": np.ones(rows),
        "shop_id": 1000 + np.arange(rows),
        "price": 3.0 * size + 20.0 * (city == "Bern"),
    }
    return as_table(frame)


def test_a_mixed_table_is_encoded_by_its_training_rows():
    table = mixed()
    task = table_task(table, "price", seed=1)
    assert task.kind is Kind.REGRESSION
    cities = [f"city={each}" for each in ("Basel", "Bern", "Chur")]
    dates = ["when", "when (sine of the year)", "when (cosine)"]
    assert list(task.inputs.names) == ["size", "size is missing", *cities, "city is missing", *dates, "new"]
    order = np.random.default_rng(1).permutation(ROWS)
    train = order[: len(task.train_inputs)]
    raw = task.inputs.invert(task.train_inputs)
    frame = table.frame.iloc[train]
    given = frame["size"].to_numpy()
    np.testing.assert_allclose(raw[:, 0], np.where(np.isnan(given), np.nanmean(given), given))
    np.testing.assert_allclose(raw[:, 1], np.isnan(given), atol=1e-12)
    for i, each in enumerate(("Basel", "Bern", "Chur", "")):
        np.testing.assert_allclose(raw[:, 2 + i], frame["city"] == each, atol=1e-12)
    np.testing.assert_allclose(raw[:, 6], frame["when"].to_numpy().astype("datetime64[D]").astype(float))
    np.testing.assert_allclose(raw[:, 7] ** 2 + raw[:, 8] ** 2, 1)
    np.testing.assert_allclose(task.train_inputs.mean(axis=0), 0, atol=1e-12)
    told = " ".join(task.notes)
    for part in (
        "'(row)', which numbers the rows",
        "'shop_id', which numbers the rows",
        "'name', which names each row",
        "'unit', which is constant",
    ):
        assert part in told


def test_an_encoder_is_written_and_read_back():
    encoder, _, _ = Encoder.fit(mixed(), ["size", "city", "when", "new"], np.arange(40))
    again = Encoder.from_list(json.loads(json.dumps(encoder.to_list())))
    assert again == encoder
    np.testing.assert_array_equal(again.encode(again.read(mixed())), encoder.encode(encoder.read(mixed())))


def test_new_rows_may_hold_unknown_text_and_gaps_but_nothing_that_cannot_be_read():
    table = mixed()
    encoder, _, _ = Encoder.fit(table, ["size", "city", "new"], np.arange(40))
    rows = {"size": ["50", "NA"], "city": ["Genf", "Bern"], "new": ["", "Yes"]}
    cells = encoder.read(as_table(rows))
    found = encoder.encode(cells)
    mean, size = table.frame["new"][:40].mean(), np.nanmean(table.frame["size"][:40])
    np.testing.assert_allclose(found, [[50, 0, 0, 0, 0, 0, mean], [size, 1, 0, 1, 0, 0, 1]])
    assert encoder.substituted(cells, encoder.scaling(encoder.encode(encoder.read(table)))) == [
        "1 of 2 rows of column 'city' have text that was absent or rare in training, such as 'Genf'; it counts as none "
        "of the known values.",
        "1 of 2 rows of column 'new' are missing, and none was in training; the mean of the training rows, "
        f"{mean:.6g}, was used.",
    ]
    with pytest.raises(ValueError, match=r"'size' .* 'large' on line 2, which is no number"):
        encoder.read(as_table(rows | {"size": [1.0, "large"]}))
    with pytest.raises(ValueError, match=r"'size' .* '51,5' on line 1, .* if its comma is decimal, write a point"):
        encoder.read(as_table(rows | {"size": ["51,5", "52"]}))
    with pytest.raises(ValueError, match=r"'new' .* 'maybe' on line 1, which is no truth value"):
        encoder.read(as_table(rows | {"new": ["maybe", "no"]}))
    with pytest.raises(ValueError, match=r"no columns 'size', 'new'"):
        encoder.read(as_table({"city": ["Bern"]}))


def test_many_levels_are_told_apart_up_to_a_number():
    rng = np.random.default_rng(0)
    city = np.array([f"c{int(i)}" for i in np.minimum(rng.exponential(12, 1000), 99)], object)
    encoder, _, notes = Encoder.fit(as_table({"city": city}), ["city"], np.arange(1000))
    assert len(encoder.names) == 40
    assert "rare values" in notes[0]
    counts = {name: int(np.sum(city == name)) for name in set(city)}
    kept = {name.removeprefix("city=") for name in encoder.names}
    assert min(counts[name] for name in kept) >= max(counts[name] for name in set(city) - kept)
