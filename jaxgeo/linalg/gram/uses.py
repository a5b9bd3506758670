"""Records of what the evaluation of a traced function finds: leaves on their way through it, and their uses."""

import functools
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.core
import jax.numpy as jnp
from jax.extend.core import Jaxpr, JaxprEqn, Literal
from jaxtyping import Array

# A label says what an axis of a factor runs over. A number is an axis of the leaf. A string is a position: the product
# of the two factors is summed over it.
Label = int | str


class Use(NamedTuple):
    """One use of a leaf: its rows of D are the product of a δ and an operand, summed over positions."""

    leaf: int
    shape: tuple[int, ...]  # the shape that numbers the leaf's axes; in row-major order the same as the leaf's own
    part: tuple[tuple[int, int], ...]  # the (start, size) used of each of these axes
    site: int
    delta: tuple[Label, ...]  # labels of the site's axes
    operand: int | None  # index among the kept operands; None if the operand is 1, as for a bias
    operand_labels: tuple[Label, ...]
    lookup: bool  # the operand holds positions along the leaf's first axis, instead of one-hot vectors


class Marked(NamedTuple):
    """A leaf, or a view of it, on its way through the function."""

    value: Array
    leaf: int
    shape: tuple[int, ...]
    part: tuple[tuple[int, int], ...]
    axes: tuple[int | None, ...]  # which axis of the leaf each axis of `value` is; None: a broadcast one
    loops: tuple[tuple[int, int], ...] = ()  # (depth of a scan, axis of the leaf that it runs over)


class Sited(NamedTuple):
    """A value that came from a site by rearrangement, or by adding a bias.

    The δ of a site is the derivative by the site's own value. A bias that is added to this value needs the derivative
    by this value. The two are equal only if nothing else reads any value on the way from the site to here; `way` holds
    the ids of these values, with this one last.
    """

    value: Array
    site: int
    axes: tuple[int, ...]  # which axis of the site each axis of `value` is
    way: tuple[int, ...]


class Recorder:
    """Records the evaluation of a function: sites, uses, kept operands, and leaves used in other ways.

    Call `read` for every operation that is evaluated, and `close` at the end.
    """

    def __init__(self, epsilons: Sequence[Array] | None, depth: int = 0):
        self.epsilons = epsilons
        self.depth = depth
        self.sites: list[jax.ShapeDtypeStruct] = []
        self.uses: list[tuple[Use, tuple[tuple[int, int], ...]]] = []
        self.operands: list[Array] = []
        self.opaque: set[int] = set()
        self.sited: dict[int, Sited] = {}
        self._reads: Counter[int] = Counter()
        self._shared: list[tuple[int, tuple[int, ...]]] = []
        self._labels = 0

    def label(self) -> str:
        self._labels += 1
        return f"{self.depth}.{self._labels}"

    def epsilon(self, shape: tuple[int, ...], dtype: Any) -> Array:
        """The next ε; zero while sites are still being counted."""
        self.sites.append(jax.ShapeDtypeStruct(shape, dtype))
        if self.epsilons is None:
            return jnp.zeros(shape, dtype)
        return self.epsilons[len(self.sites) - 1]

    def perturb(self, value: Array) -> tuple[Array, int]:
        value = value + self.epsilon(value.shape, value.dtype)
        site = len(self.sites) - 1
        self.follow(value, site, tuple(range(value.ndim)), ())
        return value, site

    def follow(self, value: Array, site: int, axes: tuple[int, ...], way: tuple[int, ...]) -> None:
        """Remember `value`, which `way` leads to from the site. It is held here so that its id stays unique."""
        self.sited[id(value)] = Sited(value, site, axes, (*way, id(value)))

    def read(self, values: Sequence[Any]) -> None:
        """Note that an operation, or the end of the function, reads these values."""
        self._reads.update(id(value) for value in values if id(value) in self.sited)

    def share(self, leaf: int, sited: Sited) -> None:
        """Note that a leaf is added to a value and takes its δ from the site; `close` checks whether it may."""
        self._shared.append((leaf, sited.way))

    def close(self, results: Sequence[Any]) -> list[Array]:
        """The results of the function as arrays. Leaves that cannot share the δ of a site become opaque."""
        self.read(results)
        self.opaque.update(leaf for leaf, way in self._shared if any(self._reads[key] != 1 for key in way))
        return [self.plain(result) for result in results]

    def keep(self, operand: Array) -> int:
        self.operands.append(operand)
        return len(self.operands) - 1

    def use(
        self,
        marked: Marked,
        site: int,
        delta: Sequence[Label],
        operand: int | None,
        labels: Sequence[Label],
        lookup: bool = False,
    ) -> None:
        use = Use(marked.leaf, marked.shape, marked.part, site, tuple(delta), operand, tuple(labels), lookup)
        self.uses.append((use, marked.loops))

    def plain(self, value: Any) -> Any:
        """The plain array, for an operation that is not understood; marks its leaf as opaque."""
        if isinstance(value, Marked):
            self.opaque.add(value.leaf)
            return value.value
        return value


def shape_of(var: Any) -> tuple[int, ...]:
    return var.aval.shape


def bind(eqn: JaxprEqn, values: Sequence[Any]) -> list[Array]:
    """Run the operation itself on arrays, as a jaxpr of one equation."""
    arguments = {var: value for var, value in zip(eqn.invars, values, strict=True) if not isinstance(var, Literal)}
    alone = _empty_jaxpr().replace(invars=[*arguments], outvars=eqn.outvars, eqns=[eqn], effects=eqn.effects)
    return jax.core.eval_jaxpr(alone, (), *arguments.values())


@functools.cache
def _empty_jaxpr() -> Jaxpr:
    return jax.make_jaxpr(lambda: ())().jaxpr
