"""Invalid input raises a `ValueError` that names the argument, before anything is compiled."""

import logging

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxgeo as jg
from cases.problems import Linear, cases

INPUTS, TARGETS = np.ones((3, 2)), np.zeros((3, 1))
MODEL = eqx.nn.Linear(2, 1, key=jax.random.key(0))
INTEGERS = jax.tree.map(lambda leaf: jnp.ones(leaf.shape, jnp.int32), MODEL)
COMPLEX = jax.tree.map(lambda leaf: leaf.astype(jnp.complex128), MODEL)
NAN_MODEL = eqx.tree_at(lambda model: model.bias, MODEL, jnp.full(1, jnp.nan))
MIXED = {"w": jnp.ones((1, 2)), "z": jnp.ones(2, jnp.complex128)}
PLAIN, WEIGHT = jg.Problem(Linear(), INPUTS + np.arange(6).reshape(3, 2) ** 2, jg.L2(TARGETS)), jnp.ones((1, 2))
OUTER, VECTOR = jg.Problem(lambda w, x: jnp.outer(w, x), INPUTS, jg.L2(np.zeros((3, 2, 3)))), jnp.ones(3)


def holed(array, value):
    array = array.copy()
    array[1, 0] = value
    return array


def problem(**options):
    return jg.Problem(lambda params, x: params["w"] @ x, INPUTS, jg.L2(TARGETS), **options)


def solve(**options):
    return jg.solve_flow(PLAIN, jg.StandardFlow(), WEIGHT, **options)


REFUSED = {
    "NaN in inputs": (lambda: jg.supervised(MODEL, holed(INPUTS, np.nan), TARGETS), r"`inputs` has 1 NaN.*\(1, 0\)"),
    "inf in inputs": (lambda: jg.supervised(MODEL, holed(INPUTS, np.inf), TARGETS), "`inputs` has 1 NaN or inf"),
    "NaN in targets": (lambda: jg.supervised(MODEL, INPUTS, holed(TARGETS, np.nan)), "`targets` has 1 NaN"),
    "inf in targets": (lambda: jg.L2(holed(TARGETS, -np.inf)), "`targets` has 1 NaN or inf"),
    "NaN in parameters": (lambda: jg.supervised(NAN_MODEL, INPUTS, TARGETS), "`params` has 1 NaN"),
    "text in inputs": (lambda: jg.supervised(MODEL, INPUTS.astype(str), TARGETS), "`inputs`.* dtype <U.*Convert text"),
    "inputs without their last axis": (
        lambda: jg.supervised(MODEL, INPUTS[:, 0], TARGETS),
        r"could not be evaluated.* of shape \(\): .*one sample at a time",
    ),
    "N of inputs and targets": (lambda: jg.supervised(MODEL, INPUTS, TARGETS[:2]), "`inputs` and `targets`.* 3 .* 2 "),
    "N of two inputs": (lambda: jg.supervised(MODEL, (INPUTS, INPUTS[:2]), TARGETS), r"`inputs` must agree.*\[2, 3\]"),
    "Q of outputs and targets": (lambda: jg.supervised(MODEL, INPUTS, np.zeros((3, 2))), "`targets`.*Q=1.*Q=2"),
    "shape of outputs and targets": (
        lambda: OUTER.check(VECTOR),
        r"same shape.*\(3, 3, 2\).*\(3, 2, 3\)",
    ),
    "integer parameters": (lambda: jg.supervised(INTEGERS, INPUTS, TARGETS), "`params` has no trainable.*int32"),
    "complex parameters": (lambda: jg.supervised(COMPLEX, INPUTS, TARGETS), "`params` has no trainable.*complex128"),
    "a complex leaf": (lambda: problem().check(MIXED), "`z` of `params` is complex"),
    "everything frozen": (lambda: problem(trainable=False).check({"w": WEIGHT}), "`params` has no trainable"),
    "no arrays": (lambda: problem().check({"w": "none"}), "`params` has no trainable.*no arrays"),
    "trainable marks an integer": (
        lambda: problem(trainable=True).check({"w": WEIGHT, "n": jnp.asarray(np.arange(2))}),
        "`n` of `params` is marked trainable.*int",
    ),
    "trainable of another shape": (lambda: problem(trainable={"v": True}).check({"w": WEIGHT}), "`trainable` must"),
    "empty inputs": (lambda: jg.supervised(MODEL, INPUTS[:0], TARGETS[:0]), "`inputs` is empty"),
    "empty targets": (lambda: jg.L2(TARGETS[:0]), "`targets` is empty"),
    "empty labels": (lambda: jg.L2.from_labels(np.zeros(0, int)), "`labels` is empty"),
    "no inputs": (lambda: jg.supervised(MODEL, (), TARGETS), "`inputs` must be arrays"),
    "scalar inputs": (lambda: jg.supervised(MODEL, 1.0, TARGETS), "`inputs` must be arrays"),
    "text inputs": (lambda: jg.supervised(MODEL, np.array(["a", "b", "c"]), TARGETS), "`inputs` must be an array"),
    "text targets": (lambda: jg.L2(np.array(["a", "b"])), "`targets` must be an array of numbers"),
    "integer targets": (lambda: jg.L2(np.arange(3)), "`targets` must be real floating-point.*int64.*from_labels"),
    "label too large": (lambda: jg.L2.from_labels(np.array([0, 3, 1]), num_classes=3), r"`labels\[1\]` is 3"),
    "label negative": (lambda: jg.L2.from_labels(np.array([0, 1, -1])), r"`labels\[2\]` is -1"),
    "class vectors not finite": (lambda: jg.L2.from_labels(np.array([0]), np.full((1, 2), np.nan)), "`class_vectors`"),
    "no blocks": (lambda: jg.residual_problem([]), "`blocks` is empty"),
    "negative weight": (
        lambda: jg.residual_problem([(Linear(), INPUTS, -1.0)]),
        r"`blocks\[0\]\[2\]` must be positive.*-1",
    ),
    "no end": (lambda: solve(), "`s1`.*`cost_tol`.*neither"),
    "s1 negative": (lambda: solve(s1=-1.0), "`s1` must be positive"),
    "s1 infinite": (lambda: solve(s1=np.inf), "`s1` must be positive and finite"),
    "cost_tol zero": (lambda: solve(cost_tol=0.0), "`cost_tol` must be positive"),
    "dt0 negative": (lambda: solve(s1=1.0, dt0=-1.0), "`dt0` must be positive"),
    "save_at decreasing": (lambda: solve(s1=1.0, save_at=np.array([0.5, 0.2])), "`save_at` must be increasing"),
    "save_at beyond the end": (lambda: solve(s1=1.0, save_at=np.array([0.5, 1.2])), "`save_at`.*beyond `s1`"),
    "save_at of no times": (lambda: solve(s1=1.0, save_at=np.array([])), "`save_at` must be a vector"),
    "K below QN": (
        lambda: jg.solve_flow(PLAIN, jg.OverparametrizedFlow(), WEIGHT, s1=1.0),
        "`OverparametrizedFlow` needs K ≥ QN; got K=2.*QN=3",
    ),
}


def test_an_optimizer_says_how_the_network_is_called():
    params = {"w": WEIGHT}
    tx = jg.optim.adapted_levenberg_marquardt(lambda x, params: params["w"] @ x)
    with pytest.raises(ValueError, match=r"could not be evaluated.* of shape \(2,\): .*parameters first"):
        tx.update(None, tx.init(params), params, inputs=INPUTS, targets=TARGETS)


@pytest.mark.parametrize("name", REFUSED)
def test_refused_before_compilation(name, caplog):
    call, message = REFUSED[name]
    with jax.log_compiles(), caplog.at_level(logging.WARNING), pytest.raises(ValueError, match=message):
        call()
    compiled = [record.message for record in caplog.records if "Finished XLA compilation" in record.message]
    # JAX 0.12 compiles a program by the name of `stage` to move an array of NumPy's to the device.
    assert [message for message in compiled if "jit(stage)" not in message] == []


def test_the_log_would_show_a_compilation(caplog):
    with jax.log_compiles(), caplog.at_level(logging.WARNING):
        jax.jit(lambda x: 3 * x + 1)(jnp.ones(5)).block_until_ready()
    assert any("Finished XLA compilation" in record.message for record in caplog.records)


def test_k_above_qn():
    case = cases()["linear over"]
    with pytest.raises(ValueError, match="`UnderparametrizedFlow` needs K ≤ QN; got K=10.*QN=6"):
        jg.solve_flow(case.problem, jg.UnderparametrizedFlow(), case.params, s1=1.0)


@pytest.mark.parametrize("name", ["linear deficient", "mlp duplicates"])
def test_rank_loss_is_refused_before_the_integration(name, caplog):
    case = cases()[name]
    message = rf"rank\(D\) is {case.rank} \(in float64\), but this flow needs {case.num_rows}.*RankAdaptiveFlow"
    with jax.log_compiles(), caplog.at_level(logging.WARNING), pytest.raises(ValueError, match=message):
        jg.solve_flow(case.problem, jg.AdaptedFlow(), case.params, s1=1.0)
    assert not any("diffeqsolve" in record.message for record in caplog.records)


@pytest.mark.slow
def test_no_rank_is_needed_by_the_rank_adaptive_flow():
    case = cases()["linear deficient"]
    sol = jg.solve_flow(case.problem, jg.RankAdaptiveFlow(), case.params, s1=1.0)
    assert sol.result == jg.RESULTS.successful


def test_a_solver_without_error_estimate_needs_a_controller():
    with pytest.raises(ValueError, match="`stepsize_controller=diffrax.ConstantStepSize\\(\\)` with `dt0`"):
        solve(s1=1.0, solver=dfx.Euler())


def test_a_cost_that_is_not_finite_at_the_start():
    huge = jg.Problem(lambda w, x: jnp.exp(1e4 * w) * x, jnp.ones(2), jg.L2(jnp.ones(2)))
    with pytest.raises(ValueError, match="the cost at `params` is inf"):
        jg.solve_flow(huge, jg.StandardFlow(), jnp.array(1.0), cost_tol=1e-3)
