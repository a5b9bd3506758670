"""Fields that check themselves when a module is created, and name the argument; they accept JAX's placeholders."""

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest

from jaxgeo._fields import COUNT, FUNCTION, NOT_NEGATIVE, POSITIVE, Checked, by, count, kind, number


class Part(Checked):
    """A field of each kind."""

    tol: object = eqx.field(default=1e-3, metadata=POSITIVE)
    share: object = eqx.field(default=0.5, metadata=number(least=0, most=1))
    shift: object = eqx.field(default=0.0, metadata=NOT_NEGATIVE)
    steps: object = eqx.field(default=1, static=True, metadata=COUNT)
    seed: object = eqx.field(default=0, static=True, metadata=count(0))
    function: object = eqx.field(default=jnp.sum, metadata=FUNCTION)
    module: object = eqx.field(default=eqx.nn.Identity(), metadata=kind(eqx.Module, "a module"))
    size: int | None = eqx.field(default=None, metadata=COUNT)
    other: object = None


class Whole(Part):
    """One field more, and a check of its own."""

    width: float = eqx.field(default=2.0, metadata=number(above=1))

    def __check_init__(self):
        if self.other == "refused":
            raise ValueError("`other`")


@pytest.mark.parametrize("made", [Part, Whole])
@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("tol", 0.0, "`tol` must be positive and finite; got 0.0"),
        ("tol", None, "`tol` must be positive"),
        ("share", 1.5, "`share` must be a number, at least 0 and at most 1; got 1.5"),
        ("shift", jnp.inf, "`shift` must be a number, at least 0 and finite; got"),
        ("steps", 0, "`steps` must be an integer of at least 1; got 0"),
        ("seed", -1, "`seed` must be an integer of at least 0; got -1"),
        ("function", "sum", "`function` must be a function; got 'sum'"),
        ("module", eqx.nn.Identity, "`module` must be a module; got"),
        ("size", 0, "`size` must be an integer of at least 1; got 0"),
    ],
)
def test_a_field_is_refused_by_its_name(made, name, value, message):
    with pytest.raises(ValueError, match=message):
        made(**{name: value})


def test_a_class_beside_its_base_checks_its_own():
    with pytest.raises(ValueError, match="`width` must be a number, greater than 1 and finite; got 1.0"):
        Whole(width=1.0)
    with pytest.raises(ValueError, match="`other`"):
        Whole(other="refused")
    assert Whole(width=1.5).size is None


def test_what_jax_puts_in_place_of_a_value_is_let_through():
    part = Part(tol=jnp.array(1.0))
    assert eqx.tree_at(lambda part: part.tol, part, -1.0).tol == -1.0
    made = jax.jit(lambda tol: Part(tol=tol).tol)
    assert float(made(-1.0)) == -1.0
    parts = jax.vmap(lambda tol: eqx.filter(Part(tol=tol), eqx.is_array))(jnp.array([1.0, -1.0]))
    assert parts.tol.tolist() == [1.0, -1.0]
    grown = jax.tree.map(lambda leaf: -leaf, eqx.filter(part, eqx.is_array))
    assert float(grown.tol) == -1.0


def test_any_function_of_name_and_value_can_check():
    seen = []

    class Own(Checked):
        field: int = eqx.field(metadata=by(lambda name, value: seen.append((name, value))))

    Own(3)
    assert seen == [("field", 3)]
