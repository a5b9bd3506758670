"""A linear model, with which networks are compared."""

import numpy as np
from jaxtyping import Float

PENALTIES = np.logspace(-3, 4, 15)


def predict_linearly(
    inputs: Float[np.ndarray, "rows inputs"],
    targets: Float[np.ndarray, "rows outputs"],
    weights: Float[np.ndarray, " rows"] | None,
    new: Float[np.ndarray, "new inputs"],
) -> Float[np.ndarray, "new outputs"]:
    """What a linear model with an intercept predicts for `new` inputs, by ridge regression of `targets` on `inputs`.

    Of several penalties it takes the one with the least squared error if each row in turn is left out. As
    scikit-learn's `RidgeCV`, which takes longer to import than this to compute.
    """
    weights = np.ones(len(inputs)) if weights is None else weights
    mean_input, mean_target = (np.average(each, axis=0, weights=weights) for each in (inputs, targets))
    roots = np.sqrt(weights)[:, None]
    left, singular, right = np.linalg.svd(roots * (inputs - mean_input), full_matrices=False)
    rest = roots * (targets - mean_target)
    along = left.T @ rest

    def left_out(penalty: float) -> float:
        kept = singular**2 / (singular**2 + penalty)
        leverage = left**2 @ kept + weights / weights.sum()
        errors = (rest - left @ (kept[:, None] * along)) / np.maximum(1 - leverage, np.finfo(float).eps)[:, None]
        return float(np.mean(errors**2))

    penalty = min(PENALTIES, key=left_out)
    slopes = right.T @ ((singular / (singular**2 + penalty))[:, None] * along)
    return mean_target + (new - mean_input) @ slopes
