"""Tables from the shell: the same networks as the estimators', kept in a folder, read back, and gone on with."""

import dataclasses
import itertools
import re
import warnings

import numpy as np
import pytest
from commands import copy_run, error_of

from jaxgeo.app.cli.app import run
from jaxgeo.app.data import Kind, read_table, table_task
from jaxgeo.app.runs import load
from jaxgeo.app.runs.config import Config
from jaxgeo.app.runs.folder import RunFolder
from jaxgeo.app.runs.tables import prepare_table, train_table
from jaxgeo.estimators import JaxgeoClassifier, JaxgeoRegressor
from jaxgeo.fitting import Interruptible
from jaxgeo.tabular import plan

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def write_mixed_table(folder):
    """Numbers with gaps, a category, weights from 0 to 3, a number and a class to predict."""
    rng = np.random.default_rng(0)
    a, b, city = rng.normal(size=120), rng.normal(size=120), rng.choice(["Bern", "Genève", "Zürich"], 120)
    y = 10 + a - np.sin(2 * b) + (city == "Bern") + 0.2 * rng.normal(size=120)
    weights = rng.choice([0, 0.5, 1, 3], 120)
    gap = rng.random(120) < 0.1
    rows = [
        f"{a[i]:.5f},{'' if gap[i] else f'{b[i]:.5f}'},{city[i]},{weights[i]},{y[i]:.5f},{'hi' if y[i] > 10 else 'lo'}"
        for i in range(120)
    ]
    (folder / "t.csv").write_text("\n".join(["a,b,city,w,y,label", *rows]) + "\n")
    return folder / "t.csv"


@pytest.fixture
def table(home):
    return write_mixed_table(home)


@pytest.fixture(scope="module")
def trained_once(tmp_path_factory):
    table = write_mixed_table(tmp_path_factory.mktemp("kept"))
    train(table, settings(table), table.parent / "one")
    return table.parent / "one"


@pytest.fixture
def one(trained_once, table):
    """A copy of a run, beside the table."""
    return copy_run(trained_once, table.parent)


def settings(table, **changes):
    found = Config(str(table), 96, (), "", 0.1, None, 12, 0, "float64", "y", drop=("label", "w"), optimizer="evidence")
    return dataclasses.replace(found, **{"keep_every": 0.0, **changes})


def task_of(table, config):
    return table_task(
        read_table(table), config.target, drop=config.drop, weights=config.weights, most_outputs=None, seed=config.seed
    )


def fitted(kind, task, config):
    """The estimator on the same rows, as they are before they are standardised."""
    targets = task.raw_targets[:, 0] if task.kind is Kind.REGRESSION else task.raw_targets.argmax(axis=1)
    model = kind(random_state=config.seed, max_iter=config.max_steps)
    return model.fit(task.inputs.invert(task.train_inputs), targets, task.train_weights)


@pytest.mark.parametrize("weights", ["", "w"])
def test_a_number_is_predicted_as_by_the_estimator(table, capsys, weights):
    options = ["--drop", "label", *(["--weights", "w"] if weights else ["--drop", "w"])]
    assert run(["train", "t.csv", "--target", "y", *options, "--seed", "3", "--max-steps", "12"]) == 0
    kept = load("runs/t")
    assert (kept.config.optimizer, kept.config.hidden, kept.config.tol) == ("evidence", (), 0.1)
    task = task_of(table, kept.config)
    model = fitted(JaxgeoRegressor, task, kept.config)
    held_out = task.inputs.invert(task.test_inputs)
    mean, deviation = model.predict(held_out, return_std=True)
    low, high = model.predict_interval(held_out, 0.9)
    for ours, theirs in (
        (kept.predict(held_out, return_std=True), (mean, deviation)),
        (kept.predict_interval(held_out, 0.9), (low, high)),
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6)
    # What the summary says, by hand.
    true = task.outputs.invert(task.test_targets)[:, 0]
    counts = np.ones(len(true)) if task.test_weights is None else task.test_weights
    share = counts / counts.sum()
    assert kept.metrics[-1]["test_rmse"] == pytest.approx(np.sqrt(share @ (mean - true) ** 2), rel=1e-6)
    found = kept.summary["evidence"]
    assert found["coverage"] == pytest.approx(share @ ((low <= true) & (true <= high)))
    assert found["effective"] == pytest.approx(model.num_effective_, rel=1e-6)
    assert found["noise"] == pytest.approx(model.noise_[0], rel=1e-6)
    np.testing.assert_allclose(kept.summary["held_out"]["deviation"], deviation, rtol=1e-6)
    output = capsys.readouterr().out
    page = (kept.path / "report.html").read_text()
    for told in ("gradient boosting", "held-out rows in their 90% intervals", f"{found['effective']:.1f} of "):
        assert told in output, told
        assert told in page, told
    assert "<h2>The networks</h2>" in page


def test_a_class_is_predicted_as_by_the_estimator(table):
    assert run(["train", "t.csv", "--target", "label", "--drop", "y", "--drop", "w", "--max-steps", "12"]) == 0
    kept = load("runs/t")
    task = task_of(table, kept.config)
    model = fitted(JaxgeoClassifier, task, kept.config)
    held_out = task.inputs.invert(task.test_inputs)
    assert kept.predict(held_out).tolist() == [("hi", "lo")[each] for each in model.predict(held_out)]
    np.testing.assert_allclose(
        kept.model.predict(task.test_inputs), model.predict_proba(held_out), rtol=1e-6, atol=1e-9
    )
    taken = model.predict(held_out)
    assert kept.metrics[-1]["test_accuracy"] == np.mean(taken == task.test_targets.argmax(axis=1))
    assert "coverage" not in kept.summary["evidence"]
    assert "predicted class" in (kept.path / "report.html").read_text()


class Interrupted:
    """Ctrl-C in a round; a kill is one after which nothing is written."""

    def __init__(self, round_number, kill=False):
        self.left, self.kill, self.hears = round_number, kill, Interruptible(lambda: None)

    def __call__(self, row):
        self.left -= 1
        if self.left == 0 and self.kill:
            raise KeyboardInterrupt
        self.hears.interrupted = self.left <= 0


def train(table, config, path, *, resume=False, stop=None):
    setup = prepare_table(task_of(table, config), config)
    make = RunFolder.open if resume else lambda path: RunFolder.create(path, fresh_name=False)
    with make(path) as folder:
        if stop is None:
            return train_table(setup, folder, progress=lambda row: None, interruptible=Interruptible(lambda: None),
                               resume=resume)  # fmt: skip
        return train_table(setup, folder, progress=stop, interruptible=stop.hears, resume=resume)


@pytest.mark.parametrize(
    ("kill", "few_first", "when"),
    [
        (True, True, (3, 6)),
        *(
            pytest.param(*each, range(1, 12), marks=pytest.mark.slow)
            for each in itertools.product([False, True], repeat=2)
        ),
    ],
)
def test_a_run_that_was_interrupted_goes_on_to_the_same_bits(table, monkeypatch, kill, few_first, when):
    if few_first:
        # As with many rows: the networks begin on some, and the best goes on with all.
        monkeypatch.setattr(plan, "MANY_ROWS", 64)
        for module in ("jaxgeo.tabular.plan.FIRST_UPDATES", "jaxgeo.tabular.ensemble.FIRST_UPDATES"):
            monkeypatch.setattr(module, 6)
    config = settings(table)
    train(table, config, table.parent / "whole")
    for rounds in when:
        path = table.parent / f"after {rounds}"
        stop = Interrupted(rounds, kill)
        if kill:
            with pytest.raises(KeyboardInterrupt):
                train(table, config, path, stop=stop)
        else:
            assert train(table, config, path, stop=stop)["outcome"] == "interrupted"
        if not kill or rounds > 1:
            # It can be asked as it is.
            assert np.isfinite(load(path).predict(np.zeros((3, len(load(path).inputs.names))))).all()
        train(table, config, path, resume=True)
        one, other = load(path), load(table.parent / "whole")
        assert one.metrics == other.metrics
        for mine, theirs in zip(one.model.ensemble.members, other.model.ensemble.members, strict=True):
            np.testing.assert_array_equal(mine.theta, theirs.theta)
            np.testing.assert_array_equal(mine.alpha, theirs.alpha)
        assert one.summary["held_out"] == other.summary["held_out"]


def test_a_run_before_its_first_update_says_so_and_begins_anew(table, capsys):
    config = settings(table)
    with pytest.raises(KeyboardInterrupt):
        train(table, config, table.parent / "one", stop=Interrupted(1, kill=True))
    with pytest.raises(ValueError, match="ended before its first update; use jaxgeo resume"):
        load("one")
    assert run(["resume", "one"]) == 0
    assert load("one").summary["steps"] == 12


def test_a_run_goes_on_with_more_updates_and_not_with_other_rows(table, capsys):
    train(table, settings(table), table.parent / "one")
    train(table, settings(table, keep_every=1e9), table.parent / "two")
    assert run(["resume", "one", "--max-steps", "15"]) == 0
    assert load("one").summary["steps"] == 15
    capsys.readouterr()
    table.write_text(table.read_text().replace("Bern", "Basel", 1))
    assert "the samples or targets have changed" in error_of(capsys, ["resume", "one"])


def test_what_new_rows_hold_is_read_as_in_training(table, one, capsys):
    (table.parent / "new.csv").write_text("city,b,a\nBern,1,2\nAtlantis,,0.5\n")
    assert run(["predict", "one", "new.csv", "--interval", "0.8"]) == 0
    output, told = capsys.readouterr()
    assert "such as 'Atlantis'" in told
    header, *lines = output.split()
    assert header == "row,y,y_std,y_low,y_high"
    kept = load("one")
    rows = {"city": ["Bern", "Atlantis"], "b": [1.0, None], "a": [2.0, 0.5]}
    with pytest.warns(UserWarning, match="absent or rare in training, such as 'Atlantis'") as warned:
        predicted = kept.predict(rows, return_std=True)
    assert str(warned[0].message) in " ".join(told.split())
    with pytest.warns(UserWarning, match="'Atlantis'"):
        expected = np.column_stack([*predicted, *kept.predict_interval(rows, 0.8)])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        kept.predict({"city": ["Bern"], "b": [1.0], "a": [2.0]})
    for wrong in ("new.csv", [rows]):
        with pytest.raises(ValueError, match="`rows` must be a pandas DataFrame.*; got"):
            kept.predict(wrong)
    assert re.fullmatch(r"Run\('one': t.csv: .*; regression, \w+ after 12 steps, cost \S+\)", repr(kept))
    np.testing.assert_array_equal([[float(cell) for cell in line.split(",")[1:]] for line in lines], expected)
    assert run(["predict", "one", "new.csv"]) == 0
    assert capsys.readouterr().out.split() == [
        "row,y",
        *(f"{i},{y!r}" for i, y in enumerate(expected[:, 0].tolist(), 1)),
    ]
    for bad in ("0", "1", "nan"):
        assert "--interval must be" in error_of(capsys, ["predict", "one", "new.csv", "--interval", bad])


def test_a_single_network_has_no_error_bars_and_several_have_no_rank(one, capsys):
    options = ["--target", "y", "--drop", "label", "--drop", "w", "--max-steps", "2"]
    assert run(["train", "t.csv", *options, "--hidden", "4", "--optimizer", "sgd", "--out", "single"]) == 0
    capsys.readouterr()
    assert "no error bars" in error_of(capsys, ["predict", "single", "t.csv", "--interval", "0.9"])
    assert "no single D" in error_of(capsys, ["rank", "one"])


@pytest.mark.parametrize(
    ("options", "part"),
    [
        (["--optimizer", "evidence", "--hidden", "8"], "--hidden is for a single network"),
        (["--optimizer", "evidence", "--patience", "3"], "--patience is for a single network"),
        (["--optimizer", "evidence", "--precision", "float32"], "float64"),
        (["--flow", "adapted", "--weights", "w"], "--weights is for networks that the evidence weighs"),
        (["--max-steps", "2000000"], "--max-steps must be at most"),
        (["--weights", "y"], "--weights names the target"),
        (["--weights", "v"], "no column 'v'"),
    ],
)
def test_what_does_not_go_together_is_refused(table, capsys, options, part):
    assert part in error_of(capsys, ["train", "t.csv", "--target", "y", *options])
    assert not (table.parent / "runs").exists()
    assert "--optimizer evidence only applies to tables" in error_of(
        capsys, ["train", "digits", "--optimizer", "evidence"]
    )


@pytest.mark.parametrize(
    ("cell", "part"),
    [
        ("-1", "the weights 'w' of t.csv are -1 on line 3"),
        ("", "the weights 'w' of t.csv are missing on line 3"),
        ("NaN", "the weights 'w' of t.csv are missing on line 3"),
        ("inf", "'w' of t.csv is infinite on line 3"),
        ("many", "holds 'many' on line 3"),
    ],
)
def test_weights_that_count_nothing_are_refused_by_name(table, capsys, cell, part):
    lines = table.read_text().splitlines()
    cells = lines[2].split(",")
    lines[2] = ",".join([*cells[:3], cell, *cells[4:]])
    table.write_text("\n".join(lines) + "\n")
    assert part in error_of(capsys, ["train", "t.csv", "--target", "y", "--weights", "w"])
    assert "the weights 'city' of t.csv are not numbers, such as" in error_of(
        capsys, ["train", "t.csv", "--target", "y", "--weights", "city"]
    )


@pytest.mark.slow
def test_the_settings_of_a_run_are_a_file_for_the_same_and_for_another_method(table):
    options = ["--target", "y", "--drop", "label", "--drop", "w", "--max-steps", "3"]
    assert run(["train", "t.csv", *options, "--out", "one"]) == 0
    assert run(["train", "--config", "one/config.toml", "--out", "two"]) == 0
    ours, theirs = (load(name).model.ensemble.members[0].theta for name in ("one", "two"))
    np.testing.assert_array_equal(ours, theirs)
    assert run(["train", "--config", "one/config.toml", "--optimizer", "sgd", "--max-steps", "1", "--hidden", "3",
                "--out", "sgd"]) == 0  # fmt: skip
    config = load("sgd").config
    assert (config.optimizer, config.tol, config.hidden) == ("sgd", 1e-4, (3,))
    assert run(["train", "--config", "sgd/config.toml", "--optimizer", "evidence", "--max-steps", "1", "--out",
                "back"]) == 0  # fmt: skip
    assert load("back").config.tol == 0.1


def test_a_run_that_is_worse_than_simple_models_says_so_first(home):
    rng, told = np.random.default_rng(0), []
    lines = [f"{a:.4f},{b:.4f},{y:.4f}" for a, b, y in rng.normal(size=(40, 3))]
    (home / "noise.csv").write_text("\n".join(["a,b,y", *lines]) + "\n")
    for seed in range(4):
        config = settings(home / "noise.csv", drop=(), samples=32, seed=seed, max_steps=4)
        summary = train(home / "noise.csv", config, home / str(seed))
        error = load(home / str(seed)).metrics[-1]["test_rmse"]
        worse = error > min(summary["baseline"], summary["linear"])
        assert worse == ("predicts worse than" in summary["warnings"][0])
        told.append(worse)
    assert {*told} == {True, False}


def test_what_diverges_is_called_so_and_no_advice_is_refused(table, capsys):
    options = ["--target", "y", "--drop", "label", "--drop", "w", "--optimizer", "sgd", "--learning-rate", "3"]
    assert run(["train", "t.csv", *options, "--hidden", "4", "--max-steps", "6"]) in (0, 1)
    kept = load("runs/t")
    assert not kept.metrics[-1]["cost"] <= kept.summary["cost0"]
    told = " ".join(kept.summary["warnings"])
    assert "The training diverged: the cost rose from" in told
    assert "a --learning-rate well below 3" in told
    assert "fit noise" not in told
    assert "--tol" not in told


@pytest.mark.parametrize("power", [160, -300])
def test_the_unit_of_a_target_changes_nothing_but_the_unit_of_scores(table, power):
    lines = [line.split(",") for line in table.read_text().splitlines()]
    for line in lines[1:]:
        line[4] += f"e{power}"
    (table.parent / "unit.csv").write_text("\n".join(map(",".join, lines)) + "\n")
    found = []
    for name in ("t", "unit"):
        path = table.parent / f"{name}.csv"
        summary = train(path, settings(path, max_steps=4), table.parent / name)
        kept = load(name)
        scores = [kept.metrics[-1][score] for score in ("train_rmse", "test_rmse")]
        scores += [
            summary["baseline"],
            summary["linear"],
            summary["evidence"]["boosting"],
            summary["evidence"]["noise"],
        ]
        inputs = np.zeros((2, len(kept.inputs.names)))
        found.append([*scores, *kept.predict(inputs), *kept.predict_interval(inputs)[0]])
    np.testing.assert_allclose(np.array(found[1]) / 10.0**power, found[0], rtol=1e-6)


def test_a_prediction_is_finite_or_refused(table, one, capsys):
    for cell, part in (("1e308", "not finite"), ("-1.7e308", "not finite|too large"), ("inf", "infinite")):
        (table.parent / "new.csv").write_text(f"city,b,a\nBern,1,2\nBern,1,{cell}\n")
        code = run(["predict", "one", "new.csv", "--interval", "0.9"])
        output, told = capsys.readouterr()
        assert (code == 2 and re.search(part, told)) or (code == 0 and len(output.split()) == 3), (output, told)
        assert "nan" not in output
        assert "inf" not in output
