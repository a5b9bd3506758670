"""Derivatives that are not finite although the outputs are."""

import jax
import jax.numpy as jnp
import pytest

import jaxgeo as jg

ANCHORS = jnp.array([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
DISTANCES = jnp.linalg.norm(ANCHORS - jnp.array([[0.3, 0.4]]), axis=1)
# At an anchor the distance to it has no derivative.
START = {"place": jnp.zeros(2), "offset": jnp.zeros(())}


def distance(params, anchor):
    return jnp.sqrt(jnp.sum((params["place"] - anchor) ** 2)) + params["offset"]


PROBLEM = jg.Problem(distance, ANCHORS, jg.L2(DISTANCES))
WHERE = r"`place`.* for 1 of 4 samples, the first at index 0"


def test_fit_fails_and_says_where():
    found = jg.fit(START, PROBLEM, method="levenberg-marquardt", max_steps=3)
    assert found.outcome is jg.optim.Outcome.FAILED
    assert "by `place` are NaN" in found.message
    assert "for 1 of 4 samples, the first at index 0" in found.message


def test_flows_and_rank_reports_say_where():
    with pytest.raises(ValueError, match=WHERE):
        jg.solve_flow(PROBLEM, jg.AdaptedFlow(), START, s1=1.0)
    with pytest.raises(ValueError, match=WHERE):
        jg.rank_report(PROBLEM, START)


@pytest.mark.slow
@pytest.mark.parametrize(
    "tx",
    [
        jg.optim.adapted_levenberg_marquardt(),
        jg.optim.adapted_momentum(learning_rate=0.5),
        jg.optim.linear_interpolation(),
        jg.optim.adapted_gradient_descent(learning_rate=0.5),
    ],
    ids=["levenberg-marquardt", "momentum", "interpolation", "descent"],
)
def test_an_optimizer_stays_and_reports_a_failed_lift(tx):
    updates, state = tx.update(None, tx.init(START), START, problem=PROBLEM)
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(updates))
    assert int(state.info.outcome) == 3
    assert not state.info.accepted
    assert float(state.info.fraction) == 0
