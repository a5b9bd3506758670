"""`jaxgeo.fit`: by flow or optimizer, monitored, stopped and saved; and saved runs that are damaged or differ."""

import errno
import json
import os
import pathlib
import shutil

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxgeo as jg
from jaxgeo.fitting.batches import Batches
from jaxgeo.optim import Outcome

X = jnp.linspace(-1.0, 1.0, 6)[:, None]
Y = jnp.sin(3 * X)
ADAM = {"method": "adam", "tol": 0.0, "max_steps": 40, "record_every": 4, "batch_size": 3, "keep_every": 0.0}


@pytest.fixture(autouse=True)
def _standard_promotion():
    """optax's Adam and L-BFGS mix dtypes."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def model(width=8, dtype=jnp.float64):
    return eqx.nn.MLP(1, 1, width, 1, activation=jnp.tanh, dtype=dtype, key=jax.random.key(0))


def same(one, other):
    return all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True))


def stop_at(step):
    return lambda progress, model: progress.step >= step


@pytest.mark.slow
@pytest.mark.parametrize("method", ["levenberg-marquardt", "lbfgs"])
def test_the_tolerance_is_reached(method):
    found = jg.fit(model(), X, Y, method=method, tol=1e-2)
    assert found.outcome is Outcome.REACHED
    problem, params = jg.supervised(found.model, X, Y)
    assert float(problem.cost(params)) == pytest.approx(found.cost, rel=1e-9)
    assert found.cost <= 1e-2 * found.initial_cost * (1 + 1e-6)
    assert found.rows[0]["cost"] == pytest.approx(found.initial_cost)


def test_the_flow_is_on_its_law_and_its_end_is_known():
    seen = []
    found = jg.fit(model(), X, Y, method=jg.AdaptedFlow(jg.linalg.SVD()), tol=1e-2, progress=seen.append)
    jax.effects_barrier()
    assert found.s == pytest.approx(found.stopping_time, rel=1e-4)
    assert max(abs(row["deviation"]) for row in found.rows) < 1e-9
    assert found.outcome is Outcome.REACHED
    assert 0 <= 1 - found.cost / (1e-2 * found.initial_cost) < 1e-7
    fractions = [progress.fraction for progress in seen]
    assert fractions == pytest.approx(
        [min(np.log(p.cost / found.initial_cost) / np.log(1e-2), 1) for p in seen], abs=1e-9
    )
    assert fractions[-1] == pytest.approx(1)
    assert seen[-1].law == pytest.approx(seen[-1].cost, rel=1e-9)


def test_updates_are_those_of_a_loop_by_hand():
    found = jg.fit(model(), X, Y, method=optax.sgd(0.1), tol=0.0, max_steps=7, record_every=3)
    problem, params = jg.supervised(model(), X, Y)
    for _ in range(7):
        params = jax.tree.map(lambda p, g: p - 0.1 * g, params, jax.grad(problem.cost)(params))
    np.testing.assert_allclose(found.cost, problem.cost(params), rtol=1e-12)
    assert [row["step"] for row in found.rows] == [0, 3, 6, 7]
    assert found.outcome is Outcome.MAX_STEPS


def test_parameters_and_a_function_of_them_will_do_and_frozen_ones_stay():
    params = {"slope": jnp.array(0.0), "offset": jnp.array(1.0), "name": "line"}

    def line(params, x):
        return params["slope"] * x + params["offset"]

    x = jnp.arange(4.0)
    found = jg.fit(params, x, 3 * x + 1, method="levenberg-marquardt", apply=line, tol=1e-20,
                   trainable={"slope": True, "offset": False, "name": False})  # fmt: skip
    assert found.model["slope"] == pytest.approx(3)
    assert (float(found.model["offset"]), found.model["name"]) == (1.0, "line")


def test_another_cost_and_labels():
    labels = jnp.array([0, 0, 0, 1, 1, 1])
    network = eqx.nn.MLP(1, 2, 8, 1, key=jax.random.key(0))
    found = jg.fit(network, X, labels, cost=jg.SoftmaxCrossEntropy.from_labels, method="adam", max_steps=200, tol=0.7)
    assert found.outcome is Outcome.REACHED
    assert found.stopping_time is None


def test_batches_of_an_epoch_hold_no_sample_twice():
    problem, _ = jg.supervised(model(), X, Y)
    batches = Batches(problem, Y, jg.L2, 2, seed=5)
    order = batches.order(0, 6)
    assert order.shape == (6, 2)
    assert sorted(order[:3].ravel()) == sorted(order[3:].ravel()) == list(range(6))
    assert not np.array_equal(order[:3], order[3:])
    np.testing.assert_array_equal(batches.order(2, 3), order[2:5])
    one = batches.take(jnp.asarray(order[0]), None)
    np.testing.assert_array_equal(one.loss.targets, Y[order[0]])


def test_patience_gives_the_network_with_the_least_validation_cost():
    found = jg.fit(model(), X, Y, method="levenberg-marquardt", tol=0.0, validation=(X, -Y), patience=4, max_steps=50)
    costs = [row["validation_cost"] for row in found.rows if "validation_cost" in row]
    assert found.outcome is Outcome.EARLY
    assert len(costs) == int(np.argmin(costs)) + 1 + 4
    problem, params = jg.supervised(found.model, X, -Y)
    assert float(problem.cost(params)) == pytest.approx(min(costs))
    # The headline is about this network, not about the last one.
    problem, params = jg.supervised(found.model, X, Y)
    assert found.cost == pytest.approx(float(problem.cost(params)))
    assert found.cost > 2 * found.rows[-1]["cost"]


@pytest.mark.parametrize("method", ["adapted", "adam"])
def test_what_is_learned_already_is_left_as_it_is(method):
    network = model()
    problem, params = jg.supervised(network, X, Y)
    found = jg.fit(network, X, problem.outputs(params), method=method)
    assert (found.outcome, found.steps, found.cost) == (Outcome.REACHED, 0, 0.0)
    assert same(found.model, network)


def test_float32_stays_so():
    found = jg.fit(model(dtype=jnp.float32), np.asarray(X), np.asarray(Y), method="adam", max_steps=3)
    assert {leaf.dtype for leaf in jax.tree.leaves(eqx.filter(found.model, eqx.is_array))} == {jnp.dtype("float32")}


def test_a_cost_that_is_not_finite_ends_the_run():
    found = jg.fit(model(), X, Y, method=optax.sgd(1e200), max_steps=50)
    assert found.outcome is Outcome.FAILED
    assert "learning rate" in found.message


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"method": "adma"}, "did you mean 'adam'"),
        ({"tol": 1.0}, "`tol`"),
        ({"tol": 0.0}, "`tol` must be positive along a flow"),
        ({"tol": np.nan}, "`tol`"),
        ({"max_steps": 0}, "`max_steps`"),
        ({"method": "adam", "batch_size": 7}, "only 6 samples"),
        ({"batch_size": 2}, "a flow follows the cost of all samples"),
        ({"method": "adam", "rtol": 1e-3}, "`rtol`"),
        ({"patience": 3}, "`validation="),
        ({"resume": True}, "`folder`"),
        ({"seed": -1}, "`seed`"),
        ({"keep_every": -1.0}, "`keep_every`"),
    ],
)
def test_what_cannot_be_meant_is_refused_by_name(options, part):
    with pytest.raises(ValueError, match=part):
        jg.fit(model(), X, Y, **options)


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A run that was stopped half way, and the same in one go."""
    folder = tmp_path_factory.mktemp("kept") / "run"
    with jax.numpy_dtype_promotion("standard"):
        whole = jg.fit(model(), X, Y, **ADAM)
        jg.fit(model(), X, Y, folder=folder, callbacks=[stop_at(20)], **ADAM)
    return folder, whole


@pytest.fixture
def stopped(kept, tmp_path):
    """A copy of it."""
    folder, whole = kept
    return pathlib.Path(shutil.copytree(folder, tmp_path / "run")), whole


def newest(folder):
    return sorted((folder / "checkpoints").iterdir(), key=lambda path: int(path.name))[-1]


def test_a_run_goes_on_to_the_last_bit(stopped):
    folder, whole = stopped
    found = jg.fit(model(), X, Y, folder=folder, resume=True, **ADAM)
    assert same(found.model, whole.model)
    assert found.rows == whole.rows
    assert [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()] == whole.rows
    assert len(list((folder / "checkpoints").iterdir())) == 2
    # It has ended; asked again it says how, and with more updates allowed it makes them.
    assert jg.fit(model(), X, Y, folder=folder, resume=True, **ADAM).rows == whole.rows
    more = jg.fit(model(), X, Y, folder=folder, resume=True, **{**ADAM, "max_steps": 48})
    assert more.steps == 48


@pytest.mark.parametrize("true", [True, np.True_, jnp.array(True)])
def test_a_callback_ends_the_run_by_any_true(true):
    found = jg.fit(model(), X, Y, method="sgd", callbacks=[lambda progress, model: true])
    assert (found.outcome, found.steps) == (Outcome.STOPPED, 1)


def test_a_run_is_not_overwritten(stopped):
    with pytest.raises(ValueError, match="holds a run"):
        jg.fit(model(), X, Y, folder=stopped[0], **ADAM)


def test_ctrl_c_keeps_what_there_is(tmp_path):
    def press(progress, model):
        if progress.step == 20:
            raise KeyboardInterrupt

    found = jg.fit(model(), X, Y, folder=tmp_path / "run", callbacks=[press], **ADAM)
    assert found.outcome is Outcome.INTERRUPTED
    assert (found.steps, found.rows[-1]["step"]) == (20, 20)
    again = jg.fit(model(), X, Y, folder=tmp_path / "run", resume=True, **ADAM)
    assert same(again.model, jg.fit(model(), X, Y, **ADAM).model)


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(bytes(content))


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("damage", [flip, truncate, os.remove])
def test_a_damaged_checkpoint_gives_way_to_the_one_before(stopped, damage):
    folder, whole = stopped
    broken = newest(folder)
    files = [path for path in broken.rglob("*") if path.is_file() and path.stat().st_size > 200]
    assert any("arrays" in path.parts for path in files)
    for path in files:
        damage(path)
    with pytest.warns(UserWarning, match=f"checkpoint {broken.name} is damaged .* continuing from checkpoint"):
        found = jg.fit(model(), X, Y, folder=folder, resume=True, **ADAM)
    assert same(found.model, whole.model)
    assert found.rows == whole.rows


def test_one_changed_number_in_a_checkpoint_is_found(stopped):
    folder, whole = stopped
    path = next(path for path in (newest(folder) / "facts").iterdir() if b'"seconds"' in path.read_bytes())
    path.write_text(path.read_text().replace('"seed": 0', '"seed": 1'))
    with pytest.warns(UserWarning, match="its contents do not match its digest"):
        assert same(jg.fit(model(), X, Y, folder=folder, resume=True, **ADAM).model, whole.model)


def test_if_all_is_damaged_it_is_said(stopped):
    for path in (stopped[0] / "checkpoints").rglob("*"):
        if path.is_file():
            truncate(path)
    with pytest.raises(ValueError, match="no checkpoint in .* can be read: checkpoint .* is damaged"):
        jg.fit(model(), X, Y, folder=stopped[0], resume=True, **ADAM)


def test_damaged_metrics_cost_no_more_than_themselves(stopped):
    folder, whole = stopped
    (folder / "metrics.jsonl").write_text('{"step": 0, "cos')
    with pytest.warns(UserWarning, match="6 rows are lost"):
        found = jg.fit(model(), X, Y, folder=folder, resume=True, **ADAM)
    assert same(found.model, whole.model)
    assert found.rows == whole.rows[6:]


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"model": model(9)}, ["another network", "layers[0].weight is float64 (8, 1) there and float64 (9, 1) here"]),
        ({"model": model(dtype=jnp.float32)}, ["float64 (8, 1) there and float32 (8, 1) here"]),
        ({"method": "sgd"}, ["mu.layers[0].weight is float64 (8, 1) there and absent here", "more differ"]),
        ({"targets": Y + 1}, ["the samples or targets have changed"]),
        ({"seed": 4}, ["seed was 0 and is 4"]),
    ],
)
def test_another_network_method_or_data_is_refused_with_the_difference(stopped, changes, parts):
    options = {"model": model(), "inputs": X, "targets": Y, **ADAM, **changes}
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the message is looked at below
        jg.fit(**options, folder=stopped[0], resume=True)
    assert [part for part in parts if part not in str(caught.value)] == [], caught.value


def test_a_full_disk_is_said_and_leaves_what_was_kept(stopped, monkeypatch):
    folder, whole = stopped
    before = (folder / "metrics.jsonl").read_bytes()

    def refuse(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as full:
        full.setattr(os, "fsync", refuse)
        with pytest.raises(ValueError, match="cannot write .*No space left on device"):
            jg.fit(model(), X, Y, folder=folder, resume=True, **ADAM)
    assert (folder / "metrics.jsonl").read_bytes() == before
    assert same(jg.fit(model(), X, Y, folder=folder, resume=True, **ADAM).model, whole.model)


def test_a_folder_that_cannot_be_written_is_said(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="cannot write"):
        jg.fit(model(), X, Y, folder=tmp_path / "file" / "run", **ADAM)


def test_nothing_that_is_kept_is_pickled(stopped):
    for path in stopped[0].rglob("*"):
        # Protocol 2 and later begin with this mark, and NumPy's object arrays are pickles behind a header.
        assert not path.is_file() or not path.read_bytes().startswith(
            (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
        )
    assert not [path for path in stopped[0].rglob("*") if path.suffix in (".pkl", ".pickle")]


def test_tensorboard_has_the_rows_where_it_is_installed(tmp_path):
    pytest.importorskip("tensorboardX")
    jg.fit(model(), X, Y, folder=tmp_path, **ADAM)
    (events,) = (tmp_path / "tensorboard").iterdir()
    assert b"cost" in events.read_bytes()
