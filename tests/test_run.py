"""Runs: saved whole, loaded exactly, refused if damaged, and the same in parts as in one go."""

import _thread
import pickle
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import runs

import jaxgeo as jg
from jaxgeo.app.runs import Config, load
from jaxgeo.app.runs.folder import RunFolder
from jaxgeo.app.runs.monitor import Monitor
from jaxgeo.equations import Network
from jaxgeo.fitting import Interruptible
from jaxgeo.fitting.files import write_text
from jaxgeo.optim import Outcome


def test_a_run_is_loaded_back_exactly(tmp_path):
    runs.write(tmp_path / "run")
    run = load(tmp_path / "run")
    assert (run.config, run.metrics, run.summary) == (runs.CONFIG, runs.rows(), runs.summary())
    for a, b in zip(jax.tree.leaves(run.model), jax.tree.leaves(runs.network()), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


def test_predictions_are_in_the_users_units(tmp_path):
    runs.write(tmp_path / "run")
    run, task = load(tmp_path / "run"), runs.task()
    raw = np.array([[1.0, 2.0], [5.0, -1.0]])
    layers = [(np.asarray(layer.weight), np.asarray(layer.bias)) for layer in run.model.layers]
    z = (raw - task.inputs.mean) / task.inputs.scale
    z = np.tanh(z @ layers[0][0].T + layers[0][1]) @ layers[1][0].T + layers[1][1]
    np.testing.assert_allclose(run.predict(raw), z[:, 0] * task.outputs.scale[0] + task.outputs.mean[0], rtol=1e-12)
    with pytest.raises(ValueError, match=r"shape \(rows, 2\)"):
        run.predict(np.ones((3, 5)))
    with pytest.raises(ValueError, match="NaN"):
        run.predict(np.full((1, 2), np.nan))


@pytest.mark.parametrize("name", ["config.toml", "network.json", "parameters.eqx", "metrics.jsonl", "summary.json"])
def test_a_damaged_or_incomplete_run_is_refused(tmp_path, name):
    runs.write(tmp_path / "run")
    file = tmp_path / "run" / name
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2 - 3])
    damage = pytest.raises(ValueError, match="damaged.*do not match its digest")
    with pytest.warns(match="3 of its rows are lost") if name == "metrics.jsonl" else damage:
        assert load(tmp_path / "run").metrics == runs.rows()[:2]
    file.unlink()
    with pytest.raises(ValueError, match=f"there is no {name}"):
        load(tmp_path / "run")


def test_parameters_of_another_network_are_refused(tmp_path):
    folder = runs.write(tmp_path / "run")
    folder.save_parameters(Network((2, 4, 1), jnp.float64, key=jax.random.key(0)))
    with pytest.raises(ValueError, match=r"layers\[0\].weight is float64 \(4, 2\) there and float64 \(3, 2\) here"):
        load(tmp_path / "run")


class Armed:
    def __reduce__(self):
        return pytest.fail, ("a pickle was opened",)


def test_a_run_from_a_stranger_executes_nothing(tmp_path):
    runs.write(tmp_path / "run")
    for content in (pickle.dumps(Armed()), None):
        with (tmp_path / "run" / "parameters.eqx").open("wb") as file:
            if content is None:
                np.save(file, np.array([Armed()], object), allow_pickle=True)
            else:
                file.write(content)
        with pytest.raises(ValueError, match="damaged"):
            load(tmp_path / "run")


def test_an_interrupted_write_leaves_the_file_as_it_was(tmp_path, monkeypatch):
    write_text(tmp_path / "summary.json", "before")

    def interrupt(descriptor):
        raise KeyboardInterrupt

    monkeypatch.setattr("os.fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_text(tmp_path / "summary.json", "after")
    assert (tmp_path / "summary.json").read_text() == "before"


def test_nothing_half_written_is_left(tmp_path):
    folder = runs.write(tmp_path / "run")
    assert not list(folder.path.glob("*.part")) + [path for path in folder.path.glob(".*") if path.name != ".lock"]


def test_a_folder_in_use_gets_a_neighbour(tmp_path):
    runs.write(tmp_path / "run")
    assert RunFolder.create(tmp_path / "run", fresh_name=True).path.name == "run-2"
    with pytest.raises(ValueError, match="in use"):
        RunFolder.create(tmp_path / "run", fresh_name=False)
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="cannot write"):
        RunFolder.create(tmp_path / "file" / "run", fresh_name=False)


@pytest.mark.parametrize(
    ("line", "part"),
    [
        ("colour = 1", "no setting 'colour'"),
        ("patiense = 1", "did you mean 'patience'"),
        ('patience = "long"', "patience must be an integer; got 'long'"),
        ("learning_rate = true", "learning_rate must be a number"),
        ("batch_size", "not the settings|Expected '='"),
    ],
)
def test_settings_of_another_name_or_type_are_refused(line, part):
    with pytest.raises(ValueError, match=part):
        Config.from_toml(runs.CONFIG.to_toml() + line + "\n")


def test_settings_that_are_not_there_are_named():
    text = "".join(line for line in runs.CONFIG.to_toml().splitlines(True) if not line.startswith(("seed", "tol")))
    with pytest.raises(ValueError, match="tol, seed missing"):
        Config.from_toml(text)


def test_ctrl_c_is_heard_and_the_computation_finishes():
    heard = []
    interruptible = Interruptible(lambda: heard.append(True))
    threading.Timer(0.3, _thread.interrupt_main).start()

    def work():
        time.sleep(1.0)
        return "done"

    assert interruptible.run(work) == "done"
    assert heard == [True]
    assert (interruptible.interrupted, interruptible.abandoned) == (True, False)


def test_a_second_ctrl_c_leaves_at_once():
    interruptible = Interruptible(lambda: threading.Timer(0.2, _thread.interrupt_main).start())
    threading.Timer(0.2, _thread.interrupt_main).start()
    release = threading.Event()
    with pytest.raises(KeyboardInterrupt):
        interruptible.run(release.wait)
    release.set()
    assert interruptible.abandoned


def test_an_error_of_the_computation_comes_out():
    with pytest.raises(ZeroDivisionError):
        Interruptible(lambda: None).run(lambda: 1 / 0)


@pytest.mark.slow
def test_parts_join_to_one_integration():
    task, network, heard, parts = runs.task(), runs.network(), [], []
    found = jg.fit(
        network,
        task.train_inputs,
        task.train_targets,
        rtol=1e-8,
        record=Monitor(task, network),
        progress=lambda progress: heard.append(progress.cost),
        callbacks=[lambda progress, model: parts.append(progress.step)],
    )
    jax.effects_barrier()
    assert found.outcome is Outcome.REACHED
    assert len(parts) > 2
    assert parts[-1] == found.steps
    s, costs = (np.array([row[name] for row in found.rows]) for name in ("s", "cost"))
    assert s[0] == 0
    assert (np.diff(s) > 0).all()
    np.testing.assert_allclose(costs, found.initial_cost * np.exp(-2 * s / 4), rtol=1e-6)
    assert s[-1] == pytest.approx(2 * np.log(1e6), rel=1e-6)
    assert found.stopping_time == pytest.approx(s[-1], rel=1e-6)
    assert set(costs) <= set(heard)
    # The scores of the first moment, by hand.
    outputs = np.asarray(jax.vmap(network)(jnp.asarray(task.test_inputs)))
    start = np.sqrt(np.mean((outputs - task.test_targets) ** 2)) * task.outputs.scale[0]
    assert found.rows[0]["test_rmse"] == pytest.approx(start)
