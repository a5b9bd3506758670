"""Classical curve fits: data from the regression literature, and curves with known parameters and fixed noise.

Parameters are of scales 1e-9 … 1e5, starts a factor 2 … 100 away. `reference` computes a solution in extended
precision.
"""

from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

Vector = Any


@dataclass(frozen=True)
class CurveFit:
    """y ≈ model(xp, b, x), from `start`; `near` is close to the solution."""

    name: str
    model: Callable[[ModuleType, Vector, Vector], Vector]
    x: np.ndarray
    y: np.ndarray
    start: tuple[float, ...]
    near: tuple[float, ...]


def _noise(size: int) -> np.ndarray:
    """Fixed numbers in [−1, 1], the same everywhere."""
    return 2 * np.modf(np.arange(1, size + 1) * 0.6180339887498949)[0] - 1


def made(name: str, model: Callable, x: np.ndarray, true: tuple, start: tuple, noise: float) -> CurveFit:
    """The curve at `true` with noise, in units of its largest value."""
    y = model(np, np.array(true), x)
    return CurveFit(name, model, x, y + noise * np.abs(y).max() * _noise(x.size), start, true)


def _misra(xp, b, x):
    return b[0] * (1 - xp.exp(-b[1] * x))


def _danwood(xp, b, x):
    return b[0] * x ** b[1]


def _rat42(xp, b, x):
    return b[0] / (1 + xp.exp(b[1] - b[2] * x))


def _rat43(xp, b, x):
    return b[0] / (1 + xp.exp(b[1] - b[2] * x)) ** (1 / b[3])


def _mgh09(xp, b, x):
    return b[0] * (x**2 + b[1] * x) / (x**2 + b[2] * x + b[3])


def _mgh10(xp, b, x):
    return b[0] * xp.exp(b[1] / (x + b[2]))


def _osborne(xp, b, x):
    return b[0] + b[1] * xp.exp(-b[3] * x) + b[2] * xp.exp(-b[4] * x)


def _lanczos(xp, b, x):
    return b[0] * xp.exp(-b[1] * x) + b[2] * xp.exp(-b[3] * x) + b[4] * xp.exp(-b[5] * x)


def _diode(xp, b, x):
    return xp.log(b[0] * xp.exp(x / b[1]) + b[2])


def _eckerle(xp, b, x):
    return b[0] / b[1] * xp.exp(-0.5 * ((x - b[2]) / b[1]) ** 2)


def _peaks(xp, b, x):
    first = b[2] * xp.exp(-(((x - b[3]) / b[4]) ** 2))
    return b[0] * xp.exp(-b[1] * x) + first + b[5] * xp.exp(-(((x - b[6]) / b[7]) ** 2))


def _rational(xp, b, x):
    return (b[0] + b[1] * x + b[2] * x**2 + b[3] * x**3) / (1 + b[4] * x + b[5] * x**2 + b[6] * x**3)


def _bennett(xp, b, x):
    return b[0] * (b[1] + x) ** (-1 / b[2])


def _spectrum(xp, b, x):
    slope = b[0] + b[1] * x
    lines = b[2] / (1 + ((x - b[3]) / b[4]) ** 2) + b[5] / (1 + ((x - b[6]) / b[7]) ** 2)
    return slope + lines + b[8] * x**2


CURVE_FITS = [
    CurveFit(
        "misra1a",
        _misra,
        np.array([77.6, 114.9, 141.1, 190.8, 239.9, 289.0, 332.8, 378.4, 434.8, 477.3, 536.8, 593.1, 689.1, 760.0]),
        np.array([10.07, 14.73, 17.94, 23.93, 29.61, 35.18, 40.02, 44.82, 50.76, 55.05, 61.01, 66.40, 75.47, 81.78]),
        (500.0, 1e-4),
        (238.94, 5.5016e-4),
    ),
    CurveFit(
        "boxbod",
        _misra,
        np.array([1.0, 2, 3, 5, 7, 10]),
        np.array([109.0, 149, 149, 191, 213, 224]),
        (1.0, 1.0),
        (213.81, 0.54724),
    ),
    CurveFit(
        "danwood",
        _danwood,
        np.array([1.309, 1.471, 1.490, 1.565, 1.611, 1.680]),
        np.array([2.138, 3.421, 3.597, 4.340, 4.882, 5.660]),
        (1.0, 5.0),
        (0.76886, 3.8604),
    ),
    CurveFit(
        "rat42",
        _rat42,
        np.array([9.0, 14, 21, 28, 42, 57, 63, 70, 79]),
        np.array([8.93, 10.80, 18.59, 22.33, 39.35, 56.11, 61.73, 64.62, 67.08]),
        (100.0, 1.0, 0.1),
        (72.462, 2.6181, 0.067359),
    ),
    CurveFit(
        "rat43",
        _rat43,
        np.arange(1.0, 16.0),
        np.array(
            [16.08, 33.83, 65.80, 97.20, 191.55, 326.20, 386.87, 520.53]
            + [590.03, 651.92, 724.93, 699.56, 689.96, 637.56, 717.41]
        ),
        (100.0, 10.0, 1.0, 1.0),
        (699.64, 5.2771, 0.75963, 1.2792),
    ),
    CurveFit(
        "mgh09",
        _mgh09,
        np.array([4.0, 2, 1, 0.5, 0.25, 0.167, 0.125, 0.1, 0.0833, 0.0714, 0.0625]),
        np.array([0.1957, 0.1947, 0.1735, 0.1600, 0.0844, 0.0627, 0.0456, 0.0342, 0.0323, 0.0235, 0.0246]),
        (25.0, 39.0, 41.5, 39.0),
        (0.19281, 0.19128, 0.12306, 0.13606),
    ),
    CurveFit(
        "mgh10",
        _mgh10,
        np.arange(50.0, 130.0, 5.0),
        np.array(
            [34780.0, 28610, 23650, 19630, 16370, 13720, 11540, 9744] + [8261, 7030, 6005, 5147, 4427, 3820, 3307, 2872]
        ),
        (0.02, 4000.0, 250.0),
        (0.0056096, 6181.3, 345.22),
    ),
    CurveFit(
        "osborne1",
        _osborne,
        10 * np.arange(33.0),
        np.array(
            [0.844, 0.908, 0.932, 0.936, 0.925, 0.908, 0.881, 0.850, 0.818, 0.784, 0.751, 0.718, 0.685, 0.658]
            + [0.628, 0.603, 0.580, 0.558, 0.538, 0.522, 0.506, 0.490, 0.478, 0.467, 0.457, 0.448, 0.438, 0.431]
            + [0.424, 0.420, 0.414, 0.411, 0.406]
        ),
        (0.5, 1.5, -1.0, 0.01, 0.02),
        (0.37541, 1.9358, -1.4647, 0.012868, 0.022123),
    ),
    CurveFit(
        "lanczos",
        _lanczos,
        0.05 * np.arange(24.0),
        np.round(_lanczos(np, (0.0951, 1.0, 0.8607, 3.0, 1.5576, 5.0), 0.05 * np.arange(24.0)), 6),
        (1.2, 0.3, 5.6, 5.5, 6.5, 7.6),
        (0.0951, 1.0, 0.8607, 3.0, 1.5576, 5.0),
    ),
    made("diode", _diode, np.linspace(0.0, 0.8, 40), (3e-9, 0.039, 2e-8), (1e-7, 0.08, 1e-7), 1e-3),
    made("eckerle", _eckerle, np.linspace(400.0, 500.0, 35), (1.55, 4.09, 451.5), (1.0, 10.0, 500.0), 3e-3),
    made(
        "peaks",
        _peaks,
        np.arange(1.0, 251.0),
        (98.8, 0.0109, 100.5, 67.5, 23.1, 72.0, 178.8, 18.4),
        (40.0, 0.03, 40.0, 55.0, 40.0, 30.0, 200.0, 40.0),
        2e-2,
    ),
    made(
        "rational",
        _rational,
        np.linspace(14.0, 850.0, 118),
        (1.0776, -0.12269, 4.0864e-3, -1.4262e-6, -5.7609e-3, 2.4054e-4, -1.2314e-7),
        (10.0, -1.0, 0.05, -1e-5, -0.05, 1e-3, -1e-6),
        3e-3,
    ),
    made("bennett", _bennett, np.linspace(7.0, 52.0, 154), (-2523.5, 46.74, 0.9322), (-1500.0, 45.0, 0.85), 1e-4),
    made(
        "spectrum",
        _spectrum,
        np.linspace(1e4, 1.4e4, 200),
        (1e5, 2.0, 5e4, 1.1e4, 150.0, 8e4, 1.25e4, 300.0, 1e-4),
        (2e4, 10.0, 1e4, 1.08e4, 600.0, 2e4, 1.29e4, 900.0, 1e-3),
        5e-4,
    ),
]


def reference(fit: CurveFit, steps: int = 2000) -> np.ndarray:
    """The least-squares parameters near `fit.near`: damped Gauss–Newton with residuals and Jacobian in extended
    precision, by complex steps, so that the gradient vanishes to far below float64's round-off.
    """
    real, complex_ = np.longdouble, np.clongdouble
    x, y = fit.x.astype(real), fit.y.astype(real)
    b = np.array(fit.near, dtype=real)
    size = b.size

    def residual(b):
        return fit.model(np, b, x) - y

    def jacobian(b):
        columns = []
        for k in range(size):
            h = 1e-25 * abs(b[k])
            moved = b.astype(complex_)
            moved[k] += 1j * h
            columns.append(np.imag(fit.model(np, moved, x)) / h)
        return np.stack(columns, axis=1)

    cost = np.sum(residual(b) ** 2)
    damping = real(0)
    for _ in range(steps):
        r, j = residual(b), jacobian(b)
        scale = np.sqrt(np.sum(j**2, axis=0))
        scaled = j / scale
        step = _solve(scaled.T @ scaled + damping * np.eye(size, dtype=real), -(scaled.T @ r)) / scale
        moved_cost = np.sum(residual(b + step) ** 2)
        if moved_cost > cost * (1 + real(1e-17)) or not np.isfinite(moved_cost):
            damping = max(damping * 10, real(1e-12))
            continue
        small = np.max(np.abs(step / b)) < 1e-17
        b, cost, damping = b + step, moved_cost, damping / 10 if damping > 1e-14 else real(0)
        if small:
            break
    return b.astype(float)


def _solve(matrix: np.ndarray, rhs: np.ndarray) -> np.ndarray:
    """Gaussian elimination with pivoting in extended precision, which `np.linalg` lacks."""
    a = np.concatenate([matrix, rhs[:, None]], axis=1)
    size = len(rhs)
    for k in range(size):
        pivot = k + int(np.argmax(np.abs(a[k:, k])))
        a[[k, pivot]] = a[[pivot, k]]
        for i in range(k + 1, size):
            a[i] -= a[k] * (a[i, k] / a[k, k])
    solution = np.zeros_like(rhs)
    for k in range(size - 1, -1, -1):
        solution[k] = (a[k, -1] - a[k, k + 1 : size] @ solution[k + 1 :]) / a[k, k]
    return solution
