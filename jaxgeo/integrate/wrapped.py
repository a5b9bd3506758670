"""An ODE solver that wraps another one and delegates to it whatever it does not change."""

import diffrax as dfx
import equinox as eqx
from jaxtyping import PyTree

from jaxgeo._fields import kind

# Metadata of a field for a solver of diffrax.
SOLVER = kind(dfx.AbstractSolver, "a diffrax solver, such as `diffrax.Tsit5()`")


class AbstractSolverAround(dfx.AbstractWrappedSolver):
    """A diffrax solver that takes the steps of `stepper` and works on them.

    `solver` is the innermost solver. diffrax asks it for the kind of solver, and looks through one wrapper only.
    """

    stepper: eqx.AbstractVar[dfx.AbstractSolver]

    @property
    def term_structure(self):
        return self.stepper.term_structure

    @property
    def term_compatible_contr_kwargs(self):
        return self.stepper.term_compatible_contr_kwargs

    @property
    def root_finder(self):
        """The root finder of an implicit solver, whose tolerances diffrax fills in."""
        return self.solver.root_finder  # pyright: ignore[reportAttributeAccessIssue]

    @property
    def scan_kind(self):
        """The scan kind of a Runge–Kutta solver, which some adjoints fill in."""
        return self.solver.scan_kind  # pyright: ignore[reportAttributeAccessIssue]

    def order(self, terms: PyTree[dfx.AbstractTerm]) -> int | None:
        return self.stepper.order(terms)

    def strong_order(self, terms: PyTree[dfx.AbstractTerm]):
        return self.stepper.strong_order(terms)

    def error_order(self, terms: PyTree[dfx.AbstractTerm]):
        return self.stepper.error_order(terms)

    def func(self, terms, t0, y0, args):
        return self.stepper.func(terms, t0, y0, args)
