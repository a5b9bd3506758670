"""A solver of the lift that counts its calls."""

import jax

import jaxgeo as jg

LIFTS: list[None] = []


class Counting(jg.linalg.AbstractLiftSolver):
    """Puts a mark into `LIFTS` for each lift, as the compiled program runs; the rest is another solver's."""

    solver: jg.linalg.AbstractLiftSolver

    def factorise(self, jacobian, damping=None):
        return Counted(self.solver.factorise(jacobian, damping))


class Counted(jg.linalg.AbstractFactorised):
    factorised: jg.linalg.AbstractFactorised

    @property
    def correct(self):
        return self.factorised.correct

    def lift(self, velocity):
        jax.debug.callback(lambda: LIFTS.append(None))
        return self.factorised.lift(velocity)


def lifts(run):
    """How many lifts with `Counting` calling `run` takes, and what it gives."""
    LIFTS.clear()
    result = run()
    jax.block_until_ready(result)
    jax.effects_barrier()
    return len(LIFTS), result
