"""The vector fields against dense algebra, and their effect on the outputs and the cost."""

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import jaxgeo as jg
from cases.problems import BORDERLINE, CASES, DEFICIENT, KINDS, OVER, UNDER, Layer, cases
from jaxgeo.flows.base import check_problem


def flat(case, velocity):
    return np.asarray(ravel_pytree(case.problem.partition(velocity)[0])[0])


def gradient(case):
    return np.ravel(case.problem.loss.gradient(case.problem.outputs(case.params)))


def moved(case, velocity, step):
    return jax.tree.map(
        lambda leaf, change: leaf + step * change if eqx.is_inexact_array(leaf) else leaf, case.params, velocity
    )


FAST = ("linear over", "mlp under", "mlp duplicates", "two blocks", "frozen")


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (name not in FAST)) for name in CASES])
def test_standard_flow(name):
    """(1.9), and (1.10): ∂ₛC = −|∇θC|²."""
    case = cases()[name]
    velocity = jg.StandardFlow()(0.0, case.params, case.problem)
    np.testing.assert_allclose(flat(case, velocity), -case.dense().T @ gradient(case), atol=1e-12)
    step = 1e-5 / max(1.0, np.linalg.norm(flat(case, velocity)))
    ahead, behind = (case.problem.cost(moved(case, velocity, sign * step)) for sign in (1, -1))
    np.testing.assert_allclose((ahead - behind) / (2 * step), -np.sum(flat(case, velocity) ** 2), rtol=1e-6)


FULL_RANK = [*OVER, *BORDERLINE, *KINDS, "two blocks"]
# At full rank the three differ in what they refuse; where they lift, they are one function.
OTHER_FLOWS = [jg.OverparametrizedFlow(), jg.RankAdaptiveFlow()]


@pytest.mark.parametrize(
    ("flow", "name"),
    [
        # The lift meets all of these in `test_lift.py`.
        *(pytest.param(jg.AdaptedFlow(), each, marks=[pytest.mark.slow] * (each != "equinox")) for each in FULL_RANK),
        *(
            pytest.param(
                flow, each, marks=[pytest.mark.slow] * (flow is not OTHER_FLOWS[0] or each != "linear borderline")
            )
            for flow in OTHER_FLOWS
            for each in FULL_RANK
        ),
    ],
)
def test_outputs_move_along_their_gradient(name, flow):
    """(1.28), (2.5): Dθ̇ = −∇ₓC, where K ≥ QN and D has full rank; (6.4) where K = QN."""
    case = cases()[name]
    velocity = flow(0.0, case.params, case.problem)
    np.testing.assert_allclose(case.dense() @ flat(case, velocity), -gradient(case), atol=1e-10)


@pytest.mark.parametrize("name", [UNDER[0], pytest.param(UNDER[1], marks=pytest.mark.slow)])
@pytest.mark.parametrize("flow", [jg.AdaptedFlow(), jg.UnderparametrizedFlow(), jg.RankAdaptiveFlow()])
def test_outputs_move_along_their_projected_gradient(name, flow):
    """(5.3), (5.5): Dθ̇ = −𝒫∇ₓC, so 𝒫⊥∂ₛx = 0, with 𝒫 from an orthonormal basis of range(D)."""
    case = cases()[name]
    matrix = case.dense()
    basis = np.linalg.qr(matrix)[0]
    speed = matrix @ flat(case, flow(0.0, case.params, case.problem))
    projected = basis @ (basis.T @ gradient(case))
    np.testing.assert_allclose(speed, -projected, atol=1e-10 * np.abs(projected).max())
    jacobian = case.problem.jacobian(case.params)
    by_jvp = np.ravel(jacobian.mv(case.problem.partition(flow(0.0, case.params, case.problem))[0]))
    outside = by_jvp - basis @ (basis.T @ by_jvp)
    assert np.linalg.norm(outside) <= 1e-12 * np.linalg.norm(by_jvp)


@pytest.mark.parametrize("name", [BORDERLINE[0], pytest.param(BORDERLINE[1], marks=pytest.mark.slow)])
def test_borderline_flows_coincide(name):
    """(6.2): for K = QN the two flows have the same velocity, D⁻¹ times −∇ₓC."""
    case = cases()[name]
    assert case.num_rows == case.num_params
    over = flat(case, jg.OverparametrizedFlow()(0.0, case.params, case.problem))
    under = flat(case, jg.UnderparametrizedFlow()(0.0, case.params, case.problem))
    assert np.linalg.norm(over - under) <= 1e-10 * np.linalg.norm(under)
    inverse = np.linalg.solve(case.dense(), -gradient(case))
    np.testing.assert_allclose(over, inverse, rtol=0, atol=1e-9 * np.abs(inverse).max())


@pytest.mark.parametrize("name", [pytest.param(DEFICIENT[0], marks=pytest.mark.slow), *DEFICIENT[1:]])
def test_rank_adaptive_flow_under_rank_loss(name):
    """(4.5), (4.10): the shortest parameter velocity that moves the outputs by −𝒫∇ₓC."""
    case = cases()[name]
    matrix = case.dense()
    expected = -np.linalg.pinv(matrix, rcond=1e-10) @ gradient(case)
    found = flat(case, jg.RankAdaptiveFlow()(0.0, case.params, case.problem))
    np.testing.assert_allclose(found, expected, atol=1e-8 * np.abs(expected).max())


def test_output_flow_is_the_negative_gradient():
    """(1.11)."""
    case = cases()["dict"]
    outputs = case.problem.outputs(case.params)
    np.testing.assert_allclose(
        jg.OutputFlow()(0.0, outputs, case.problem), (case.problem.loss.targets - outputs) / 3, atol=1e-16
    )


@pytest.mark.parametrize("flow", [jg.StandardFlow(), pytest.param(jg.AdaptedFlow(), marks=pytest.mark.slow)])
def test_frozen_leaves_have_no_velocity(flow):
    case = cases()["frozen"]
    velocity = flow(0.0, case.params, case.problem)
    assert np.all(np.asarray(velocity["W"]) == 0)
    assert np.any(np.asarray(velocity["b"]) != 0)
    others = cases()["other leaves"]
    velocity = flow(0.0, others.params, others.problem)
    assert set(velocity) == set(others.params)
    assert velocity["steps"].tolist() == [0, 0, 0]


@pytest.mark.slow
def test_no_retrace_on_the_second_call():
    traces = []

    def apply(params, sample):
        traces.append(None)
        return Layer()(params, sample)

    case = cases()["dict"]
    block = case.problem.blocks[0]
    for flow in (jg.AdaptedFlow, jg.StandardFlow):
        flow()(0.0, case.params, jg.Problem(apply, block.inputs, case.problem.loss))
        count = len(traces)
        twice = jax.tree.map(lambda leaf: 2 * leaf, case.params)
        # New objects, new values: all that counts is what they are made of.
        flow()(0.0, twice, jg.Problem(apply, block.inputs + 1, jg.L2(case.problem.loss.targets)))
        assert len(traces) == count > 0


@pytest.mark.slow
@pytest.mark.parametrize("flow", [jg.StandardFlow(), jg.AdaptedFlow()])
def test_vmap_over_parameters(flow):
    case = cases()["dict"]
    batch = jax.tree.map(lambda leaf: jnp.stack([leaf, 2 * leaf]), case.params)
    together = jax.vmap(lambda params: flow(0.0, params, case.problem))(batch)
    alone = flow(0.0, jax.tree.map(lambda leaf: 2 * leaf, case.params), case.problem)
    np.testing.assert_allclose(together["W"][1], alone["W"], rtol=1e-9, atol=1e-12)


def test_is_a_vector_field_of_diffrax():
    """`dfx.ODETerm(flow)` with `args=problem`, and nothing else of jaxgeo: the outputs follow (2.7)."""
    case = cases()["equinox"]
    solution = dfx.diffeqsolve(
        dfx.ODETerm(jg.AdaptedFlow(jg.linalg.SVD())),
        dfx.Tsit5(),
        0.0,
        3.0,
        0.1,
        case.params,
        args=case.problem,
        max_steps=64,
    )
    final = case.problem.outputs(jax.tree.map(lambda leaf: leaf[0], solution.ys))
    start, targets = case.problem.outputs(case.params), case.problem.loss.targets
    np.testing.assert_allclose(final, targets + (start - targets) / np.e, atol=1e-6)


@pytest.mark.parametrize("given", [None, jnp.ones(2)])
def test_a_flow_without_its_problem_says_how_diffrax_gets_it(given):
    with pytest.raises(ValueError, match=r"`problem` is a (NoneType|ArrayImpl)\. If diffrax .* `args=problem`"):
        check_problem(given)
