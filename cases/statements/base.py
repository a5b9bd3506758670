"""What a statement is, and what the checks of all sections share: known problems with D taken from forward mode."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

import jaxgeo as jg
from cases.problems import Case, cases


class Statement(NamedTuple):
    """A statement, what is measured of it, what that must be, and the test that fails where it is not.

    - `source`: its number, and the name of the theorem that it is of.
    - `what`: what is measured. A deviation of 0 is perfect agreement.
    - `most`, `least`: the value must be at most, or at least this.
    - `test`: `test_statement_holds` measures every statement; another one is named where it looks closer.
    - `slow`: whether that takes seconds.
    """

    source: str
    says: str
    what: str
    measure: Callable[[], float]
    most: float | None = None
    least: float | None = None
    test: str = "test_statements.py::test_statement_holds"
    slow: bool = False

    def holds(self, value: float) -> bool:
        """Whether a measured value is as the statement has it; never for NaN."""
        low = -np.inf if self.least is None else self.least
        high = np.inf if self.most is None else self.most
        return bool(low <= value <= high)

    @property
    def bound(self) -> str:
        return f"≤ {self.most:.3g}" if self.least is None else f"≥ {self.least:.3g}"

    def described(self) -> dict[str, str]:
        """What its row says, besides the value."""
        return {key: getattr(self, key) for key in ("source", "says", "test", "what", "bound")}


@dataclass(frozen=True)
class Point:
    """A problem at a point, in dense float64. Nothing here comes from `jaxgeo.linalg`.

    - `case`: one of `cases/problems.py`.
    - `matrix`: D, by forward mode.
    - `deviation`: x − y.
    """

    case: Any
    matrix: np.ndarray
    deviation: np.ndarray

    @property
    def problem(self) -> jg.Problem:
        return self.case.problem

    @property
    def params(self) -> Any:
        return self.case.params

    @property
    def gradient(self) -> np.ndarray:
        """∇ₓC, by (1.20)."""
        return self.deviation / self.case.problem.num_samples

    @property
    def gram(self) -> np.ndarray:
        """DDᵀ."""
        return self.matrix @ self.matrix.T

    @property
    def slope(self) -> np.ndarray:
        """∇θC, by reverse mode."""
        return self.flat(jax.grad(self.problem.cost)(self.params))

    def bases(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """U, σ, Vᵀ with D = U diag(σ) Vᵀ, for as many singular values as D has rank."""
        left, values, right = np.linalg.svd(self.matrix, full_matrices=False)
        rank = self.case.rank
        return left[:, :rank], values[:rank], right[:rank]

    def inverse(self) -> np.ndarray:
        """D⁺, by its singular value decomposition."""
        left, values, right = self.bases()
        return (right.T / values) @ left.T

    def inside(self, rows: np.ndarray) -> np.ndarray:
        """𝒫 times rows, with 𝒫 from an orthonormal basis of range(D)."""
        left = self.bases()[0]
        return left @ (left.T @ rows)

    def flat(self, velocity: Any) -> np.ndarray:
        """A parameter velocity as a vector of K numbers."""
        return np.asarray(ravel_pytree(self.problem.partition(velocity)[0])[0], np.float64)

    def rows(self, vector: np.ndarray) -> jax.Array:
        """A vector of QN numbers as an output velocity."""
        return jnp.asarray(vector.reshape(self.problem.loss.targets.shape))

    def velocity(self, flow: Any) -> np.ndarray:
        """θ̇ along a flow."""
        return self.flat(flow(0.0, self.params, self.problem))

    def at(self, theta: np.ndarray) -> Any:
        """Parameters of K given numbers."""
        return ravel_pytree(self.params)[1](jnp.asarray(theta))

    def theta(self) -> np.ndarray:
        return np.asarray(ravel_pytree(self.params)[0], np.float64)

    def moved(self, theta: np.ndarray) -> "Point":
        """The same problem at other parameters, where D has the same rank."""
        return point(type(self.case)(self.case.name, self.problem, self.at(theta), self.case.rank))

    def penrose(self) -> np.ndarray:
        """Pen[D] of the library, column by column: the lift of each unit vector."""
        solver = jg.linalg.SVD()
        columns = [jg.lift(self.problem, self.params, self.rows(unit), solver) for unit in np.eye(len(self.matrix))]
        return np.stack([self.flat(column) for column in columns], axis=1)

    def projector(self) -> np.ndarray:
        """𝒫 of the library, column by column."""
        solver = jg.linalg.SVD()
        units = np.eye(len(self.matrix))
        columns = [jg.geometry.output_projection(self.problem, self.params, self.rows(unit), solver) for unit in units]
        return np.stack([np.ravel(column) for column in columns], axis=1)


def point(case: Any) -> Point:
    outputs = np.asarray(case.problem.outputs(case.params), np.float64)
    return Point(case, case.dense(), np.ravel(outputs - np.asarray(case.problem.loss.targets)))


@cache
def known(name: str) -> Point:
    """A problem of `cases/problems.py`; or "contradictory", samples that repeat with other targets."""
    if name != "contradictory":
        return point(cases()[name])
    case = cases()["mlp duplicates"]
    targets = np.random.default_rng(0).normal(size=case.problem.loss.targets.shape)
    block = case.problem.blocks[0]
    problem = jg.Problem(block.apply, block.inputs, jg.L2(jnp.asarray(targets)))
    return point(Case(name, problem, case.params, case.rank))


def points(*names: str) -> list[Point]:
    return [known(name) for name in names]


FULL = ("mlp over", "linear over")
FEW = ("mlp under", "linear under")
LOST = ("contradictory", "linear deficient")


def norm(values: Any) -> float:
    return float(np.linalg.norm(values))


def apart(found: Any, expected: Any) -> float:
    """|found − expected| / |expected|."""
    return norm(np.asarray(found) - np.asarray(expected)) / norm(expected)


def worst(deviation: Callable[[Point], float], *names: str) -> float:
    """The largest deviation over problems."""
    return max(deviation(each) for each in points(*names))


def slopes(function: Callable[[np.ndarray], Any], theta: np.ndarray, step: float = 1e-5) -> np.ndarray:
    """∂function/∂θ by central differences, with a column for each parameter."""
    moved = [(function(theta + move), function(theta - move)) for move in step * np.eye(len(theta))]
    return np.stack([(np.asarray(ahead) - np.asarray(behind)) / (2 * step) for ahead, behind in moved], axis=-1)


class Moving(NamedTuple):
    """An orbit at one moment: ∂ₛx by central differences of its outputs, and the point where that is."""

    speed: np.ndarray
    here: Point


def along(name: str, flow: Any, solver_rtol: float = 1e-11) -> list[Moving]:
    """An integrated orbit at s/N = 0.3, 1 and 2."""
    start = known(name)
    step = 3e-4 * start.problem.num_samples
    middles = np.array([0.3, 1.0, 2.0]) * start.problem.num_samples
    times = np.ravel(middles[:, None] + step * np.array([-1.0, 0.0, 1.0]))

    def record(s: Any, params: Any, problem: jg.Problem) -> Any:
        return problem.outputs(params), ravel_pytree(problem.partition(params)[0])[0]

    solution = jg.solve_flow(
        start.problem, flow, start.params, s1=times[-1], save_at=times, rtol=solver_rtol, record=record
    )
    outputs, thetas = (np.asarray(each, np.float64) for each in solution.records)
    found = []
    for i in (1, 4, 7):
        speed = np.ravel(outputs[i + 1] - outputs[i - 1]) / (2 * step)
        found.append(Moving(speed, start.moved(thetas[i])))
    return found
