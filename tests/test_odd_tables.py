"""One table written in forty-four odd ways: each is read to the same numbers, or refused in one line that says why."""

import datetime
import re

import numpy as np
import pytest

from jaxgeo.app.data import read_table, table_task
from jaxgeo.app.data.cells import Meaning, find_readings

ROWS = 24
X = 1.5 * np.arange(ROWS) - 7.25
BIG = 1_234_567.5 + 1000.0 * np.arange(ROWS)
FLAG = (np.arange(ROWS) % 3 == 0).astype(float)
DAYS = [datetime.date(2019, 12, 20) + datetime.timedelta(days=9 * i) for i in range(ROWS)]
CITY = [("Bern", "Genève", "Zürich")[i % 3] for i in range(ROWS)]
Y = 2 * X + 3


def plain(value):
    return f"{value:.2f}"


def comma(value):
    return plain(value).replace(".", ",")


def grouped(value, thousands, decimal):
    return f"{value:,.2f}".replace(",", "t").replace(".", decimal).replace("t", thousands)


def iso(day):
    return day.isoformat()


def written(
    separator=",", number=plain, big=plain, day=iso, truth=("false", "true"), quote="", head=None, index=False, gap=None
):
    """The table as text: x, big, when, flag, city, y."""
    lines = [head or ["x", "big", "when", "flag", "city", "y"]]
    for i in range(ROWS):
        cells = [number(X[i]), big(BIG[i]), day(DAYS[i]), truth[int(FLAG[i])], CITY[i], number(Y[i])]
        if gap is not None and i % 5 == 2:
            cells[0] = gap
        lines.append([f"{quote}{cell}{quote}" for cell in cells])
    if index:
        lines = [["" if i == 0 else str(i - 1), *line] for i, line in enumerate(lines)]
    return "\n".join(separator.join(line) for line in lines) + "\n"


FORMS = {
    "commas": written(),
    "semicolons": written(";"),
    "tabs": written("\t"),
    "bars": written("|"),
    "decimal commas": written(";", comma, comma),
    "decimal commas, tabs": written("\t", comma, comma),
    "decimal commas, bars": written("|", comma, comma),
    "decimal commas, quoted": written(",", comma, comma, quote='"'),
    "all quoted": written(quote='"'),
    "1,234,567.50": written(";", plain, lambda v: grouped(v, ",", ".")),
    "1,234,567.50, quoted": written(",", plain, lambda v: grouped(v, ",", "."), quote='"'),
    "1.234.567,50": written(";", comma, lambda v: grouped(v, ".", ",")),
    "1 234 567,50": written(";", comma, lambda v: grouped(v, " ", ",")),
    "1 234 567,50 with narrow spaces": written(";", comma, lambda v: grouped(v, "\u202f", ",")),
    "1 234 567,50 with hard spaces": written("\t", comma, lambda v: grouped(v, "\u00a0", ",")),
    "1'234'567.50": written(",", plain, lambda v: grouped(v, "'", ".")),
    "1’234’567.50": written(",", plain, lambda v: grouped(v, "’", ".")),
    "dollars": written(big=lambda v: f"${v:.2f}"),
    "euros behind": written(";", comma, lambda v: f"{comma(v)} €"),
    "powers of ten": written(number=lambda v: f"{v:.6e}", big=lambda v: f"{v:.9E}"),
    "signs": written(number=lambda v: f"{v:+.2f}"),
    "minus of typesetters": written(number=lambda v: plain(v).replace("-", "−")),
    "blanks about cells": written(number=lambda v: f"  {v:.2f} ", big=lambda v: f" {v:.2f}"),
    "31.12.2020": written(day=lambda d: d.strftime("%d.%m.%Y")),
    "12/31/2020": written(day=lambda d: d.strftime("%m/%d/%Y")),
    "31/12/2020": written(day=lambda d: d.strftime("%d/%m/%Y")),
    "2020/12/31": written(day=lambda d: d.strftime("%Y/%m/%d")),
    "31 Dec 2020": written(day=lambda d: d.strftime("%d %b %Y")),
    "20201231 of text": written(day=lambda d: d.strftime("%Y-%m-%dT00:00:00")),
    "times of day": written(day=lambda d: d.strftime("%Y-%m-%d 00:00:00")),
    "True and False": written(truth=("False", "True")),
    "yes and no": written(truth=("no", "yes")),
    "Y and N": written(truth=("N", "Y")),
    "0 and 1": written(truth=("0", "1")),
    "an index": written(index=True),
    "an index, semicolons, decimal commas": written(";", comma, comma, index=True),
    "blank lines": "\n\n" + written().replace("\n", "\n\n"),
    "a blank first line": "\r\n" + written().replace("\n", "\r\n"),
    "lines of Windows": written().replace("\n", "\r\n"),
    "a byte order mark": "\ufeff" + written(),
    "no end of the last line": written().rstrip("\n"),
    "gaps as NA": written(gap="NA"),
    "gaps as nothing": written(gap=""),
    "gaps as ?": written(gap="?"),
}


@pytest.mark.parametrize("name", FORMS)
def test_a_table_in_an_odd_form_is_read_to_the_same_numbers(tmp_path, name):
    path = tmp_path / "odd.csv"
    path.write_bytes(FORMS[name].encode())
    table = read_table(path)
    readings, _ = find_readings(table, table.names)
    x = np.where(np.arange(ROWS) % 5 == 2, np.nan, X) if name.startswith("gaps") else X
    days = [(day - datetime.date(1970, 1, 1)).days for day in DAYS]
    for column, expected in (("x", x), ("big", BIG), ("when", days), ("flag", FLAG), ("y", Y)):
        np.testing.assert_allclose(readings[column].read(table, column), expected, rtol=1e-9, err_msg=column)
    assert readings["when"].meaning is Meaning.DATE
    assert readings["city"].read(table, "city").tolist() == CITY
    task = table_task(table, "y", most_outputs=None)
    assert not any(each.startswith("(row)") for each in task.inputs.names)
    assert len(task.train_targets) + len(task.test_targets) == ROWS


REFUSED = {
    "a decimal comma among commas": (
        written(",", comma, comma),
        "is one number with a decimal comma, separate the cells by semicolons",
    ),
    "no header": (written().split("\n", 1)[1], "no column 'y'. Its columns: -7.25, 1234567.50,"),
    "one line": ("x,y\n", "has no rows of data"),
    "a name twice": (written(head=["x", "x", "when", "flag", "city", "y"]), "more than one column 'x'"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_read_is_refused_in_one_line(tmp_path, name):
    text, part = REFUSED[name]
    path = tmp_path / "odd.csv"
    path.write_bytes(text.encode())
    with pytest.raises(ValueError, match=re.escape(part)) as refused:
        table_task(read_table(path), "y")
    assert len(str(refused.value).splitlines()) == 1


@pytest.mark.parametrize("power", [160, -300])
def test_the_unit_of_a_target_changes_nothing(tmp_path, power):
    """So that a huge or a tiny unit is no target of scores that are NaN, or of "one and the same value"."""
    path = tmp_path / "odd.csv"
    tasks = []
    for unit in ("e0", f"e{power}"):
        path.write_text(written(number=lambda v, unit=unit: f"{v:.2f}{unit}"), encoding="utf-8")
        tasks.append(table_task(read_table(path), "y", most_outputs=None))
    np.testing.assert_allclose(tasks[1].train_targets, tasks[0].train_targets, rtol=1e-9)
    for score in (lambda task: task.baseline, lambda task: task.linear_score):
        # What a linear model leaves of a nearly linear target is small, and keeps fewer digits.
        np.testing.assert_allclose(score(tasks[1]) / 10.0**power, score(tasks[0]), rtol=1e-4)
