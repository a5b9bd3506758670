"""What weighs, restrains and restarts `jaxgeo.fit`: weights, priors, bounds and further starts."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxgeo as jg
from input_matrix.cells import Case, Entry, entry, refused, without, works
from input_matrix.training import update
from input_matrix.values import MODEL, PARAMS, X, Y, apply, floats, models, number

WEIGHTS = np.array([1.0, 2.0, 0.5, 3.0])
DAMPED = {"method": "levenberg-marquardt"}


def like(value: float) -> Any:
    """A model with one number everywhere."""
    return jax.tree.map(lambda leaf: jnp.full_like(leaf, value) if hasattr(leaf, "shape") else leaf, MODEL)


def restrained() -> list[Entry]:
    weights = without(floats(WEIGHTS), "one sample") | refused(
        negative=-WEIGHTS, all_zero=0 * WEIGHTS, one_each_output=np.ones((4, 1)), one_too_many=np.ones(5)
    )
    weights |= works(None_=None, one_is_zero=np.array([0.0, 1.0, 1.0, 1.0]))
    strength = without(number(zero=True), "function", "vector", "list") | refused(
        text="strong", vector=np.array([0.5, 0.5]), another_tree={"w": 1.0}, function=np.array
    )
    strength |= works(None_=None, prior=jg.optim.Prior(0.5), each_leaf=jax.tree.map(lambda leaf: 0.5, PARAMS))
    pair = (like(-2.0), like(2.0))
    bounds = works(None_=None, pair=pair, list=list(pair)) | refused(
        lower_alone=like(-2.0),
        three=(*pair, like(3.0)),
        crossed=pair[::-1],
        equal=(like(1.0), like(1.0)),
        NaN=(like(np.nan), like(1.0)),
        start_outside=(like(5.0), like(6.0)),
        another_tree=({"w": 1.0}, {"w": 2.0}),
        text="positive",
        number=1.0,
    )
    more = works(None_=None, one=[like(0.1)], tuple=(like(0.1), like(0.3))) | refused(
        empty=[], model_alone=like(0.1), number=3, text="three", names=["a"]
    )
    # A start that cannot be evaluated loses against the model, and integers are cast like the model's.
    fine = {"NaN", "integers"}
    more |= {f"one, {kind}": Case([case.value], case.refused and kind not in fine) for kind, case in models().items()}
    # A network without a width has no parameters to begin from elsewhere, and the first model's dtype is kept.
    more["one, zero width"] = Case(more["one, zero width"].value, True)
    of_params = {"model": PARAMS, "apply": apply, "inputs": X, "targets": Y}
    start, within = ("`starts", "`model"), {"bounds": ("`bounds", "`model", "of the bounds")}
    return [
        entry("fit", update, weights=weights),
        entry("fit by damped steps", update, DAMPED, weights=weights),
        entry("fit of params", update, of_params, prior=strength),
        entry("fit of params by damped steps", update, of_params | DAMPED, prior=strength | works(found="evidence")),
        entry("fit by damped steps within", update, DAMPED, named=within, bounds=bounds),
        entry("fit by damped steps from", update, DAMPED, named={"starts": start}, starts=more),
        entry("fit by sgd within", update, bounds=refused(pair=pair)),
    ]
