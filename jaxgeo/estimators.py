"""Estimators for scikit-learn: a dense network trained by `jaxgeo.optim.adapted_levenberg_marquardt`.

Needs scikit-learn, which `import jaxgeo` does not load: `from jaxgeo.estimators import JaxgeoRegressor`.
"""

import math
from collections.abc import Callable, Sequence
from numbers import Real
from typing import Any, cast

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Float
from numpy.typing import NDArray
from scipy.special import softmax

from jaxgeo._checks import check_count, check_finite, check_positive
from jaxgeo._names import show_public_names
from jaxgeo.costs import L2, AbstractCost, SoftmaxCrossEntropy
from jaxgeo.equations import Network
from jaxgeo.equations.network import check_sizes
from jaxgeo.fitting import Scaling
from jaxgeo.fitting.methods import smooth_to_exact
from jaxgeo.optim import adapted_levenberg_marquardt
from jaxgeo.optim.levenberg_marquardt import LevenbergMarquardtState
from jaxgeo.problem import Problem, supervised

try:
    from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
    from sklearn.utils import check_random_state, column_or_1d
    from sklearn.utils.multiclass import check_classification_targets
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

# Fewer held-out rows than these say too little about when to stop.
LEAST_VALIDATION_ROWS = 10
# By this part the cost must have fallen since the best update so far for the training to go on.
LEAST_DECREASE = 1e-4


class AbstractEstimator(BaseEstimator):
    """What the estimators have in common: training, and the outputs of what was trained.

    Their constructors keep whatever they are given, as scikit-learn asks; `fit` checks it.
    """

    hidden_layer_sizes: Sequence[int]
    damping: float
    max_iter: int
    tol: float
    early_stopping: bool
    validation_fraction: float
    n_iter_no_change: int
    precision: str
    random_state: Any

    def _check_parameters(self) -> None:
        check_sizes("hidden_layer_sizes", self.hidden_layer_sizes)
        for name in ("max_iter", "n_iter_no_change"):
            check_count(name, self.get_params()[name])
        check_positive("damping", self.damping)
        check_positive("tol", self.tol)
        if not isinstance(self.early_stopping, bool | np.bool_):
            raise ValueError(f"`early_stopping` must be True or False; got {self.early_stopping!r}.")
        if not isinstance(self.validation_fraction, Real) or not 0 < self.validation_fraction < 1:
            raise ValueError(f"`validation_fraction` must lie between 0 and 1; got {self.validation_fraction!r}.")
        if not isinstance(self.precision, str) or self.precision not in ("float32", "float64"):
            raise ValueError(f"`precision` must be 'float64' or 'float32'; got {self.precision!r}.")

    def _train(
        self, rows: Rows, targets: Rows, cost: Callable[[Rows], AbstractCost], groups: NDArray[np.integer]
    ) -> None:
        """Train on `targets` in the form that `cost` takes; of each group the same part of the rows is held out."""
        random = check_random_state(self.random_state)
        seed = random.randint(np.iinfo(np.int32).max)
        held_out = np.zeros(len(rows), bool)
        if self.early_stopping:
            held_out = _hold_out(groups, self.validation_fraction, random)
        self.scaling_ = Scaling.fit(tuple(f"column {i}" for i in range(rows.shape[1])), rows[~held_out])
        inputs = self.scaling_.apply(rows)
        check_finite("X", inputs)
        sizes = (rows.shape[1], *(int(size) for size in self.hidden_layer_sizes), targets.shape[1])
        # The user's x64 setting stays as it is, also for other threads.
        with jax.enable_x64(True):
            network = Network(sizes, np.dtype(self.precision).type, key=jax.random.key(seed))
            problem, params = supervised(network, inputs[~held_out], cost(targets[~held_out]))
            validation = None
            if held_out.any():
                validation, _ = supervised(network, inputs[held_out], cost(targets[held_out]))
            trained = self._descend(problem, validation, params)
            # As NumPy's arrays they can be pickled, and read back where x64 is off, in full precision.
            self.network_ = jax.tree.map(np.asarray, eqx.combine(trained, network))

    def _descend(self, problem: Problem, validation: Problem | None, params: Any) -> Any:
        """The parameters with the lowest cost on the held-out rows, or on those trained on if none are."""
        optimizer = adapted_levenberg_marquardt()
        if validation is not None:
            optimizer = smooth_to_exact(float(self.damping))
        state = optimizer.init(params)
        cost0 = float(problem.cost(params))
        best, chosen, waited = math.inf, params, 0
        if validation is not None:
            best = float(validation.cost(params))
        self.loss_curve_, self.validation_curve_, self.stopped_ = [cost0], [best], "max_iter"
        for _ in range(self.max_iter):
            updates, state = optimizer.update(params, state, params, problem=problem)
            params = optax.apply_updates(params, updates)
            cost = float(cast(LevenbergMarquardtState, state).info.new_cost)
            value = cost if validation is None else float(validation.cost(params))
            self.loss_curve_.append(cost)
            self.validation_curve_.append(value)
            waited = 0 if value < (1 - LEAST_DECREASE) * best else waited + 1
            if value < best:
                best, chosen = value, params
            if cost <= self.tol * cost0:
                self.stopped_ = "tol"
                break
            if waited == self.n_iter_no_change:
                self.stopped_ = "no_change"
                break
        self.n_iter_ = len(self.loss_curve_) - 1
        return chosen

    def _outputs(self, X: Any) -> Rows:
        """The network's outputs for raw rows."""
        check_is_fitted(self)
        rows = validate_data(self, X, dtype=np.float64, reset=False)
        inputs = self.scaling_.apply(rows)
        check_finite("X", inputs)
        with jax.enable_x64(True):
            outputs = _apply(self.network_, jnp.asarray(inputs, self.network_.layers[0].weight.dtype))
            return np.asarray(outputs, np.float64)


class JaxgeoRegressor(RegressorMixin, AbstractEstimator):
    """Regression by a dense tanh network with the L2 cost, trained by damped adapted steps on all rows at once.

    Inputs and targets are standardised. The first updates fit smooth functions of the inputs and later ones everything
    else, noise included, so with `early_stopping` the parameters that did best on held-out rows are kept.

    Each update factors a matrix of min(K, QN)² numbers, K parameters and QN targets: meant for some thousands of rows.

    **Arguments:**

    - `hidden_layer_sizes`: widths of the hidden layers.
    - `damping`: where rows are held out, the damping of the first update, relative to trace(DDᵀ)/QN; an update at
        most halves it. A smaller one trains in fewer updates, with fewer to choose from.
    - `max_iter`: updates at most.
    - `tol`: stop where the cost is this part of the one before training.
    - `early_stopping`: hold rows out, stop when the cost on them ceases to fall, and keep the parameters for which it
        was lowest. Left out where fewer than 10 rows would be held out.
    - `validation_fraction`: the part of the rows that is held out.
    - `n_iter_no_change`: stop after so many updates without a lower cost, on the held-out rows if there are any.
    - `precision`: "float64" or "float32"; float64 needs no `jax_enable_x64`.
    - `random_state`: seed or `numpy.random.RandomState` of the first weights and of the held-out rows.

    **Attributes:**

    - `network_`: the trained `jaxgeo.equations.Network`, from standardised inputs to standardised targets.
    - `scaling_`, `target_scaling_`: `jaxgeo.fitting.Scaling` of inputs and targets.
    - `n_iter_`, `loss_curve_`, `validation_curve_`: updates, and the costs before the first and after each.
    - `stopped_`: why it ended, "tol", "no_change" or "max_iter".
    - `n_features_in_`, `feature_names_in_`: columns of the inputs, and their names if they had any.

    **Raises:** `ValueError` from `fit` on parameters or data that are unusable.

    ```python
    >>> import numpy as np
    >>> from jaxgeo.estimators import JaxgeoRegressor
    >>> x = np.linspace(-1, 1, 20)[:, None]
    >>> model = JaxgeoRegressor((16,), early_stopping=False, tol=1e-10, random_state=0).fit(x, np.sin(3 * x[:, 0]))
    >>> bool(abs(model.predict([[0.5]])[0] - np.sin(1.5)) < 1e-3)
    True

    ```
    """

    def __init__(
        self,
        hidden_layer_sizes=(32, 32),
        *,
        damping=10.0,
        max_iter=100,
        tol=1e-8,
        early_stopping=True,
        validation_fraction=0.2,
        n_iter_no_change=10,
        precision="float64",
        random_state=None,
    ):
        self.hidden_layer_sizes = hidden_layer_sizes
        self.damping = damping
        self.max_iter = max_iter
        self.tol = tol
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.precision = precision
        self.random_state = random_state

    def fit(self, X: Any, y: Any) -> "JaxgeoRegressor":
        """Train on rows `X`, (N, features), and targets `y`, (N,) or (N, Q)."""
        self._check_parameters()
        X, y = validate_data(self, X, y, dtype=np.float64, multi_output=True, y_numeric=True)
        self._one_target = y.ndim == 1
        raw = np.asarray(y, np.float64).reshape(len(y), -1)
        self.target_scaling_ = Scaling.fit(tuple(f"target {i}" for i in range(raw.shape[1])), raw)
        targets = self.target_scaling_.apply(raw)
        check_finite("y", targets)
        self._train(X, targets, L2, np.zeros(len(raw), int))
        return self

    def predict(self, X: Any) -> NDArray[np.float64]:
        """Targets of rows `X`, in the shape that `fit` was given."""
        outputs = self._outputs(X)
        targets = self.target_scaling_.invert(outputs)
        return targets[:, 0] if self._one_target else targets

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()  # pyright: ignore[reportAttributeAccessIssue]
        tags.target_tags.multi_output = True
        return tags

    def _more_tags(self) -> dict[str, bool]:
        # The tags of scikit-learn 1.5.
        return {"multioutput": True}


class JaxgeoClassifier(ClassifierMixin, AbstractEstimator):
    """Classification by a dense tanh network, trained by damped adapted steps on all rows at once.

    Inputs are standardised, and of each class the same part of the rows is held out.

    **Arguments:** those of `JaxgeoRegressor`, and

    - `loss`: "cross_entropy" of the softmax, or "l2", the squared distance to one-hot targets. The outputs of the
        latter are brought to the nearest probabilities.

    **Attributes:** those of `JaxgeoRegressor` but `target_scaling_`, and

    - `classes_`: the labels, in the order of the columns of `predict_proba`.

    **Raises:** `ValueError` from `fit` on parameters or data that are unusable.

    ```python
    >>> import numpy as np
    >>> from jaxgeo.estimators import JaxgeoClassifier
    >>> x = np.array([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    >>> model = JaxgeoClassifier((8,), random_state=0).fit(x, ["even", "odd", "odd", "even"])
    >>> model.predict(x).tolist()
    ['even', 'odd', 'odd', 'even']

    ```
    """

    classes_: NDArray[Any]

    def __init__(
        self,
        hidden_layer_sizes=(32, 32),
        *,
        loss="cross_entropy",
        damping=10.0,
        max_iter=100,
        tol=1e-8,
        early_stopping=True,
        validation_fraction=0.2,
        n_iter_no_change=10,
        precision="float64",
        random_state=None,
    ):
        self.hidden_layer_sizes = hidden_layer_sizes
        self.loss = loss
        self.damping = damping
        self.max_iter = max_iter
        self.tol = tol
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.precision = precision
        self.random_state = random_state

    def fit(self, X: Any, y: Any) -> "JaxgeoClassifier":
        """Train on rows `X`, (N, features), and labels `y`, (N,), of any type."""
        self._check_parameters()
        costs = {"cross_entropy": SoftmaxCrossEntropy, "l2": L2}
        if not isinstance(self.loss, str) or self.loss not in costs:
            raise ValueError(f"`loss` must be 'cross_entropy' or 'l2'; got {self.loss!r}.")
        X, y = validate_data(self, X, y, dtype=np.float64)
        check_classification_targets(y)
        self.classes_, labels = np.unique(column_or_1d(y, warn=True), return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(f"`y` must have at least 2 classes; got one class, {self.classes_[0]!r}.")
        self._train(X, np.eye(len(self.classes_))[labels], costs[self.loss], labels)
        return self

    def predict_proba(self, X: Any) -> NDArray[np.float64]:
        """The probability of each class, (rows, classes)."""
        outputs = self._outputs(X)
        return softmax(outputs, axis=1) if self.loss == "cross_entropy" else _nearest_probabilities(outputs)

    def predict(self, X: Any) -> NDArray[Any]:
        """The likeliest class of each row."""
        likeliest = self._outputs(X).argmax(axis=1)
        return self.classes_[likeliest]


@jax.jit
def _apply(network: Network, inputs: jax.Array) -> jax.Array:
    return jax.vmap(network)(inputs)


def _nearest_probabilities(rows: Rows) -> Rows:
    """The Euclidean projection of each row on {p ≥ 0, Σp = 1}: max(row − c, 0), with the c for which it sums to 1."""
    descending = -np.sort(-rows, axis=1)
    shifts = (np.cumsum(descending, axis=1) - 1) / np.arange(1, rows.shape[1] + 1)
    last = np.sum(descending > shifts, axis=1, keepdims=True) - 1
    return np.maximum(rows - np.take_along_axis(shifts, last, axis=1), 0)


def _hold_out(groups: NDArray[np.integer], fraction: float, random: np.random.RandomState) -> NDArray[np.bool_]:
    """Which rows are held out: of each group the part `fraction`, but never all; none if that is too few."""
    held_out = np.zeros(len(groups), bool)
    for group in np.unique(groups):
        rows = random.permutation(np.flatnonzero(groups == group))
        held_out[rows[: min(round(fraction * len(rows)), len(rows) - 1)]] = True
    return held_out & (held_out.sum() >= LEAST_VALIDATION_ROWS)


show_public_names(globals())
