"""A solver of the lift that counts how often it runs."""

import jax

import jaxgeo as jg

LIFTS: list[None] = []


class Counting(jg.linalg.solvers.AbstractLiftSolver):
    """Puts a mark into `LIFTS` for each lift, as the compiled program runs; the rest is another solver's."""

    solver: jg.linalg.solvers.AbstractLiftSolver

    def solve(self, jacobian, velocity, damping=None):
        jax.debug.callback(lambda: LIFTS.append(None))
        return self.solver.solve(jacobian, velocity, damping)


def lifts(run):
    """How many lifts with `Counting` calling `run` takes, and what it gives."""
    LIFTS.clear()
    result = run()
    jax.block_until_ready(result)
    jax.effects_barrier()
    return len(LIFTS), result
