"""The last two states of a run, saved by orbax. Each is compared with its digest before it is read."""

import contextlib
import errno
import logging
import os
import shutil
import warnings
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from jaxgeo._checks import is_key
from jaxgeo._trainable import written
from jaxgeo.fitting.digests import Digests
from jaxgeo.fitting.files import cannot_write

NAME = "checkpoints"
# Bytes that a checkpoint needs in addition to its arrays, with a margin.
SPARE = 1_000_000


class Checkpoints:
    """States of a run, as arrays and JSON, in the folder `checkpoints`, with digests beside it; nothing is pickled.

    A state without a digest was not finished. If a state does not match its digest, the state before it is used.

    **Raises:** `ModuleNotFoundError` without orbax; `ValueError` if a link leads elsewhere, or the digests are missing.
    """

    def __init__(self, files: Digests):
        try:
            import orbax.checkpoint as ocp
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                'checkpoints need orbax, which is not installed; run: pip install "jaxgeo[cli]", or train '
                "without a folder.",
                name=error.name,
            ) from error
        # The errors raised here already say what orbax would log on a save.
        logging.getLogger("absl").setLevel(logging.CRITICAL)
        self.files, self.folder = files, files.place(f"{NAME}/0").parent
        self.orbax: Any = ocp
        self.checkpointer = ocp.Checkpointer(ocp.CompositeCheckpointHandler())
        there = [path for path in self.folder.iterdir()] if self.folder.is_dir() else []
        if there and not files.names:
            raise ValueError(f"{files.folder} holds checkpoints without their digests; choose another folder.")
        kept = {*map(str, self.numbers)} if there else set()
        for path in there:
            if path.is_symlink() or path.name not in kept:
                _remove(path)

    @property
    def numbers(self) -> list[int]:
        """The numbers of the saved states, oldest first."""
        names = [name.removeprefix(f"{NAME}/") for name in self.files.names if name.startswith(f"{NAME}/")]
        return sorted(int(name) for name in names if name.isdecimal())

    def save(self, state: PyTree, facts: dict[str, Any]) -> None:
        """Save the arrays of `state`, and `facts`, which must be JSON.

        **Raises:** `ValueError` if they cannot be written; earlier states then remain intact.
        """
        arrays = _arrays(state)
        save, before = self.orbax.args, self.numbers
        number = before[-1] + 1 if before else 0
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            # Noticed in advance, a full disk is one error; noticed by TensorStore's threads, a page of tracebacks.
            if shutil.disk_usage(self.folder).free < 2 * sum(array.nbytes for array in arrays.values()) + SPARE:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self.checkpointer.save(
                (self.folder / str(number)).absolute(),
                args=save.Composite(
                    arrays=save.StandardSave({name: a for name, a in arrays.items() if a.size}),
                    facts=save.JsonSave({"leaves": describe(state), "facts": facts}),
                ),
                force=True,
            )
        except Exception as error:
            # TensorStore reports a full disk by its own ValueError, and orbax wraps other errors.
            raise cannot_write(self.folder, error) from error
        self.files.record(f"{NAME}/{number}", forget=[f"{NAME}/{old}" for old in before[:-1]])
        self._remove(before[:-1])

    def restore(self, like: PyTree) -> tuple[PyTree, dict[str, Any]] | None:
        """The newest intact state, with the structure of `like`, and its facts; None if no state was saved.

        **Raises:** `ValueError` if the state belongs to another network or method, with the differences, or if all
        states are damaged.
        """
        damaged, most = [], SPARE + 4 * sum(array.nbytes for array in _arrays(like).values())
        for number in reversed(self.numbers):
            try:
                self.files.check_folder(f"{NAME}/{number}", most)
                facts = self._facts(number)
            except Exception as error:  # Whatever a damaged file makes orbax raise.
                damaged.append(_complaint(number, error))
                continue
            if differences := compare(facts["leaves"], describe(like)):
                raise ValueError(
                    f"the checkpoint in {self.folder} belongs to another network or method: {'; '.join(differences)}. "
                    "Use the same network and method as before, or start a new run in another folder."
                )
            try:
                arrays = self._read(number, _arrays(like))
            except Exception as error:  # As above.
                damaged.append(_complaint(number, error))
                continue
            for complaint in damaged:
                warnings.warn(f"{complaint}; continuing from checkpoint {number}.", stacklevel=3)
            later = [other for other in self.numbers if other > number]
            self.files.forget([f"{NAME}/{other}" for other in later])
            self._remove(later)
            return _in_form_of(like, arrays), facts["facts"]
        if damaged:
            raise ValueError(f"no checkpoint in {self.folder} can be read: {'; '.join(damaged)}. Train it again.")
        return None

    def _remove(self, numbers: list[int]) -> None:
        for number in numbers:
            _remove(self.folder / str(number))

    def _facts(self, number: int) -> dict[str, Any]:
        restore = self.orbax.args
        path = (self.folder / str(number)).absolute()
        facts = self.checkpointer.restore(path, args=restore.Composite(facts=restore.JsonRestore()))["facts"]
        if set(facts) != {"leaves", "facts"} or not isinstance(facts["leaves"], dict):
            raise ValueError("its description is incomplete")
        return facts

    def _read(self, number: int, like: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        restore = self.orbax.args
        path = (self.folder / str(number)).absolute()
        target = {name: a for name, a in like.items() if a.size}
        found = self.checkpointer.restore(path, args=restore.Composite(arrays=restore.StandardRestore(target)))[
            "arrays"
        ]
        return {name: np.asarray(found[name]) if a.size else a for name, a in like.items()}

    def close(self) -> None:
        """Let go of the folder."""
        self.checkpointer.close()


def _remove(path: Path) -> None:
    """Remove a folder, or a link or file in its place, if possible."""
    if path.is_symlink() or path.is_file():
        with contextlib.suppress(OSError):
            path.unlink()
    else:
        # Folders in folders that are deeper than Python calls itself stay there.
        with contextlib.suppress(RecursionError):
            shutil.rmtree(path, ignore_errors=True)


def describe(state: PyTree) -> dict[str, str]:
    """Shape and dtype of each array, by its path: {"[0].layers[0].weight": "float64 (8, 2)"}."""
    return {
        jax.tree_util.keystr(path) or "the array": f"{leaf.dtype} {tuple(leaf.shape)}"
        for path, leaf in jax.tree_util.tree_leaves_with_path(eqx.filter(state, _is_stored))
    }


def compare(kept: dict[str, str], wanted: dict[str, str], most: int = 6) -> list[str]:
    """The first `most` differences between two descriptions, in words."""
    places = [name for name in {**kept, **wanted} if kept.get(name) != wanted.get(name)]
    lines = [
        f"{written(name)} is {kept.get(name, 'absent')} there and {wanted.get(name, 'absent')} here" for name in places
    ]
    return lines[:most] + ([f"and {len(lines) - most} more differ"] if len(lines) > most else [])


def _complaint(number: int, error: Exception) -> str:
    reason = " ".join(str(error).split())
    return f"checkpoint {number} is damaged ({reason[:120]}{'…' if len(reason) > 120 else ''})"


def _is_stored(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array | np.ndarray)


def _arrays(state: PyTree) -> dict[str, np.ndarray]:
    leaves = jax.tree.leaves(eqx.filter(state, _is_stored))
    raw = [jax.random.key_data(leaf) if is_key(leaf) else leaf for leaf in leaves]
    return {f"{i:05d}": np.asarray(leaf) for i, leaf in enumerate(raw)}


def _in_form_of(like: PyTree, arrays: dict[str, np.ndarray]) -> PyTree:
    dynamic, static = eqx.partition(like, _is_stored)
    leaves, structure = jax.tree.flatten(dynamic)

    def form(leaf: Any, value: np.ndarray) -> Any:
        if is_key(leaf):
            return jax.random.wrap_key_data(jnp.asarray(value), impl=jax.random.key_impl(leaf))
        return jnp.asarray(value) if isinstance(leaf, jax.Array) else value

    formed = [form(leaf, value) for leaf, value in zip(leaves, arrays.values(), strict=True)]
    return eqx.combine(jax.tree.unflatten(structure, formed), static)
