"""G, its diagonal and Dᵀv, without D, against the dense D Dᵀ and Dᵀv for random networks: see `networks`.

For a failure hypothesis prints the network as code, which can be pasted and run. `numbered(17)` is the network
with that number in `benchmarks/random_networks.py`, and prints as one too.
"""

import hypothesis
import jax
import jax.numpy as jnp
import pytest

import jaxgeo as jg
from cases.networks import Comparison, compare, numbered, programs, reverse_mode_is_right
from jaxgeo.linalg.gram.gram import Gram

TOLERANCE = 1e-10


def drawn(count):
    return hypothesis.settings(
        max_examples=count,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=[hypothesis.HealthCheck.too_slow, hypothesis.HealthCheck.data_too_large],
    )


@pytest.fixture(scope="module")
def quickly_compiled():
    """Slow tests compile as users do; here, where each program runs once, that would take most of the time."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


def error_of(problem, params):
    try:
        return compare(problem, params).error
    except jax.errors.JaxRuntimeError as error:
        # G is refused, as it must be, where JAX's own derivatives by reverse mode are wrong.
        if "contradicts products with D" not in str(error) or reverse_mode_is_right(problem, params):
            raise
        return 0.0


@drawn(4)
@hypothesis.given(programs())
def test_gram_of_a_random_network(program):
    assert compare(*program.run()).error <= TOLERANCE


@pytest.mark.slow
@drawn(1000)
@hypothesis.given(programs())
def test_gram_of_a_thousand_random_networks(quickly_compiled, program):
    assert compare(*program.run()).error <= TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize("start", range(0, 2000, 100))
def test_gram_of_numbered_networks(quickly_compiled, start):
    errors = {number: error_of(*numbered(number).run()) for number in range(start, start + 100)}
    jax.clear_caches()
    assert {number: error for number, error in errors.items() if not error <= TOLERANCE} == {}


@pytest.mark.slow
def test_a_number_gives_the_same_network_again():
    first = numbered(7)
    assert str(first) == str(numbered(7)) != str(numbered(8))
    assert compare(*first.run()).error == compare(*numbered(7).run()).error


@pytest.mark.slow
def test_networks_use_what_they_are_made_of():
    """Every kind of instruction turns up, and most networks share a leaf or a value."""
    code = "\n".join(str(numbered(number)) for number in range(80))
    kinds = ("einsum", "dot_general", "conv_general", "softmax", "scan", "fori_loop", "cond", "vmap", "checkpoint")
    kinds += ("custom_jvp", "jax.jit", "jax.grad", "jax.jvp", "concatenate", "split", ".T", ".at[", "take", "-0.0")
    kinds += ("residual_problem", "per_sample=False", "dynamic_slice", "feature_group_count", "stop_gradient")
    assert [kind for kind in kinds if kind not in code] == []


class Line:
    """x_j = w a_j, whose D is the samples themselves."""

    def __call__(self, params, sample):
        return params["w"] @ sample


@pytest.mark.parametrize("method", ["as_matrix", "diagonal"])
def test_the_comparison_sees_an_error_of_a_billionth(monkeypatch, method):
    inputs = jnp.array([[3.0, 4.0], [0.0, 1.0]])
    problem, params = jg.Problem(Line(), inputs, jg.L2(jnp.zeros(2))), {"w": jnp.ones(2)}
    assert compare(problem, params) == Comparison(0.0, 0.0, 0.0, 25.0, {"w": "factored"})
    right = getattr(Gram, method)
    monkeypatch.setattr(Gram, method, lambda gram: right(gram) * (1 + 1e-9))
    assert compare(problem, params).error == pytest.approx(1e-9, rel=1e-6)
