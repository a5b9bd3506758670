"""The posterior of parameters and predictions: a Gaussian at θ with the curvature of the cost there."""

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
    """The parameters as the data leave them: a Gaussian around θ with covariance (βDᵀWD + A)⁻¹, W the cost's curvature.

    Made by `jaxgeo.posterior`. Numbers of parameters are NumPy arrays in float64; predictions are JAX's, in the
    parameters' dtype.

    - `problem`, `params`: what it is of.
    - `form`: the covariance as a factorisation, by columns or by rows of D.
    - `noise`: the standard deviation of a target of weight 1, estimated or given; a tuple where each block of the
        problem has its own; None for classes.
    - `num_observations`: n, targets, each as often as its sample counts.
    - `num_effective`: γ, how many parameters the data determine.
    - `degrees_of_freedom`: n − γ, from which the noise was estimated; infinite where it was given.
    - `prior_precision`: α for each trainable leaf; 0 for none.
    - `log_evidence`: log p(y), Laplace's approximation; None without a prior on every parameter.
    - `converged`: whether precisions that were estimated have settled.
    - `plan`: whether it goes by rows or by columns of D, and what it holds.
    """

    problem: AbstractProblem
    params: Params
    form: AbstractCovariance
    noise: float | tuple[float, ...] | None
    num_observations: float
    num_effective: float
    degrees_of_freedom: float
    prior_precision: PyTree
    log_evidence: float | None
    converged: bool
    plan: PosteriorPlan = eqx.field(static=True)

    @property
    def trainable(self) -> PyTree:
        """The parameters that it is about, None for the others."""
        return self.problem.partition(self.params)[0]

    def standard_errors(self) -> PyTree:
        """The standard deviation of each parameter, a pytree like `trainable`; infinite where nothing fixes it.

        By rows of D it takes QN gradients.
        """
        return self._unravel(np.sqrt(self.form.variances()))

    def covariance(self, where: Callable[[PyTree], PyTree] | None = None) -> Float[np.ndarray, "k k"]:
        """The covariance of parameters, in the order in which their leaves are flattened.

        **Arguments:**

        - `where`: takes a leaf, or several, of the trainable parameters; by default all of them.

        **Raises:** `ValueError` if it takes none; `MemoryError` if the matrix would take more than the plan allows.
        """
        index = positions(self.trainable, where)
        if 8 * len(index) * (len(index) + self.plan.rows * self.plan.takes_rows) > self.plan.memory:
            raise MemoryError(
                f"the covariance of {len(index)} parameters does not fit in {self.plan.memory} bytes; ask for that of "
                "some leaves by `where`, or for `standard_errors()`."
            )
        return self.form.part(index)

    def unfixed(self, share: float = 0.01) -> list[str]:
        """The names of parameters that the data do not fix.

        **Arguments:**

        - `share`: with a prior, those of whose prior variance the data take away less than this share; without
            one it does not matter, as these have an infinite standard error.
        """
        check_number("share", share, least=0, most=1)
        variances, prior = self.form.variances(), self._precisions()
        infinite = np.isinf(variances)
        learned = np.where(infinite, 0.0, 1 - prior * np.where(infinite, 0.0, variances))
        names = entry_names(self.trainable)
        return [name for name, one in zip(names, learned, strict=True) if one < share or one == 0]

    def unfixed_directions(self, share: float = 0.01) -> list[dict[str, float]]:
        """Combinations of parameters that the data do not fix: unit vectors, each as the names of its entries.

        Single parameters may be unfixed in all of them, though some combination of theirs is known.

        **Arguments:**

        - `share`: as for `unfixed`.

        **Raises:** `ValueError` by rows of D, where there are at least K − QN of them.
        """
        check_number("share", share, least=0, most=1)
        if not isinstance(self.form, ColumnCovariance):
            raise ValueError(
                f"the data fix at most {self.plan.rows} directions of {self.plan.columns}; ask `unfixed()` for the "
                "parameters."
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
        """The network at new inputs with the uncertainty of its parameters, by the outputs linearised at θ.

        Inputs are taken some at a time. The result has derivatives by them.

        **Arguments:**

        - `inputs`: new samples with leading axis M, like those of the problem.
        - `apply`: another function of the parameters and a sample, such as the solution of a differential equation
            whose residuals the problem is made of; by default the network of the problem.

        **Returns:** a `Prediction`, or for class labels a `ClassPrediction`.

        **Raises:** `ValueError` if the problem has several blocks and `apply` is not given, or the network couples its
        samples and has more parameters than outputs.
        """
        if apply is None:
            if len(self.problem.blocks) != 1:
                raise ValueError(
                    f"the problem has {len(self.problem.blocks)} blocks; say by `apply` what is to be predicted, a "
                    "function of the parameters and one sample."
                )
            apply = self.problem.blocks[0].apply
            if not self.problem.per_sample:
                return self.predict_all(inputs, apply)
        return self._predict(inputs, apply, coupled=False)

    def predict_all(self, inputs: PyTree, apply: Callable[[PyTree, PyTree], Array]) -> Prediction | ClassPrediction:
        """As `predict`, of a function that takes all samples at once, as with `per_sample=False`.

        **Arguments:**

        - `inputs`: new samples with leading axis M.
        - `apply`: a function of the parameters and all samples, whose M results have a leading axis.

        **Raises:** `ValueError` if the network has more parameters than outputs, and so goes by rows.
        """
        if not isinstance(self.form, ColumnCovariance):
            raise ValueError(
                "the network couples its samples, and with K > QN predictions go sample by sample: pass the function "
                "of one sample as `apply`."
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
