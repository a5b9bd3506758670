"""Classical least squares beside those of `curve_fits`: growth, kinetics, dose and response, spectra, physics, and the
problems of Moré, Garbow and Hillstrom. Each has two starts.

Reference: J. J. Moré, B. S. Garbow, K. E. Hillstrom, Testing unconstrained optimization software, ACM Transactions on
Mathematical Software 7, 1981; NIST Statistical Reference Datasets, nonlinear regression, for models and starts
"""

from collections.abc import Callable

import numpy as np

from cases.curve_fits import CurveFit, Vector, made

# x, the parameters that make the data, a start far away, one nearby, and the size of the noise.
Made = tuple[Callable[..., Vector], np.ndarray, tuple[float, ...], tuple[float, ...], tuple[float, ...], float]


def _line(start: float, stop: float, count: int) -> np.ndarray:
    return np.linspace(start, stop, count)


# fmt: off
MADE: dict[str, Made] = {
    # Growth.
    "gompertz": (lambda xp, b, x: b[0] * xp.exp(-b[1] * xp.exp(-b[2] * x)),
                 _line(0, 20, 25), (10.0, 4.0, 0.3), (20.0, 1.0, 1.0), (8.0, 5.0, 0.2), 2e-2),
    "richards": (lambda xp, b, x: b[0] / (1 + b[1] * xp.exp(-b[2] * x)) ** (1 / b[3]),
                 _line(0, 15, 30), (60.0, 20.0, 0.7, 1.5), (100.0, 5.0, 1.5, 1.0), (50.0, 15.0, 0.6, 1.0), 1e-2),
    "bertalanffy": (lambda xp, b, x: b[0] * (1 - xp.exp(-b[1] * (x - b[2]))),
                    _line(1, 14, 20), (50.0, 0.25, -0.5), (20.0, 0.5, 0.5), (60.0, 0.2, 0.0), 1e-2),
    "weibull growth": (lambda xp, b, x: b[0] - b[1] * xp.exp(-b[2] * x ** b[3]),
                       _line(0.5, 12, 25), (70.0, 60.0, 0.02, 2.0), (100.0, 90.0, 0.1, 1.0),
                       (65.0, 60.0, 0.03, 1.8), 1e-2),
    "chapman": (lambda xp, b, x: b[0] * (1 - xp.exp(-b[1] * x)) ** b[2],
                _line(1, 80, 30), (30.0, 0.05, 1.6), (60.0, 0.02, 1.0), (28.0, 0.06, 1.5), 1e-2),
    "logistic": (lambda xp, b, x: b[0] / (1 + xp.exp(-(x - b[1]) / b[2])),
                 _line(0, 30, 31), (100.0, 14.0, 2.5), (50.0, 5.0, 6.0), (90.0, 13.0, 3.0), 2e-2),
    "misra1b": (lambda xp, b, x: b[0] * (1 - (1 + b[1] * x / 2) ** -2),
                _line(77, 760, 14), (337.99, 3.9039e-4), (500.0, 1e-4), (300.0, 2e-4), 3e-3),
    "misra1c": (lambda xp, b, x: b[0] * (1 - (1 + 2 * b[1] * x) ** -0.5),
                _line(77, 760, 14), (636.43, 2.0814e-4), (500.0, 1e-4), (600.0, 2e-4), 3e-3),
    "misra1d": (lambda xp, b, x: b[0] * b[1] * x / (1 + b[1] * x),
                _line(77, 760, 14), (437.37, 3.0227e-4), (500.0, 1e-4), (450.0, 3e-4), 3e-3),
    # Kinetics.
    "michaelis": (lambda xp, b, x: b[0] * x / (b[1] + x),
                  _line(0.02, 1.1, 12), (212.0, 0.064), (100.0, 1.0), (200.0, 0.1), 3e-2),
    "haldane": (lambda xp, b, x: b[0] * x / (b[1] + x + x**2 / b[2]),
                _line(0.1, 20, 30), (4.0, 1.2, 6.0), (1.0, 5.0, 20.0), (3.0, 1.0, 8.0), 1e-2),
    "hill": (lambda xp, b, x: b[0] * x ** b[1] / (b[2] ** b[1] + x ** b[1]),
             _line(0.5, 20, 25), (10.0, 2.6, 5.0), (5.0, 1.0, 10.0), (9.0, 2.0, 6.0), 1e-2),
    "biexponential": (lambda xp, b, x: b[0] * xp.exp(-b[1] * x) + b[2] * xp.exp(-b[3] * x),
                      _line(0, 10, 40), (5.0, 2.0, 3.0, 0.25), (1.0, 1.0, 1.0, 0.1), (4.0, 1.5, 2.5, 0.3), 5e-3),
    "consecutive": (lambda xp, b, x: b[0] * b[1] / (b[2] - b[1]) * (xp.exp(-b[1] * x) - xp.exp(-b[2] * x)),
                    _line(0.2, 12, 30), (4.0, 1.1, 0.3), (1.0, 2.0, 0.5), (3.5, 0.9, 0.4), 1e-2),
    "absorption": (lambda xp, b, x: b[0] * (xp.exp(-b[1] * (x - b[3])) - xp.exp(-b[2] * (x - b[3]))),
                   _line(0.5, 24, 30), (8.0, 0.12, 1.3, 0.2), (4.0, 0.3, 0.6, 0.0), (7.0, 0.1, 1.0, 0.1), 1e-2),
    "arrhenius": (lambda xp, b, x: b[0] * xp.exp(-b[1] / x),
                  _line(300, 500, 20), (2e6, 4200.0), (1e4, 2500.0), (1.5e6, 4100.0), 1e-2),
    "arrhenius centred": (lambda xp, b, x: xp.exp(b[0] - b[1] * (1000 / x - 2.5)),
                          _line(300, 500, 20), (4.0, 4.2), (0.0, 1.0), (3.8, 4.0), 1e-2),
    "second order": (lambda xp, b, x: b[0] / (1 + b[0] * b[1] * x) + b[2],
                     _line(0, 20, 30), (3.0, 0.4, 0.2), (1.0, 1.0, 0.0), (2.5, 0.5, 0.1), 1e-2),
    "stretched": (lambda xp, b, x: b[0] * xp.exp(-((x / b[1]) ** b[2])),
                  _line(0.1, 20, 40), (2.0, 4.0, 0.6), (1.0, 1.0, 1.0), (1.8, 3.5, 0.7), 5e-3),
    # Dose and response, adsorption.
    "four parameters": (lambda xp, b, x: b[0] + (b[1] - b[0]) / (1 + xp.exp(b[2] * (x - b[3]))),
                        _line(-4, 4, 25), (0.1, 1.2, 1.5, 0.4), (0.0, 2.0, 0.5, -2.0), (0.2, 1.0, 1.2, 0.0), 1e-2),
    "five parameters": (lambda xp, b, x: b[0] + (b[1] - b[0]) / (1 + xp.exp(b[2] * (x - b[3]))) ** b[4],
                        _line(-6, 6, 40), (0.1, 1.2, 1.5, 0.4, 0.6), (0.0, 2.0, 0.5, -1.0, 1.0),
                        (0.1, 1.1, 1.3, 0.2, 0.8), 5e-3),
    "langmuir": (lambda xp, b, x: b[0] * b[1] * x / (1 + b[1] * x),
                 _line(0.1, 50, 20), (7.0, 0.15), (20.0, 0.01), (6.0, 0.2), 2e-2),
    "freundlich": (lambda xp, b, x: b[0] * x ** (1 / b[1]),
                   _line(0.1, 50, 20), (2.0, 2.4), (1.0, 1.0), (1.8, 2.0), 2e-2),
    "sips": (lambda xp, b, x: b[0] * (b[1] * x) ** b[2] / (1 + (b[1] * x) ** b[2]),
             _line(0.1, 30, 25), (9.0, 0.2, 0.8), (5.0, 1.0, 1.0), (8.0, 0.3, 0.9), 1e-2),
    # Spectra.
    "gauss": (lambda xp, b, x: b[0] * xp.exp(-0.5 * ((x - b[1]) / b[2]) ** 2) + b[3] + b[4] * x,
              _line(0, 10, 60), (8.0, 4.2, 0.7, 1.0, 0.2), (5.0, 6.0, 2.0, 0.0, 0.0), (7.0, 4.0, 0.8, 0.9, 0.1), 2e-2),
    "lorentz": (lambda xp, b, x: b[0] / (1 + ((x - b[1]) / b[2]) ** 2) + b[3],
                _line(0, 10, 60), (8.0, 4.2, 0.5, 1.0), (5.0, 6.0, 2.0, 0.0),
                (7.0, 4.0, 0.6, 0.9), 2e-2),
    "doublet": (lambda xp, b, x: b[0] * xp.exp(-(((x - b[1]) / b[2]) ** 2))
                                + b[3] * xp.exp(-(((x - b[4]) / b[2]) ** 2)) + b[5],
                _line(0, 10, 80), (5.0, 4.0, 0.8, 3.0, 6.0, 0.5), (4.0, 3.0, 1.5, 4.0, 7.5, 0.0),
                (4.5, 4.2, 0.9, 3.2, 5.8, 0.4), 1e-2),
    "pseudo-voigt": (lambda xp, b, x: b[0] * (b[3] / (1 + ((x - b[1]) / b[2]) ** 2)
                                              + (1 - b[3]) * xp.exp(-np.log(2.0) * ((x - b[1]) / b[2]) ** 2)),
                     _line(-5, 5, 60), (3.0, 0.3, 0.9, 0.4), (1.0, -1.0, 2.0, 0.9), (2.8, 0.2, 1.0, 0.5), 1e-2),
    "fano": (lambda xp, b, x: b[0] * (b[1] + (x - b[2]) / b[3]) ** 2 / (1 + ((x - b[2]) / b[3]) ** 2),
             _line(-5, 5, 60), (1.0, 1.8, 0.4, 0.8), (2.0, 0.5, 0.0, 2.0), (0.9, 1.5, 0.3, 1.0), 1e-2),
    "gauss1": (lambda xp, b, x: b[0] * xp.exp(-b[1] * x) + b[2] * xp.exp(-(((x - b[3]) / b[4]) ** 2))
                                + b[5] * xp.exp(-(((x - b[6]) / b[7]) ** 2)),
               _line(1, 250, 250), (98.78, 0.010497, 100.49, 67.48, 23.13, 71.99, 178.998, 18.39),
               (97.0, 9e-3, 100.0, 65.0, 20.0, 70.0, 178.0, 16.5),
               (94.0, 0.0105, 99.0, 63.0, 25.0, 71.0, 180.0, 20.0), 2e-2),
    "lognormal": (lambda xp, b, x: b[0] / x * xp.exp(-0.5 * (xp.log(x / b[1]) / b[2]) ** 2),
                  _line(0.2, 15, 40), (10.0, 3.0, 0.6), (5.0, 1.0, 1.0), (9.0, 2.5, 0.7), 1e-2),
    # Oscillations.
    "damped": (lambda xp, b, x: b[0] * xp.exp(-b[1] * x) * xp.sin(b[2] * x + b[3]),
               _line(0, 10, 80), (3.0, 0.2, 2.5, 0.4), (1.0, 0.0, 2.2, 0.0), (2.5, 0.15, 2.4, 0.3), 1e-2),
    "sine": (lambda xp, b, x: b[0] * xp.sin(b[1] * x),
             2 * np.pi * np.arange(200) / 200, (2.0, 2.0), (1.0, 1.0), (1.5, 1.9), 0.0),
    "trend": (lambda xp, b, x: b[0] + b[1] * x + b[2] * xp.cos(b[3] * x + b[4]),
              _line(0, 12, 60), (1.0, 0.3, 2.0, 1.7, 0.5), (0.0, 0.0, 1.0, 1.5, 0.0),
              (0.9, 0.25, 1.8, 1.68, 0.4), 1e-2),
    "season": (lambda xp, b, x: b[0] + b[1] * xp.cos(2 * np.pi * x / 12) + b[2] * xp.sin(2 * np.pi * x / 12)
                                + b[4] * xp.cos(2 * np.pi * x / b[3]) + b[5] * xp.sin(2 * np.pi * x / b[3]),
               np.arange(1.0, 169.0), (10.5, 3.1, 0.5, 44.3, -1.6, 0.5), (11.0, 3.0, 0.5, 40.0, -0.7, -1.3),
               (10.0, 3.0, 0.5, 44.0, -1.5, 0.5), 5e-2),
    # Physics and engineering.
    "morse": (lambda xp, b, x: b[0] * (1 - xp.exp(-b[1] * (x - b[2]))) ** 2,
              _line(0.6, 4, 30), (4.5, 1.9, 0.75), (2.0, 1.0, 1.2), (4.0, 1.8, 0.8), 5e-3),
    "lennard-jones": (lambda xp, b, x: 4 * b[0] * ((b[1] / x) ** 12 - (b[1] / x) ** 6),
                      _line(3.2, 8, 30), (0.24, 3.4), (1.0, 2.5), (0.2, 3.3), 1e-2),
    "planck": (lambda xp, b, x: b[0] * x**3 / (xp.exp(x / b[1]) - 1),
               _line(0.2, 12, 40), (2.0, 1.1), (1.0, 3.0), (1.8, 1.0), 1e-2),
    "antoine": (lambda xp, b, x: xp.exp(b[0] - b[1] / (x + b[2])),
                _line(280, 370, 20), (18.3, 3816.0, -46.0), (15.0, 3000.0, -40.0), (18.0, 3800.0, -45.0), 2e-3),
    "chwirut": (lambda xp, b, x: xp.exp(-b[0] * x) / (b[1] + b[2] * x),
                _line(0.5, 6, 54), (0.1666, 5.1653e-3, 0.01215), (0.1, 0.01, 0.02), (0.15, 8e-3, 0.01), 1e-2),
    "kirby": (lambda xp, b, x: (b[0] + b[1] * x + b[2] * x**2) / (1 + b[3] * x + b[4] * x**2),
              _line(10, 370, 151), (1.6745, -0.13927, 2.596e-3, -1.7242e-3, 2.1665e-5), (2.0, -0.1, 3e-3, -1e-3, 1e-5),
              (1.5, -0.15, 2.5e-3, -2e-3, 2e-5), 1e-3),
    "thurber": (lambda xp, b, x: (b[0] + b[1] * x + b[2] * x**2 + b[3] * x**3)
                                 / (1 + b[4] * x + b[5] * x**2 + b[6] * x**3),
                _line(-3.1, 2.2, 37), (1288.1, 1491.1, 583.24, 75.417, 0.9663, 0.39797, 0.04973),
                (1000.0, 1000.0, 400.0, 40.0, 0.7, 0.3, 0.03), (1300.0, 1500.0, 500.0, 75.0, 1.0, 0.4, 0.05), 5e-3),
    "roszman": (lambda xp, b, x: b[0] - b[1] * x - xp.arctan(b[2] / (x - b[3])) / np.pi,
                _line(-4868, -2900, 25), (0.20197, -6.1953e-6, 1204.46, -181.34), (0.1, -1e-5, 1000.0, -100.0),
                (0.2, -5e-6, 1200.0, -150.0), 1e-2),
    "nelson": (lambda xp, b, x: b[0] - b[1] * x * xp.exp(-b[2] * np.tile(_line(180, 275, 4), 16)),
               np.repeat(2.0 ** np.arange(16) / 512, 4), (2.5907, 5.6178e-9, -0.057701), (2.0, 1e-4, -0.01),
               (2.5, 5e-9, -0.05), 2e-2),
    "power": (lambda xp, b, x: b[0] + b[1] * x ** b[2],
              _line(0.5, 20, 25), (1.0, 2.0, 0.6), (0.0, 1.0, 1.5), (0.9, 1.8, 0.7), 1e-2),
    "exponential growth": (lambda xp, b, x: b[0] * xp.exp(b[1] * x) + b[2],
                           _line(0, 30, 31), (2.0, 0.12, 5.0), (1.0, 0.3, 0.0), (1.8, 0.11, 4.0), 1e-2),
    "saturation": (lambda xp, b, x: b[0] * xp.tanh(b[1] * x) - b[2] * x,
                   _line(0, 8, 30), (5.0, 0.8, 0.1), (1.0, 0.1, 0.0), (4.5, 0.7, 0.15), 1e-2),
}


# The data of Bard, and of Osborne's second problem.
_BARD = np.array([0.14, 0.18, 0.22, 0.25, 0.29, 0.32, 0.35, 0.39, 0.37, 0.58, 0.73, 0.96, 1.34, 2.10, 4.39])
_OSBORNE = np.array([
    1.366, 1.191, 1.112, 1.013, 0.991, 0.885, 0.831, 0.847, 0.786, 0.725, 0.746, 0.679, 0.608, 0.655, 0.616,
    0.606, 0.602, 0.626, 0.651, 0.724, 0.649, 0.649, 0.694, 0.644, 0.624, 0.661, 0.612, 0.558, 0.533, 0.495,
    0.500, 0.423, 0.395, 0.375, 0.372, 0.391, 0.396, 0.405, 0.428, 0.429, 0.523, 0.562, 0.607, 0.653, 0.672,
    0.708, 0.633, 0.668, 0.645, 0.632, 0.591, 0.559, 0.597, 0.625, 0.739, 0.710, 0.729, 0.720, 0.636, 0.581,
    0.428, 0.292, 0.162, 0.098, 0.054,
])  # fmt: skip
_I10, _I15, _I20 = np.arange(1.0, 11.0), np.arange(1.0, 16.0), np.arange(1.0, 21.0)


def _osborne2(xp, b, x):
    peaks = [b[k] * xp.exp(-b[k + 4] * (x - b[k + 7]) ** 2) for k in (1, 2, 3)]
    return b[0] * xp.exp(-b[4] * x) + peaks[0] + peaks[1] + peaks[2]


def _watson(xp, b, x):
    powers = x[:, None] ** np.arange(6.0)
    slopes = np.arange(1.0, 6.0) * x[:, None] ** np.arange(5.0)
    rows = slopes @ b[1:] - (powers @ b) ** 2 - 1
    return xp.concatenate([rows, xp.stack([b[0], b[1] - b[0] ** 2 - 1])])


# Residuals, which are to vanish; the second start is the usual one, the first ten times that or in `FAR`, as ten times
# that of "gulf" is a solution.
RESIDUALS: dict[str, tuple[Callable[..., Vector], np.ndarray, int, tuple[float, ...]]] = {
    "rosenbrock": (lambda xp, b, x: xp.stack([10 * (b[1] - b[0] ** 2), 1 - b[0]]), np.zeros(2), 2, (-1.2, 1.0)),
    "freudenstein": (lambda xp, b, x: xp.stack([-13 + b[0] + ((5 - b[1]) * b[1] - 2) * b[1],
                                                -29 + b[0] + ((b[1] + 1) * b[1] - 14) * b[1]]),
                     np.zeros(2), 2, (0.5, -2.0)),
    "powell scaled": (lambda xp, b, x: xp.stack([1e4 * b[0] * b[1] - 1, xp.exp(-b[0]) + xp.exp(-b[1]) - 1.0001]),
                      np.zeros(2), 2, (0.0, 1.0)),
    "brown scaled": (lambda xp, b, x: xp.stack([b[0] - 1e6, b[1] - 2e-6, b[0] * b[1] - 2]), np.zeros(3), 3, (1.0, 1.0)),
    "beale": (lambda xp, b, x: np.array([1.5, 2.25, 2.625]) - b[0] * (1 - b[1] ** x),
              np.arange(1.0, 4.0), 3, (1.0, 1.0)),
    "jennrich": (lambda xp, b, x: 2 + 2 * x - xp.exp(x * b[0]) - xp.exp(x * b[1]), _I10, 10, (0.3, 0.4)),
    "bard": (lambda xp, b, x: _BARD - b[0] - x / (b[1] * (16 - x) + b[2] * xp.minimum(x, 16 - x)),
             _I15, 15, (1.0, 1.0, 1.0)),
    "gulf": (lambda xp, b, x: xp.exp(-(((25 + (-50 * xp.log(x / 100)) ** (2 / 3) - b[1]) ** 2) ** (b[2] / 2)) / b[0])
                               - x / 100,
             np.arange(1.0, 31.0), 30, (5.0, 2.5, 0.15)),
    "box": (lambda xp, b, x: xp.exp(-x * b[0]) - xp.exp(-x * b[1]) - b[2] * (xp.exp(-x) - xp.exp(-10 * x)),
            _I10 / 10, 10, (0.0, 10.0, 20.0)),
    "powell singular": (lambda xp, b, x: xp.stack([b[0] + 10 * b[1], 5**0.5 * (b[2] - b[3]), (b[1] - 2 * b[2]) ** 2,
                                                   10**0.5 * (b[0] - b[3]) ** 2]),
                        np.zeros(4), 4, (3.0, -1.0, 0.0, 1.0)),
    "wood": (lambda xp, b, x: xp.stack([10 * (b[1] - b[0] ** 2), 1 - b[0], 90**0.5 * (b[3] - b[2] ** 2), 1 - b[2],
                                        10**0.5 * (b[1] + b[3] - 2), 10**-0.5 * (b[1] - b[3])]),
             np.zeros(6), 6, (-3.0, -1.0, -3.0, -1.0)),
    "brown-dennis": (lambda xp, b, x: (b[0] + x * b[1] - xp.exp(x)) ** 2 + (b[2] + b[3] * xp.sin(x) - xp.cos(x)) ** 2,
                     _I20 / 5, 20, (25.0, 5.0, -5.0, -1.0)),
    "biggs": (lambda xp, b, x: b[2] * xp.exp(-x * b[0]) - b[3] * xp.exp(-x * b[1]) + b[5] * xp.exp(-x * b[4])
                               - (xp.exp(-x) - 5 * xp.exp(-10 * x) + 3 * xp.exp(-4 * x)),
              np.arange(1.0, 14.0) / 10, 13, (1.0, 2.0, 1.0, 1.0, 1.0, 1.0)),
    "watson": (_watson, np.arange(1.0, 30.0) / 29, 31, (0.0,) * 6),
    "osborne2": (lambda xp, b, x: _osborne2(xp, b, x) - _OSBORNE, np.arange(65.0) / 10, 65,
                 (1.3, 0.65, 0.65, 0.7, 0.6, 3.0, 5.0, 7.0, 2.0, 4.5, 5.5)),
    "brown almost linear": (lambda xp, b, x: xp.concatenate([b[:-1] + xp.sum(b) - (len(x) + 1),
                                                                     xp.stack([xp.prod(b) - 1])]),
                            np.zeros(10), 10, (0.5,) * 10),
}
FAR = {"gulf": (20.0, 8.0, 0.5)}
# fmt: on


def _residual_fit(name: str) -> CurveFit:
    model, x, rows, near = RESIDUALS[name]
    far = FAR.get(name) or (tuple(10 * value for value in near) if any(near) else (1.0,) * len(near))
    return CurveFit(name, model, x, np.zeros(rows), far, near)


def _made_fit(name: str) -> CurveFit:
    model, x, true, far, near, noise = MADE[name]
    fit = made(name, model, x, true, far, noise)
    return CurveFit(name, model, x, fit.y, far, near)


CLASSICAL_FITS = [_made_fit(name) for name in MADE] + [_residual_fit(name) for name in RESIDUALS]
