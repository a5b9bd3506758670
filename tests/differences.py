"""Derivatives by finite differences, extrapolated until they are more accurate than the tests need."""

import numpy as np


def derivative(function, first=4e-3, levels=8):
    """The derivative at 0 and an estimate of its error.

    Reference: C. J. F. Ridders, Accurate computation of F'(x) and F'(x)F''(x), Advances in Engineering Software 4, 1982
    """
    steps = first * 0.5 ** np.arange(levels)
    best, error = np.nan, np.inf
    table = []
    for row, step in enumerate(steps):
        table.append([float(function(step) - function(-step)) / (2 * step)])
        for column in range(row):
            factor = 4.0 ** (column + 1)
            before, coarse = table[row][column], table[row - 1][column]
            table[row].append((factor * before - coarse) / (factor - 1))
            worst = max(abs(table[row][-1] - before), abs(table[row][-1] - coarse))
            if worst < error:
                best, error = table[row][-1], worst
    return best, error
