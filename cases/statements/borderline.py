"""Section 6: K = QN, where both flows are one."""

import numpy as np

import jaxgeo as jg
from cases.statements.base import Point, Statement, apart, worst

SVD = jg.linalg.SVD()
EQUAL = ("mlp borderline", "linear borderline")


def inverse(here: Point) -> float:
    return apart(here.penrose(), np.linalg.inv(here.matrix))


def both(here: Point) -> tuple[np.ndarray, np.ndarray]:
    """The velocities of both flows, one by DDᵀ and one by DᵀD."""
    rows, columns = jg.linalg.GramCholesky(), jg.linalg.NormalCholesky()
    return here.velocity(jg.OverparametrizedFlow(rows)), here.velocity(jg.UnderparametrizedFlow(columns))


def same(here: Point) -> float:
    inverse = np.linalg.inv(here.matrix)
    expected = -inverse @ (inverse.T @ here.slope)
    over, under = both(here)
    return max(apart(over, expected), apart(under, expected), apart(over, under))


def inverse_of_the_square(here: Point) -> float:
    """(DᵀD)⁻¹ of the library, column by column, against D⁻¹D⁻ᵀ."""
    inverse, jacobian = np.linalg.inv(here.matrix), here.problem.jacobian(here.params)
    columns = []
    for unit in np.eye(here.case.num_params):
        gradient = here.problem.partition(here.at(unit))[0]
        columns.append(here.flat(jg.linalg.lift_gradient(jacobian, gradient, None, SVD)[0]))
    return apart(np.stack(columns, axis=1), inverse @ inverse.T)


def borderline_outputs(here: Point) -> float:
    return max(apart(here.matrix @ velocity, -here.gradient) for velocity in both(here))


STATEMENTS = [
    Statement("(6.1)", "Pen[D] = D⁻¹ for K = QN", "relative difference", lambda: worst(inverse, *EQUAL), 1e-8),
    Statement(
        "(6.2)",
        "for K = QN both flows are −D⁻¹D⁻ᵀ∇θC",
        "relative difference, one by DDᵀ and one by DᵀD",
        lambda: worst(same, *EQUAL),
        1e-8,
        test="test_flows.py::test_borderline_flows_coincide",
    ),
    Statement(
        "(6.3)",
        "(DᵀD)⁻¹ = D⁻¹D⁻ᵀ",
        "relative difference",
        lambda: worst(inverse_of_the_square, *EQUAL),
        1e-8,
        slow=True,
    ),
    Statement(
        "(6.4)",
        "for K = QN both flows move the outputs by −∇ₓC",
        "relative difference",
        lambda: worst(borderline_outputs, *EQUAL),
        1e-8,
        test="test_flows.py::test_outputs_move_along_their_gradient",
    ),
]
