"""Fits from several starts: the best is returned, and the others are reported."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxgeo as jg
from jaxgeo.optim import Outcome


@pytest.fixture(autouse=True)
def _standard_promotion():
    """optax's Adam mixes dtypes."""
    with jax.numpy_dtype_promotion("standard"):
        yield


DAYS = np.arange(36.0, 73.0)
CASES = np.array(
    [4, 4, 4, 6, 6, 13, 22, 22, 26, 28, 38, 48, 55, 65, 65, 92, 112, 134, 171, 210, 267, 307, 353, 436, 669, 669]
    + [818, 1029, 1219, 1405, 1617, 1791, 2032, 2032, 2182, 2298, 2389.0]
)
# Half the mean square of an outbreak's best exponential.
LEAST, BEST = 7701.6836, (1.9079, -0.101639, -173.638)


def outbreak(t, a, b, c):
    return a * jnp.exp(-b * t) + c


def test_the_least_of_several_starts_is_kept():
    """From ones, where e⁻ᵇᵗ is round-off, a fit ends on a plateau; SciPy's `trf` ends at 2 550 390."""
    found = jg.curve_fit(outbreak, DAYS, CASES, [1.0, 1.0, 1.0], starts=[[100.0, 0.1, 1.0]])
    np.testing.assert_allclose(found.popt, BEST, rtol=1e-4)
    assert found.cost / len(DAYS) == pytest.approx(LEAST, rel=1e-7)
    first, second = found.starts
    # On which one depends on round-off.
    assert first.cost > 2_550_000
    assert second.cost == found.cost
    assert (second.outcome, second.num_steps) == (found.outcome, found.num_steps)
    assert f"the best of 2 starts, whose costs are {first.cost:g}, 284962" in str(found)


@pytest.mark.slow
def test_starts_are_drawn_between_bounds():
    low, high = np.array([0.0, -1.0, -1000.0]), np.array([100.0, 1.0, 1000.0])
    found = jg.curve_fit(outbreak, DAYS, CASES, [1.0, 1.0, 1.0], bounds=(low, high), starts=8)
    assert len(found.starts) == 9
    assert found.cost / len(DAYS) == pytest.approx(LEAST, rel=1e-7)
    assert (found.popt >= low).all()
    assert (found.popt <= high).all()


def wave(p, t):
    return p["size"] * jnp.sin(p["rate"] * t)


def begun(rate):
    return {"size": jnp.array(1.0), "rate": jnp.array(rate)}


@pytest.mark.parametrize("method", [pytest.param("levenberg-marquardt", marks=pytest.mark.slow), "adam"])
def test_fit_returns_the_best_model_and_tells_of_the_others(method):
    t = 2 * np.pi * np.arange(60) / 60
    y = 2 * np.sin(2 * t) + 0.01 * np.cos(9 * t)
    options = {"apply": wave, "method": method, "tol": 0.0, "max_steps": 30}
    found = jg.fit(begun(5.0), t, y, starts=[begun(1.8), begun(0.2)], **options)
    alone = [jg.fit(begun(rate), t, y, **options) for rate in (5.0, 1.8, 0.2)]
    # `vmap` sums in another order.
    for start, each in zip(found.starts, alone, strict=True):
        assert start.cost == pytest.approx(each.cost, rel=1e-6)
    assert found.cost == min(start.cost for start in found.starts)
    assert found.starts.index(min(found.starts)) == 1
    np.testing.assert_allclose(found.model["rate"], alone[1].model["rate"], rtol=1e-6)
    if method == "levenberg-marquardt":
        assert found.starts[1].outcome is Outcome.CONVERGED
        assert found.starts[1].num_steps < found.steps
        np.testing.assert_allclose(found.model["rate"], 2.0, rtol=1e-3)


@pytest.mark.slow
def test_a_run_from_several_starts_ends_as_soon_as_one_reaches_the_tolerance():
    t = 2 * np.pi * np.arange(60) / 60
    options = {"apply": wave, "method": "levenberg-marquardt", "tol": 1e-12}
    found = jg.fit(begun(5.0), t, 2 * np.sin(2 * t), starts=[begun(1.8)], **options)
    assert found.outcome is found.starts[1].outcome is Outcome.REACHED
    assert found.starts[0].outcome is None
    np.testing.assert_allclose(found.model["rate"], 2.0, rtol=1e-6)


def test_a_run_from_several_starts_is_resumed(tmp_path):
    t = np.linspace(0.0, 3.0, 20)
    options = {"apply": wave, "method": "adam", "tol": 0.0, "record_every": 4, "starts": [begun(1.8)]}
    whole = jg.fit(begun(5.0), t, np.sin(2 * t), max_steps=12, **options)
    jg.fit(begun(5.0), t, np.sin(2 * t), max_steps=8, folder=tmp_path / "run", **options)
    found = jg.fit(begun(5.0), t, np.sin(2 * t), max_steps=12, folder=tmp_path / "run", resume=True, **options)
    assert found.starts == whole.starts
    assert float(found.model["rate"]) == float(whole.model["rate"])


def test_starts_that_cannot_be_used_are_refused_by_name():
    t = np.linspace(0.0, 3.0, 20)
    with pytest.raises(ValueError, match=r"`starts\[0\]` must have the structure of `model`"):
        jg.fit(begun(1.0), t, t, apply=wave, method="adam", starts=[{"size": 1.0}])
    with pytest.raises(ValueError, match="`starts` must be a list of models"):
        jg.fit(begun(1.0), t, t, apply=wave, method="adam", starts=[])
    with pytest.raises(ValueError, match="`starts` need an optimizer on all samples"):
        jg.fit(begun(1.0), t, t, apply=wave, method="adam", starts=[begun(2.0)], batch_size=4)
    for starts, words in (
        (3, "`bounds` must be finite"),
        ([[1.0]], "shape"),
        ([{"a": 1.0}], r"`starts\[0\]` must have the structure of `p0`"),
    ):
        with pytest.raises(ValueError, match=words):
            jg.curve_fit(outbreak, DAYS, CASES, [1.0, 1.0, 1.0], starts=starts)
    with pytest.raises(ValueError, match=r"`starts\[0\]` must be within `bounds`"):
        jg.curve_fit(outbreak, DAYS, CASES, [1.0, 1.0, 1.0], starts=[[3.0, 0.0, 0.0]], bounds=(-2.0, 2.0))
