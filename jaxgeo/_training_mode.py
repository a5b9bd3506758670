"""Find networks in training mode that are evaluated one sample at a time, before anything is computed.

Batch normalisation needs all samples, and is refused; dropout with one mask for all of them is a warning.
"""

import warnings
from collections.abc import Callable

import equinox as eqx
import jax
from jaxtyping import Array, PyTree

from jaxgeo._dependence import SAMPLE, STATISTICS, reads
from jaxgeo._trainable import APART, statistics_in

AT_ONCE = (
    "Pass `per_sample=False` and a function of all samples at once; or evaluate the network with its running "
    "statistics (Linen: `use_running_average=True`; NNX: `model.eval()`; Equinox: `eqx.nn.inference_mode`)."
)
ONE_MASK = (
    "the network draws the mask of its dropout from a key that is the same for every sample and every update, so it "
    "trains one thinned network, and its cost is not that of the whole one. Switch dropout off (Equinox: "
    "`eqx.nn.inference_mode(model)`; NNX: `model.eval()`; Linen: `deterministic=True`), or pass a key for each sample "
    "among the inputs."
)
# Of Flax NNX, in the error of a module that changes its own state.
CHANGES_STATE = "Cannot mutate"
# Of Equinox, in the error of dropout that is called without a key.
WITHOUT_KEY = "requires a key"


def cannot_evaluate(error: Exception, sample: PyTree) -> ValueError:
    """The error of a network that fails on a sample."""
    shape = jax.tree.map(lambda leaf: leaf.shape, sample)
    wrongly_called = any(words in str(error) for words in ("not callable", "positional argument", "unbound module"))
    if wrongly_called:
        advice = APART
    elif CHANGES_STATE in str(error):
        advice = (
            "An NNX module changes its own state: merge a copy, `nnx.merge(graph, weights, rest, copy=True)`. With "
            "dropout, call `model.eval()` first, or pass a key for each sample among the inputs. With batch "
            "normalisation, pass `per_sample=False`."
        )
    elif WITHOUT_KEY in str(error):
        advice = (
            "Switch dropout off by `eqx.nn.inference_mode(model)`, or pass a key for each sample among the inputs: "
            "`inputs=(x, keys)` and `lambda model, sample: model(sample[0], key=sample[1])`."
        )
    else:
        advice = "A function of a batch becomes one of a sample by `lambda params, x: apply(params, x[None])[0]`."
    return ValueError(
        f"`apply` could not be evaluated on `params` and a sample of `inputs` of shape {shape}: "
        f"{type(error).__name__}: {str(error).removesuffix('.')}. It is called as apply(params, x_j): with the "
        f"parameters first, and with one sample at a time unless `per_sample=False`. {advice}"
    )


@eqx.filter_jit
def check_networks(networks: tuple[tuple[Callable[[PyTree, PyTree], Array], PyTree], ...], params: PyTree) -> None:
    """Raise `ValueError` if one of the functions `apply(params, x_j)`, each given with a sample, needs all samples.

    Never compiled: under `jax.eval_shape` the jaxprs are followed once for each shape.
    """
    known, read = False, False
    for apply, sample in networks:
        whole = (apply, params)
        arrays, rest = eqx.partition(whole, eqx.is_array)
        statistics = jax.tree.map(
            lambda leaf, found: STATISTICS * bool(found) if eqx.is_array(leaf) else None, whole, statistics_in(whole)
        )

        def outputs(arrays: PyTree, sample: PyTree, rest: PyTree = rest) -> PyTree:
            apply, params = eqx.combine(arrays, rest)
            return apply(params, sample)

        try:
            found = reads(outputs, (arrays, sample), (statistics, jax.tree.map(lambda _: SAMPLE, sample)))
        except NameError as error:
            # JAX's error for a collective, such as a mean over the batch, outside the axis it names.
            if "axis name" not in str(error):
                raise
            raise ValueError(
                f"the network couples its samples, as batch normalisation does ({error}), but is evaluated one sample "
                f"at a time. {AT_ONCE}"
            ) from error
        except Exception as error:  # Flax has errors of its own, which are none of Python's.
            raise cannot_evaluate(error, sample) from error
        if found.fixed_mask:
            warnings.warn(ONE_MASK, stacklevel=2)
        if SAMPLE in found.named - found.sources:
            raise ValueError(
                "the outputs are the same for every sample: the network subtracts its own mean from each sample, which "
                "leaves 0. Batch normalisation in training mode does so when it is evaluated one sample at a time. "
                f"{AT_ONCE}"
            )
        known |= STATISTICS in jax.tree.leaves(statistics)
        read |= STATISTICS in found.sources
    if known and not read:
        raise ValueError(
            "the network is given running statistics (`batch_stats` and the like) but does not read them: it is in "
            "training mode, but is evaluated one sample at a time, so each sample is normalised by itself. "
            f"{AT_ONCE}"
        )
