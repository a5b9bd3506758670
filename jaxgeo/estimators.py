"""Estimators for scikit-learn: networks of one hidden layer beside a linear path, trained and weighted by the evidence.

Needs scikit-learn, which `import jaxgeo` does not load: `from jaxgeo.estimators import JaxgeoRegressor`.
"""

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from jaxgeo._checks import check_count, check_number, check_positive, is_count
from jaxgeo._names import show_public_names
from jaxgeo.equations.network import check_sizes
from jaxgeo.tabular import TableModel
from jaxgeo.tabular.ensemble import ROUNDS, TOL
from jaxgeo.tabular.plan import STARTS

try:
    from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.utils import check_random_state, column_or_1d
    from sklearn.utils.class_weight import compute_class_weight
    from sklearn.utils.multiclass import check_classification_targets, type_of_target
    from sklearn.utils.validation import check_is_fitted
except ImportError as error:
    raise ImportError('jaxgeo.estimators needs scikit-learn; install it with `pip install "jaxgeo[cli]"`.') from error

try:
    from sklearn.utils.validation import validate_data  # pyright: ignore[reportAttributeAccessIssue]
except ImportError:
    # scikit-learn 1.5 has the same function as a method, which 1.6 made public in this form.
    def validate_data(estimator: Any, *args: Any, **kwargs: Any) -> Any:
        return estimator._validate_data(*args, **kwargs)


Rows = Float[np.ndarray, "rows _"]

# Updates of each network on one part of the rows.
PARTIAL_UPDATES = 20


class AbstractEstimator(BaseEstimator):
    """What the estimators have in common: training, and what is known after it.

    Their constructors keep whatever they are given, as scikit-learn asks; `fit` checks it.
    """

    hidden_layer_sizes: Sequence[int] | int | None
    n_starts: int
    max_iter: int
    tol: float
    max_time: float | None
    warm_start: bool
    random_state: Any
    model_: TableModel

    def _check_parameters(self) -> Sequence[int] | None:
        """The widths of the hidden layers if they are given; `ValueError` on parameters that cannot be meant."""
        for name in ("n_starts", "max_iter"):
            check_count(name, self.get_params()[name])
        check_positive("tol", self.tol)
        if self.max_time is not None:
            check_positive("max_time", self.max_time)
        if not isinstance(self.warm_start, bool | np.bool_):
            raise ValueError(f"`warm_start` must be True or False; got {self.warm_start!r}.")
        hidden = self.hidden_layer_sizes
        if hidden is None:
            return None
        if is_count(hidden):
            return (int(hidden),)  # pyright: ignore[reportArgumentType]
        check_sizes("hidden_layer_sizes", hidden)
        return tuple(int(width) for width in hidden)  # pyright: ignore[reportGeneralTypeIssues]

    def _train(self, rows: Rows, targets: Rows, weights: NDArray[np.float64], *, goes_on: bool, partial: bool) -> None:
        """Train on rows that count as often as `weights` say: from the start, or on; on all, or a part of them."""
        hidden = self._check_parameters()
        kept = weights > 0
        rows, targets, weights = rows[kept], targets[kept], weights[kept]
        random = check_random_state(self.random_state)
        if not goes_on:
            self.model_ = TableModel.start(
                rows,
                targets,
                weights,
                are_classes=isinstance(self, ClassifierMixin),
                hidden=hidden,
                starts=self.n_starts,
                random=random,
            )
        self.model_.train(
            rows,
            targets,
            weights,
            rounds=min(self.max_iter, PARTIAL_UPDATES) if partial else self.max_iter,
            tol=self.tol,
            seconds=self.max_time,
            keep=partial,
        )
        ensemble = self.model_.ensemble
        if not partial and ensemble.stopped == "max_iter" and not ensemble.has_settled(float(weights.sum())):
            warnings.warn(
                f"after `max_iter` = {self.max_iter} updates the evidence still grew; a larger `max_iter` allows more.",
                ConvergenceWarning,
                stacklevel=4,
            )
        self.loss_curve_, self.loss_ = list(ensemble.losses), ensemble.losses[-1]
        self.n_iter_, self.stopped_ = len(ensemble.losses), ensemble.stopped
        self.log_evidence_, self.num_effective_ = self.model_.log_evidence, self.model_.num_effective

    def _weights(self, sample_weight: Any, count: int) -> NDArray[np.float64]:
        if sample_weight is None:
            return np.ones(count)
        weights = np.asarray(sample_weight, np.float64)
        if weights.ndim == 0:
            weights = np.full(count, float(weights))
        if weights.shape != (count,):
            raise ValueError(f"`sample_weight` must have shape ({count},), one for each row; got {weights.shape}.")
        if not np.isfinite(weights).all() or (weights < 0).any():
            bad = int(np.argmax(~np.isfinite(weights) | (weights < 0)))
            raise ValueError(f"`sample_weight` must be finite and not negative; got {weights[bad]:g} for row {bad}.")
        if not weights.any():
            raise ValueError("each weight in `sample_weight` is zero; at least one row must count.")
        return weights

    def _rows(self, X: Any) -> Rows:
        """Rows to predict."""
        check_is_fitted(self)
        return validate_data(self, X, dtype=np.float64, reset=False)


class JaxgeoRegressor(RegressorMixin, AbstractEstimator):
    """Regression by networks of a linear path and one hidden tanh layer, with error bars.

    Levenberg–Marquardt trains several networks on all rows: with 0, 4 and 12 hidden units, with one prior precision for
    each layer or for each input, and from several starts. Each maximises its evidence, so no rows are held out, and
    powers of the evidence weight the predictions. Inputs and targets are standardised. The networks learn the logarithm
    of a positive target if that is much more probable.

    An update sums DᵀD over chunks of rows, so its time grows with the number of rows and its memory does not. With more
    than 8192 rows the networks are wider, and start on 8192 of them.

    Reference: D. J. C. MacKay, Bayesian interpolation, 1992, Neural Computation 4

    **Arguments:**

    - `hidden_layer_sizes`: widths of the hidden layers, or one width, in place of those above.
    - `n_starts`: random starts of each network.
    - `max_iter`: updates of each network at most.
    - `tol`: a network is done where three updates in a row change the logarithm of its evidence by less.
    - `max_time`: seconds after which `fit` stops.
    - `warm_start`: go on from the last `fit`: five times `max_iter=1` is once `max_iter=5`.
    - `random_state`: seed or `numpy.random.RandomState` of the first weights.

    **Attributes:**

    - `log_evidence_`: of the best network, of standardised targets; `num_effective_`: γ, how many parameters the data
        determine, as the weighted mean of the networks.
    - `noise_`: the standard deviation of the targets' noise, one for each; of their logarithms if `takes_logs_`.
    - `n_iter_`, `loss_curve_`, `loss_`: updates, and half the mean squared error of standardised targets after each, of
        the network with the largest evidence.
    - `stopped_`: why it ended, "converged", "max_iter" or "max_time".
    - `model_`: the networks, a `jaxgeo.tabular.TableModel`.
    - `n_features_in_`, `feature_names_in_`: columns of the inputs, and their names if they had any.

    **Raises:** `ValueError` from `fit` on parameters or data that are unusable. It warns (`ConvergenceWarning`) if the
    evidence of the best network still grew after `max_iter` updates.

    ```python
    >>> import numpy as np
    >>> from jaxgeo.estimators import JaxgeoRegressor
    >>> x = np.linspace(-1, 1, 30)[:, None]
    >>> y = np.sin(3 * x[:, 0]) + 0.1 * np.random.default_rng(0).normal(size=30)
    >>> mean, deviation = JaxgeoRegressor(random_state=0).fit(x, y).predict([[0.5]], return_std=True)
    >>> bool(abs(mean[0] - np.sin(1.5)) < 0.1), bool(0.07 < deviation[0] < 0.15)
    (True, True)

    ```
    """

    def __init__(
        self,
        hidden_layer_sizes=None,
        *,
        n_starts=STARTS,
        max_iter=ROUNDS,
        tol=TOL,
        max_time=None,
        warm_start=False,
        random_state=None,
    ):
        self.hidden_layer_sizes = hidden_layer_sizes
        self.n_starts = n_starts
        self.max_iter = max_iter
        self.tol = tol
        self.max_time = max_time
        self.warm_start = warm_start
        self.random_state = random_state

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> "JaxgeoRegressor":
        """Train on rows `X`, (N, features), and targets `y`, (N,) or (N, Q).

        **Arguments:**

        - `sample_weight`: how often each row counts; a row of weight 2 is two rows, one of weight 0 none.
        """
        return self._fit(X, y, sample_weight, goes_on=bool(self.warm_start) and hasattr(self, "model_"), partial=False)

    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> "JaxgeoRegressor":
        """Train on some more rows. What earlier ones have said is kept as a quadratic function of the parameters.

        Scales and networks are chosen by the first rows, which should be typical of all.
        """
        return self._fit(X, y, sample_weight, goes_on=hasattr(self, "model_"), partial=True)

    def _fit(self, X: Any, y: Any, sample_weight: Any, *, goes_on: bool, partial: bool) -> "JaxgeoRegressor":
        self._check_parameters()
        X, y = validate_data(self, X, y, dtype=np.float64, multi_output=True, y_numeric=True, reset=not goes_on)
        raw = np.asarray(y, np.float64).reshape(len(y), -1)
        known = len(self.model_.outputs.names) if goes_on and self.model_.outputs else raw.shape[1]
        if raw.shape[1] != known:
            raise ValueError(f"`y` has {raw.shape[1]} targets, and had {known} before.")
        self._one_target = y.ndim == 1
        self._train(X, raw, self._weights(sample_weight, len(X)), goes_on=goes_on, partial=partial)
        self.noise_, self.takes_logs_ = self.model_.noise, self.model_.takes_logs
        return self

    def predict(self, X: Any, return_std: bool = False) -> Any:
        """Targets of rows `X`, in the shape that `fit` was given.

        **Arguments:**

        - `return_std`: return the standard deviations of new targets as well, with their noise.
        """
        rows = self._rows(X)
        mean = self._shaped(self.model_.predict(rows))
        return (mean, self._shaped(self.model_.deviation(rows))) if return_std else mean

    def predict_interval(self, X: Any, coverage: float = 0.9) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """From where to where a new target of each row is with this probability, as much being below as above.

        **Raises:** `ValueError` unless `coverage` lies between 0 and 1.
        """
        check_number("coverage", coverage, above=0, most=1)
        if coverage == 1:
            raise ValueError("`coverage` must be below 1: only an infinite interval holds all.")
        low, high = self.model_.interval(self._rows(X), float(coverage))
        return self._shaped(low), self._shaped(high)

    def _shaped(self, targets: Rows) -> NDArray[np.float64]:
        return targets[:, 0] if self._one_target else targets

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()  # pyright: ignore[reportAttributeAccessIssue]
        tags.target_tags.multi_output = True
        return tags

    def _more_tags(self) -> dict[str, bool]:
        # The tags of scikit-learn 1.5.
        return {"multioutput": True}


class JaxgeoClassifier(ClassifierMixin, AbstractEstimator):
    """Classification by networks of a linear path and one hidden tanh layer, whose outputs are logits.

    They are trained and weighted as those of `JaxgeoRegressor`, by Laplace's evidence of the labels. Probabilities are
    those of the logits with what the data leave open.

    Reference: D. J. C. MacKay, The evidence framework applied to classification networks, 1992, Neural Computation 4

    **Arguments:** those of `JaxgeoRegressor`, and

    - `class_weight`: a dictionary of how often a row of each class counts, or "balanced".

    **Attributes:** those of `JaxgeoRegressor` but `noise_` and `takes_logs_`, and

    - `classes_`: the labels, in the order of the columns of `predict_proba`.

    `loss_curve_` has the mean negative logarithm of the probability of the label.

    **Raises:** `ValueError` from `fit` on parameters or data that are unusable.

    ```python
    >>> import numpy as np
    >>> from jaxgeo.estimators import JaxgeoClassifier
    >>> x = np.random.default_rng(0).uniform(-1, 1, (200, 2))
    >>> model = JaxgeoClassifier(random_state=0).fit(x, np.where(x[:, 0] * x[:, 1] > 0, "same", "other"))
    >>> model.predict([[0.5, 0.5], [-0.5, 0.5]]).tolist()
    ['same', 'other']

    ```
    """

    classes_: NDArray[Any]

    def __init__(
        self,
        hidden_layer_sizes=None,
        *,
        class_weight=None,
        n_starts=STARTS,
        max_iter=ROUNDS,
        tol=TOL,
        max_time=None,
        warm_start=False,
        random_state=None,
    ):
        self.hidden_layer_sizes = hidden_layer_sizes
        self.class_weight = class_weight
        self.n_starts = n_starts
        self.max_iter = max_iter
        self.tol = tol
        self.max_time = max_time
        self.warm_start = warm_start
        self.random_state = random_state

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> "JaxgeoClassifier":
        """Train on rows `X`, (N, features), and labels `y`, (N,), of any type.

        **Arguments:**

        - `sample_weight`: how often each row counts; a row of weight 2 is two rows, one of weight 0 none.
        """
        goes_on = bool(self.warm_start) and hasattr(self, "model_")
        return self._fit(X, y, sample_weight, self.classes_ if goes_on else None, goes_on=goes_on, partial=False)

    def partial_fit(self, X: Any, y: Any, classes: Any = None, sample_weight: Any = None) -> "JaxgeoClassifier":
        """Train on some more rows. What earlier ones have said is kept as a quadratic function of the parameters.

        Scales and networks are chosen by the first rows, which should be typical of all.

        **Arguments:**

        - `classes`: all that there are; needed in the first call.
        """
        goes_on = hasattr(self, "model_")
        if not goes_on and classes is None:
            raise ValueError("`classes` must be passed on the first call to partial_fit: all labels that there are.")
        if goes_on and classes is not None and not np.array_equal(np.unique(classes), self.classes_):
            raise ValueError(f"`classes` are {np.unique(classes)!r}, and were {self.classes_!r} before.")
        return self._fit(
            X,
            y,
            sample_weight,
            self.classes_ if goes_on else np.unique(np.asarray(classes)),
            goes_on=goes_on,
            partial=True,
        )

    def _fit(
        self, X: Any, y: Any, sample_weight: Any, classes: NDArray[Any] | None, *, goes_on: bool, partial: bool
    ) -> "JaxgeoClassifier":
        self._check_parameters()
        X, y = validate_data(self, X, y, dtype=np.float64, multi_output=True, reset=not goes_on)
        if y.ndim > 1 and y.shape[1] > 1:
            raise ValueError(
                f"`y` must be one label for each row; got {type_of_target(y)} of shape {y.shape}. For several labels "
                "use sklearn.multioutput.MultiOutputClassifier(JaxgeoClassifier())."
            )
        check_classification_targets(y)
        y = column_or_1d(y, warn=True)
        weights = self._weights(sample_weight, len(X))
        found = np.unique(y[weights > 0]) if classes is None else classes
        if len(found) < 2:
            raise ValueError(f"`y` must have at least 2 classes; got one class, {found[0]!r}.")
        known = np.isin(y, found)
        if not known[weights > 0].all():
            raise ValueError(f"`y` has the label {y[~known & (weights > 0)][0]!r}, which is not among {found!r}.")
        self.classes_ = found
        labels = np.searchsorted(found, np.where(known, y, found[0]))
        if self.class_weight is not None:
            counts = weights * known
            if isinstance(self.class_weight, str) and self.class_weight == "balanced":
                sums = np.bincount(labels, counts, len(found))
                of_class = counts.sum() / (len(found) * np.where(sums > 0, sums, 1))
            else:
                of_class = compute_class_weight(self.class_weight, classes=found, y=y[known])
            weights = self._weights(weights * of_class[labels], len(X))
        self._train(X, np.eye(len(found))[labels], weights, goes_on=goes_on, partial=partial)
        return self

    def predict_proba(self, X: Any) -> NDArray[np.float64]:
        """The probability of each class, (rows, classes)."""
        rows = self._rows(X)
        return self.model_.probabilities(rows)

    def predict(self, X: Any) -> NDArray[Any]:
        """The likeliest class of each row."""
        check_is_fitted(self)
        return self.classes_[self.predict_proba(X).argmax(axis=1)]


show_public_names(globals())
