"""Tables in files: what is read, how, and which one-line errors say what to do."""

import numpy as np
import pytest

from jaxgeo.app.data import Kind, digits, read_table, table_task
from jaxgeo.equations import choose_hidden
from jaxgeo.equations.network import count_params
from jaxgeo.fitting import Scaling

GOOD = "a,b,y\n" + "".join(f"{i},{i * i % 7},{0.5 * i}\n" for i in range(10))


@pytest.fixture
def write(tmp_path):
    def write(text, encoding="utf-8"):
        path = tmp_path / "data.csv"
        path.write_bytes(text.encode(encoding))
        return path

    return write


def test_regression_is_standardised_by_the_training_rows(write):
    task = table_task(read_table(write(GOOD)), "y", seed=3)
    assert task.kind is Kind.REGRESSION
    assert (len(task.train_inputs), len(task.test_inputs)) == (8, 2)
    np.testing.assert_allclose(task.train_inputs.mean(axis=0), 0, atol=1e-14)
    np.testing.assert_allclose(task.train_inputs.std(axis=0), 1)
    np.testing.assert_allclose(task.train_targets.std(), 1)
    a = np.concatenate([task.inputs.invert(x)[:, 0] for x in (task.train_inputs, task.test_inputs)])
    y = np.concatenate([task.outputs.invert(t)[:, 0] for t in (task.train_targets, task.test_targets)])
    assert sorted(a) == pytest.approx(list(range(10)))
    np.testing.assert_allclose(y, 0.5 * a)
    constant = np.full(2, task.outputs.mean[0])
    assert task.baseline == pytest.approx(np.sqrt(np.mean((y[8:] - constant) ** 2)))


@pytest.mark.parametrize(
    ("cells", "kind", "classes"),
    [
        ("cat dog cat dog cat dog", Kind.CLASSIFICATION, ("cat", "dog")),
        ("10 2 10 2 10 2", Kind.CLASSIFICATION, ("2", "10")),
        ("1.5 2.5 1.5 2.5 3.5 4.5", Kind.REGRESSION, ("y",)),
        (" ".join(str(i) for i in range(30)), Kind.REGRESSION, ("y",)),
    ],
)
def test_the_kind_is_read_off_the_target(write, cells, kind, classes):
    rows = "".join(f"{i},{cell}\n" for i, cell in enumerate(cells.split()))
    task = table_task(read_table(write("a,y\n" + rows)), "y")
    assert (task.kind, task.outputs.names) == (kind, classes)


def test_classes_go_with_their_rows(write):
    rows = "".join(f"{i},{'odd' if i % 2 else 'even'}\n" for i in range(10))
    task = table_task(read_table(write("a,y\n" + rows)), "y")
    a = task.inputs.invert(task.train_inputs)[:, 0].round().astype(int)
    assert [task.outputs.names[i] for i in task.train_targets.argmax(axis=1)] == ["odd" if i % 2 else "even" for i in a]
    favourite = task.train_targets.sum(axis=0).argmax()
    assert task.baseline == np.mean(task.test_targets[:, favourite])


def test_the_kind_can_be_forced_and_columns_dropped(write):
    text = "a,name,y\n" + "".join(f"{i},x{i},{i % 3}\n" for i in range(12))
    task = table_task(read_table(write(text)), "y", kind=Kind.REGRESSION, drop=["name"])
    assert task.kind is Kind.REGRESSION
    assert task.inputs.names == ("a",)


@pytest.mark.parametrize("separator", [";", "\t", "|", "  "])
def test_other_separators_and_a_byte_order_mark(write, separator):
    table = read_table(write("\ufeff" + GOOD.replace(",", separator) + "\n\n"))
    assert table.names == ("a", "b", "y")
    assert len(table.frame) == 10


def test_many_rows_are_held_to_a_thousand_outputs(write):
    text = "a,y\n" + "".join(f"{i},{i + 0.5}\n" for i in range(2000))
    task = table_task(read_table(write(text)), "y")
    assert task.num_rows == 1000
    assert len(task.test_inputs) == 1000
    assert any("--samples" in note for note in task.notes)


@pytest.mark.parametrize(
    ("text", "target", "parts"),
    [
        ("", "y", ["no rows"]),
        ("a,y\n", "y", ["no rows"]),
        (GOOD, "Y1", ["no column 'Y1'", "did you mean 'y'"]),
        ("a,y\n1,2\n1,2,3\n", "y", ["line 3", "3 cells", "2 columns"]),
        ("a,y\n1,2\ninf,3.5\n4,5\n", "y", ["'a'", "infinite", "line 3", "1 of 3 cells"]),
        ("1,2\n3,4\n5,6\n", "2", ["only numbers", "names the columns"]),
        ("a,,y\n0,1,2\n1,3,4\n", "y", ["column 2", "no name"]),
        ("a,a,y\n0,1,2\n1,3,4\n", "y", ["more than one column 'a'"]),
        ("a,b,y\n,1.5,\n,3,\n,5,\n", "b", ["no column to predict from", "'a', which is empty"]),
        (
            "name,y\n" + "".join(f"n{i},{i}.5\n" for i in range(50)),
            "y",
            ["no column to predict from", "names each row"],
        ),
        ("a,y\n" + "".join(f"{i},{i}.5\n" for i in range(50)) + "1e200,3.5\n", "y", ["'a'", "1e+200", "line 52"]),
        ("a,y\n1,\n2,\n3,NA\n", "y", ["missing in all rows"]),
        ("y\n1\n2\n3\n", "y", ["no columns besides"]),
        ("a,y\n1,2\n=A2+1,3.5\n4,5\n", "y", ["'a'", "formulas", "'=A2+1'", "line 3", "values in place"]),
        ("a,y\n1,=A2\n2,=A3\n4,5\n", "y", ["'y'", "formulas", "'=A2'", "line 2"]),
        ("a,y\n1,2\n" + "x" * 200_000 + ",3\n", "y", ["not a readable CSV file", "field larger"]),
        ("a\0,y\0\n1,2\n3,4\n", "y", ["zero bytes", "UTF-8"]),
        ("a,y\n1,2.5\n2,2.5\n3,2.5\n4,2.5\n", "y", ["one and the same value"]),
        ("a,y\n1,u\n2,u\n3,u\n", "y", ["one class, 'u'"]),
        ("a,y\n1,u\n2,v\n3,w\n", "y", ["3 classes in 3 rows"]),
        ("a,y\n1,1.5\n2,2.5\n", "y", ["cannot train on"]),
    ],
)
def test_a_bad_table_is_refused_in_one_line(write, text, target, parts):
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the message is looked at below
        table_task(read_table(write(text)), target)
    message = str(caught.value)
    assert [part for part in parts if part not in message] == [], message
    assert "\n" not in message


def test_a_missing_file_a_folder_and_another_encoding(tmp_path, write):
    with pytest.raises(ValueError, match="does not exist"):
        read_table(tmp_path / "none.csv")
    with pytest.raises(ValueError, match="is a folder"):
        read_table(tmp_path)
    for encoding in ("latin-1", "utf-16", "utf-32"):
        with pytest.raises(ValueError, match="UTF-8"):
            read_table(write("a,y\n1,é\n", encoding=encoding))
    # Without its mark, UTF-16 of plain letters is UTF-8 with zero bytes.
    with pytest.raises(ValueError, match="zero bytes"):
        read_table(write("a,y\n1,2\n", encoding="utf-16-le"))


def test_numbers_come_out_of_npz_and_parquet_to_the_last_bit(tmp_path):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(7, 2)), rng.normal(size=7)
    np.savez(tmp_path / "data.npz", x=x, y=y, word=np.array(["é"] * 7))
    tables = [read_table(tmp_path / "data.npz")]
    try:
        import pyarrow as pa
        import pyarrow.parquet
    except ModuleNotFoundError:
        pass
    else:
        columns = {"x0": x[:, 0], "x1": x[:, 1], "y": y, "word": ["é"] * 7}
        pyarrow.parquet.write_table(pa.table(columns), tmp_path / "data.parquet")
        tables.append(read_table(tmp_path / "data.parquet"))
    for table in tables:
        assert table.names == ("x0", "x1", "y", "word")
        np.testing.assert_array_equal(table.column("x1"), x[:, 1])
        np.testing.assert_array_equal(table.column("y"), y)
        assert list(table.column("word")) == ["é"] * 7


class Armed:
    def __reduce__(self):
        return pytest.fail, ("a pickle was opened",)


def test_a_file_that_is_not_what_it_is_called_is_refused_and_nothing_runs(tmp_path):
    np.savez(tmp_path / "armed.npz", x=np.array([Armed()], object))
    with pytest.raises(ValueError, match="Python objects"):
        read_table(tmp_path / "armed.npz")
    np.savez(tmp_path / "uneven.npz", x=np.ones(3), y=np.ones(4))
    with pytest.raises(ValueError, match="different lengths"):
        read_table(tmp_path / "uneven.npz")
    np.savez(tmp_path / "cube.npz", x=np.ones((3, 2, 2)))
    with pytest.raises(ValueError, match=r"'x' .* shape \(3, 2, 2\)"):
        read_table(tmp_path / "cube.npz")
    (tmp_path / "text.npz").write_text("a,y\n1,2\n")
    with pytest.raises(ValueError, match="not a readable NPZ file|Python objects"):
        read_table(tmp_path / "text.npz")


@pytest.mark.slow
def test_a_million_rows_are_read(write):
    rows = "".join(f"{i},{i % 7},{i * 0.5}\n" for i in range(1_000_000))
    task = table_task(read_table(write("a,b,y\n" + rows)), "y")
    assert len(task.train_inputs) == 1000
    assert len(task.test_inputs) == 999_000


def test_scaling_of_a_constant_column_is_finite_and_inverts():
    scaling = Scaling.fit(("a", "b"), np.array([[0.1, 1.0], [0.1, 3.0], [0.1, 5.0]]))
    assert scaling.constant == ("a",)
    rows = np.array([[0.3, 2.0]])
    np.testing.assert_allclose(scaling.invert(scaling.apply(rows)), rows)


def test_digits_are_split_without_overlap_and_reproducibly():
    one, two, other = digits(50, 1), digits(50, 1), digits(50, 2)
    np.testing.assert_array_equal(one.train_inputs, two.train_inputs)
    assert not np.array_equal(one.train_inputs, other.train_inputs)
    assert len(one.train_inputs) + len(one.test_inputs) == 1797
    assert (one.train_inputs.min(), one.train_inputs.max()) == (0.0, 1.0)
    with pytest.raises(ValueError, match="must lie in"):
        digits(1797)


@pytest.mark.parametrize(("inputs", "outputs", "rows"), [(1, 1, 10), (64, 10, 3000), (5, 3, 20000)])
def test_the_chosen_network_is_overparametrized(inputs, outputs, rows):
    a, b = choose_hidden(inputs, outputs, rows)
    assert count_params((inputs, a, b, outputs)) >= 4 * rows
    assert a == 64 or count_params((inputs, a - 32, b - 32, outputs)) < 4 * rows
