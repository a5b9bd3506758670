"""The estimators as they come on twelve tables of numbers and eight of classes, beside those of scikit-learn.

Real tables of scikit-learn and generators, two thirds of the rows to train on. `r2` and `log_loss` are on the others,
means of splits; seconds are CPU seconds of a fit, medians. Defaults were chosen
on other splits (seeds from 100 on) of these tables but the borehole and the sparse function.
"""

import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from sklearn import datasets
from sklearn.compose import TransformedTargetRegressor
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.gaussian_process import GaussianProcessClassifier, GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel
from sklearn.linear_model import LogisticRegressionCV, RidgeCV
from sklearn.metrics import log_loss
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from benchmarks.error_bars import _linear, _product
from benchmarks.harness import Case, environment, run_cases
from jaxgeo.estimators import JaxgeoClassifier, JaxgeoRegressor

COVERAGE = 0.9
# Rows beyond which a Gaussian process takes minutes for a table.
MOST_GP = 1200

Table = tuple[np.ndarray, np.ndarray]


def _column(load: Callable[[], Any], target: int, most: int) -> Table:
    """A column of a table of classes, from the others."""
    rows = load().data[:, :most]
    return np.delete(rows, target, 1), rows[:, target]


def _steps(seed: int) -> Table:
    rng = np.random.default_rng([seed, 5])
    x = rng.uniform(-1, 1, (1500, 6))
    jumps = 1.0 * (x[:, 0] > 0.2) + 2.0 * ((x[:, 1] > 0) & (x[:, 2] < 0.3))
    return x, jumps + x[:, 3] + 0.3 * rng.normal(size=1500)


def _borehole(seed: int) -> Table:
    """Flow of water through a borehole, with 5 % noise.

    Reference: M. D. Morris, T. J. Mitchell, D. Ylvisaker, Bayesian design and analysis of computer experiments, 1993
    """
    rng = np.random.default_rng([seed, 6])
    low = np.array([0.05, 100, 63070, 990, 63.1, 700, 1120, 9855])
    high = np.array([0.15, 50000, 115600, 1110, 116, 820, 1680, 12045])
    x = rng.uniform(low, high, (500, 8))
    well, radius, upper, head, lower, bottom, length, conduct = x.T
    ratio = np.log(radius / well)
    flow = 2 * np.pi * upper * (head - bottom)
    flow = flow / (ratio * (1 + 2 * length * upper / (ratio * well**2 * conduct) + upper / lower))
    return x, flow * (1 + 0.05 * rng.normal(size=500))


NUMBERS: dict[str, Callable[[int], Table]] = {
    "diabetes": lambda seed: datasets.load_diabetes(return_X_y=True),
    "iris, petal width": lambda seed: _column(datasets.load_iris, 3, 4),
    "wine, colour": lambda seed: _column(datasets.load_wine, 9, 13),
    "breast cancer, fractal dimension": lambda seed: _column(datasets.load_breast_cancer, 9, 10),
    "Friedman 1, noise 1": lambda seed: datasets.make_friedman1(442, noise=1.0, random_state=seed),
    "Friedman 2, noise 50": lambda seed: datasets.make_friedman2(500, noise=50.0, random_state=seed),
    "Friedman 3, noise 0.2": lambda seed: datasets.make_friedman3(442, noise=0.2, random_state=seed),
    "a linear function, noise 0.8": _linear,
    "sin(2x₁)x₂, noise 0.2": _product,
    "jumps, noise 0.3": _steps,
    "borehole, noise 5 %": _borehole,
    "four of ten inputs": lambda seed: datasets.make_sparse_uncorrelated(400, random_state=seed),
}
CLASSES: dict[str, Callable[[int], Table]] = {
    "iris": lambda seed: datasets.load_iris(return_X_y=True),
    "wine": lambda seed: datasets.load_wine(return_X_y=True),
    "breast cancer": lambda seed: datasets.load_breast_cancer(return_X_y=True),
    "two moons": lambda seed: datasets.make_moons(400, noise=0.3, random_state=seed),
    "clusters": lambda seed: datasets.make_classification(
        600, 10, n_informative=5, n_classes=3, n_clusters_per_class=2, flip_y=0.05, random_state=seed
    ),
    "shells": lambda seed: datasets.make_gaussian_quantiles(
        n_samples=500, n_features=4, n_classes=3, random_state=seed
    ),
    "Friedman 1 above its mean": lambda seed: _above(datasets.make_friedman1(600, noise=1.0, random_state=seed)),
    "digits, 600 rows": lambda seed: tuple(each[:600] for each in datasets.load_digits(return_X_y=True)),
}


def _above(table: Table) -> Table:
    return table[0], (table[1] > table[1].mean()).astype(int)


def _process(rows: int, inputs: int) -> Any:
    kernel = ConstantKernel(1.0) * RBF(np.full(inputs, 2.0), (1e-1, 1e3)) + WhiteKernel(0.3)
    return None if rows > MOST_GP else _scaled(GaussianProcessRegressor(kernel, random_state=0))


def _scaled(model: Any) -> Any:
    return make_pipeline(StandardScaler(), TransformedTargetRegressor(model, transformer=StandardScaler()))


REGRESSORS: dict[str, Callable[[int, int], Any]] = {
    "JaxgeoRegressor": lambda rows, inputs: JaxgeoRegressor(random_state=0),
    "RidgeCV": lambda rows, inputs: _scaled(RidgeCV(np.logspace(-3, 4, 15))),
    "Gaussian process": _process,
    "HistGradientBoosting": lambda rows, inputs: HistGradientBoostingRegressor(random_state=0),
    "MLPRegressor": lambda rows, inputs: _scaled(MLPRegressor(random_state=0, max_iter=500)),
}
CLASSIFIERS: dict[str, Callable[[int, int], Any]] = {
    "JaxgeoClassifier": lambda rows, inputs: JaxgeoClassifier(random_state=0),
    "LogisticRegressionCV": lambda rows, inputs: make_pipeline(
        StandardScaler(), LogisticRegressionCV(Cs=10, scoring="neg_log_loss", max_iter=1000)
    ),
    "Gaussian process": lambda rows, inputs: make_pipeline(
        StandardScaler(), GaussianProcessClassifier(ConstantKernel(1.0) * RBF(np.sqrt(inputs)), random_state=0)
    ),
    "HistGradientBoosting": lambda rows, inputs: HistGradientBoostingClassifier(random_state=0),
    "MLPClassifier": lambda rows, inputs: make_pipeline(StandardScaler(), MLPClassifier(random_state=0, max_iter=500)),
}


def on_tables(are_classes: bool, splits: int, names: tuple[str, ...] | None = None) -> Iterator[dict[str, Any]]:
    """Scores on the rows not trained on and CPU seconds of each fit, and the mean rank of each method by its score."""
    tables, methods = (CLASSES, CLASSIFIERS) if are_classes else (NUMBERS, REGRESSORS)
    before, found = environment("scikit-learn"), {}
    for name in names or tables:
        rows: dict[str, dict[str, list[float]]] = {}
        for split in range(splits):
            x, y = tables[name](split)
            order = np.random.default_rng([split, 7]).permutation(len(y))
            train, test = order[: 2 * len(y) // 3], order[2 * len(y) // 3 :]
            for method, make in methods.items():
                if (model := make(len(train), x.shape[1])) is None:
                    continue
                start = time.process_time()
                model.fit(x[train], y[train])
                kept = rows.setdefault(method, {})
                kept.setdefault("cpu_s", []).append(time.process_time() - start)
                if are_classes:
                    score = log_loss(y[test], model.predict_proba(x[test]), labels=np.unique(y))
                    kept.setdefault("accuracy", []).append(float(np.mean(model.predict(x[test]) == y[test])))
                else:
                    score = model.score(x[test], y[test])
                kept.setdefault("log_loss" if are_classes else "r2", []).append(float(score))
                if isinstance(model, JaxgeoRegressor):
                    low, high = model.predict_interval(x[test], COVERAGE)
                    kept.setdefault("coverage", []).append(float(np.mean((low <= y[test]) & (y[test] <= high))))
        found[name] = {"trained_rows": len(train), "inputs": x.shape[1]} | {
            method: {key: float((np.median if key == "cpu_s" else np.mean)(values)) for key, values in kept.items()}
            | {"splits": kept}
            for method, kept in rows.items()
        }
        yield {"environment": before, "splits": splits, "ranks": _ranks(found, methods, are_classes), "tables": found}


def _ranks(found: dict[str, Any], methods: dict[str, Any], are_classes: bool) -> dict[str, Any]:
    """Of each method: its mean score on all tables that it has, its ranks, and by how much the best one is ahead."""
    key, sign = ("log_loss", 1) if are_classes else ("r2", -1)
    ranks: dict[str, Any] = {}
    for method in methods:
        own = {name: row[method][key] for name, row in found.items() if method in row}
        behind = {
            name: sign * (score - min(row[key] * sign for row in found[name].values() if isinstance(row, dict)) * sign)
            for name, score in own.items()
        }
        places = [
            1 + sum(sign * row[key] < sign * score for row in found[name].values() if isinstance(row, dict))
            for name, score in own.items()
        ]
        ranks[method] = {
            "tables": len(own),
            "mean": float(np.mean(list(own.values()))),
            "mean_rank": float(np.mean(places)),
            "worst_behind_the_best": max(behind.values()),
        }
    return ranks


CASES = {
    "numbers": Case(lambda: on_tables(False, 5), 7200.0),
    "classes": Case(lambda: on_tables(True, 5), 7200.0),
}
QUICK = {
    "numbers": Case(lambda: on_tables(False, 1, ("iris, petal width",)), 600.0),
    "classes": Case(lambda: on_tables(True, 1, ("iris",)), 600.0),
}


if __name__ == "__main__":
    run_cases("estimators", CASES, QUICK)
