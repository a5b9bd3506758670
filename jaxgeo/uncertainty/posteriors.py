"""The posterior of parameters and predictions: a Gaussian around θ with the curvature of the cost at θ."""

import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from jaxgeo._checks import as_samples, check_function, check_number, leading_size
from jaxgeo.linalg.covariance.base import AbstractCovariance
from jaxgeo.linalg.covariance.columns import ColumnCovariance
from jaxgeo.outputs import AbstractProblem, Block, Params
from jaxgeo.uncertainty.leaves import entry_names, positions
from jaxgeo.uncertainty.plan import PosteriorPlan
from jaxgeo.uncertainty.prediction import ClassPrediction, Prediction


class Posterior(eqx.Module):
    """The uncertainty of trained parameters: a Gaussian around θ with covariance (βDᵀWD + A)⁻¹, W the cost's curvature.

    `jaxgeo.posterior` creates it, and `print` shows a table. Results about parameters are NumPy arrays in float64;
    predictions are JAX arrays in the dtype of the parameters.

    - `problem`, `params`: the problem and its trained parameters.
    - `form`: the covariance as a factorisation, by columns, rows or leading directions of D.
    - `noise`: the standard deviation of a target of weight 1, estimated or given; a tuple if each block of the problem
        has its own; None for classes.
    - `num_observations`: n, the number of targets, weighted like their samples.
    - `num_effective`: γ, the number of parameters that the data determine.
    - `missed`: an estimate of how many more they may determine, if only leading directions of D are used; otherwise 0.
    - `degrees_of_freedom`: n − γ, from which the noise was estimated; infinite if the noise was given.
    - `prior_precision`: α for each trainable leaf; 0 for no prior.
    - `log_evidence`: log p(y), by Laplace's approximation; None unless every parameter has a prior.
    - `converged`: whether the estimated precisions have converged.
    - `plan`: whether rows, columns or leading directions of D are used, and how much memory this needs.
    """

    problem: AbstractProblem
    params: Params
    form: AbstractCovariance
    noise: float | tuple[float, ...] | None
    num_observations: float
    num_effective: float
    missed: float
    degrees_of_freedom: float
    prior_precision: PyTree
    log_evidence: float | None
    converged: bool
    plan: PosteriorPlan = eqx.field(static=True)

    @property
    def trainable(self) -> PyTree:
        """The trainable parameters, None for the others."""
        return self.problem.partition(self.params)[0]

    def standard_errors(self) -> PyTree:
        """The standard deviation of each parameter, as a pytree like `trainable`; infinite if nothing fixes it.

        With rows of D this takes QN gradients.
        """
        return self._unravel(np.sqrt(self.form.variances()))

    def covariance(self, where: Callable[[PyTree], PyTree] | None = None) -> Float[np.ndarray, "k k"]:
        """The covariance of parameters, in the order of their flattened leaves.

        **Arguments:**

        - `where`: a function that selects one or several leaves of the trainable parameters; by default all.

        **Raises:** `ValueError` if it selects none; `MemoryError` if the matrix needs more memory than the plan allows.
        """
        index = positions(self.trainable, where)
        if 8 * len(index) * (len(index) + self.plan.rows * (self.plan.way == "rows")) > self.plan.memory:
            raise MemoryError(
                f"the covariance of {len(index)} parameters does not fit in {self.plan.memory} bytes; select some "
                "leaves with `where`, or use `standard_errors()`."
            )
        return self.form.part(index)

    def unfixed(self, share: float = 0.01) -> list[str]:
        """The names of parameters that the data do not fix.

        **Arguments:**

        - `share`: with a prior, a parameter counts as not fixed if the data reduce its prior variance by less than this
            share. Without a prior `share` has no effect: such parameters have infinite standard errors.
        """
        check_number("share", share, least=0, most=1)
        variances, prior = self.form.variances(), self._precisions()
        infinite = np.isinf(variances)
        learned = np.where(infinite, 0.0, 1 - prior * np.where(infinite, 0.0, variances))
        names = entry_names(self.trainable)
        return [name for name, one in zip(names, learned, strict=True) if one < share or one == 0]

    def unfixed_directions(self, share: float = 0.01) -> list[dict[str, float]]:
        """Combinations of parameters that the data do not fix: unit vectors, as dictionaries from names to entries.

        Several parameters may each be unfixed although some combination of them is known.

        **Arguments:**

        - `share`: as for `unfixed`.

        **Raises:** `ValueError` unless the columns of D are used: there are then at least K − QN such combinations.
        """
        check_number("share", share, least=0, most=1)
        if not isinstance(self.form, ColumnCovariance):
            raise ValueError(
                f"the data fix about {self.num_effective:.0f} directions of {self.plan.columns}; call `unfixed()` for "
                "the parameters."
            )
        found, prior = self.form.directions(), self._precisions()
        if (prior > 0).all():
            factor = np.asarray(self.form.factor) / np.asarray(self.form.units)[:, None]
            left, values, _ = np.linalg.svd(np.sqrt(prior)[:, None] * factor)
            raw = left[:, 1 - values**2 < share] / np.sqrt(prior)[:, None]
            found = raw / np.linalg.norm(raw, axis=0)
        names = entry_names(self.trainable)
        return [{name: float(x) for name, x in zip(names, column, strict=True) if abs(x) > 1e-6} for column in found.T]

    def predict(
        self, inputs: PyTree, apply: Callable[[PyTree, PyTree], Array] | None = None
    ) -> Prediction | ClassPrediction:
        """The network at new inputs, with the uncertainty of its parameters, by the outputs linearised at θ.

        Inputs are processed in chunks. The result can be differentiated with respect to the inputs.

        **Arguments:**

        - `inputs`: new samples with leading axis M, like those of the problem.
        - `apply`: another function of the parameters and a sample to predict, such as the solution of a differential
            equation if the problem consists of its residuals; by default the network of the problem.

        **Returns:** a `Prediction`, or for class labels a `ClassPrediction`.

        **Raises:** `ValueError` if the problem has several blocks and `apply` is missing, or if the network couples its
        samples and has more parameters than outputs.
        """
        if apply is None:
            if len(self.problem.blocks) != 1:
                raise ValueError(
                    f"the problem has {len(self.problem.blocks)} blocks; pass what to predict as `apply`, a function "
                    "of the parameters and one sample."
                )
            apply = self.problem.blocks[0].apply
            if not self.problem.per_sample:
                return self.predict_all(inputs, apply)
        return self._predict(inputs, apply, coupled=False)

    def predict_all(self, inputs: PyTree, apply: Callable[[PyTree, PyTree], Array]) -> Prediction | ClassPrediction:
        """Like `predict`, for a function that takes all samples at once, as with `per_sample=False`.

        **Arguments:**

        - `inputs`: new samples with leading axis M.
        - `apply`: a function of the parameters and all samples, which returns M results along the leading axis.

        **Raises:** `ValueError` unless the columns of D are used, as they are for fewer parameters than outputs.
        """
        if not isinstance(self.form, ColumnCovariance):
            raise ValueError(
                "the network couples its samples, but with so many parameters predictions go sample by sample: pass "
                "the function of one sample as `apply`."
            )
        return self._predict(inputs, apply, coupled=True)

    def _predict(
        self, inputs: PyTree, apply: Callable[[PyTree, PyTree], Array], *, coupled: bool
    ) -> Prediction | ClassPrediction:
        check_function("apply", apply)
        inputs = as_samples("inputs", inputs)
        leading_size("inputs", inputs)
        dtype = jnp.result_type(*jax.tree.leaves(self.trainable))
        inputs = jax.tree.map(lambda leaf: _like(leaf, dtype), inputs)
        mean, covariance = _predict(self.form, apply, inputs, self.noise is None, coupled)
        if self.noise is None:
            return ClassPrediction(mean.reshape(len(mean), -1), covariance)
        noise = None if isinstance(self.noise, tuple) else self.noise
        return Prediction(mean, covariance, noise, self.degrees_of_freedom)

    def __str__(self) -> str:
        """A table of the parameters, at most 20 of them, with their standard errors."""
        names = entry_names(self.trainable)
        values = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(self.trainable)])
        lines = [f"n = {self.num_observations:g}, γ = {self.num_effective:.4g} of K = {len(names)}"]
        if self.noise is not None:
            kind = "given" if math.isinf(self.degrees_of_freedom) else "estimated"
            shown = self.noise if isinstance(self.noise, tuple) else (self.noise,)
            lines[0] += f"; noise {', '.join(f'{one:.4g}' for one in shown)} ({kind})"
        if self.log_evidence is not None:
            lines.append(f"log evidence {self.log_evidence:.6g}")
        if len(names) <= 20:
            width = max(map(len, names))
            errors = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(self.standard_errors())])
            lines += [
                f"{name:<{width}}  {value:.6g} ± {error:.2g}"
                for name, value, error in zip(names, values, errors, strict=True)
            ]
        return "\n".join(lines)

    def _precisions(self) -> Float[np.ndarray, " K"]:
        leaves, precisions = jax.tree.leaves(self.trainable), jax.tree.leaves(self.prior_precision)
        return np.concatenate([np.full(leaf.size, one) for leaf, one in zip(leaves, precisions, strict=True)])

    def _unravel(self, values: Float[np.ndarray, " K"]) -> PyTree:
        leaves, treedef = jax.tree.flatten(self.trainable)
        ends = np.cumsum([leaf.size for leaf in leaves])[:-1]
        pieces = [part.reshape(leaf.shape) for part, leaf in zip(np.split(values, ends), leaves, strict=True)]
        return jax.tree.unflatten(treedef, pieces)


@eqx.filter_jit
def _predict(
    form: AbstractCovariance, apply: Callable[[PyTree, PyTree], Array], inputs: PyTree, classes: bool, coupled: bool
) -> tuple[Any, Any]:
    if not coupled:
        with jax.default_matmul_precision("highest"):
            mean = jax.vmap(apply, in_axes=(None, 0))(form.params, inputs)
        return mean, form.of_outputs(apply, inputs, classes)
    assert isinstance(form, ColumnCovariance)
    with jax.default_matmul_precision("highest"):
        mean = apply(form.params, inputs)
    whole = Block(apply, jax.tree.map(lambda leaf: leaf[None], inputs))
    return mean, form.of_whole(whole, mean.shape[0], classes)


def _like(array: Array, dtype: jnp.dtype) -> Array:
    return array.astype(dtype) if jnp.issubdtype(array.dtype, jnp.floating) else array
