"""How far a recorded orbit is from (2.7)."""

import numpy as np


def deviation(s, params, problem):
    return problem.loss.deviation(problem.outputs(params))


def off_orbit(case, s, deviations):
    """|x − x_exact(s)|_∞ over all recorded moments, from (2.7) by NumPy."""
    start = np.asarray(deviation(0.0, case.params, case.problem))
    exact = np.exp(-np.asarray(s) / case.problem.num_samples)[:, None, None] * start
    return np.abs(np.asarray(deviations) - exact).max()
