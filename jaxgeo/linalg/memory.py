"""How much memory the device has or, on a CPU, the machine."""

import os
from typing import Any

import equinox as eqx
import jax
from jaxtyping import PyTree

from jaxgeo._checks import check_count

# Used if neither the device nor the system tells.
UNKNOWN = 8 * 2**30


def check_memory(memory: Any) -> None:
    """Raise `ValueError` unless `memory` is None or a number of bytes."""
    if memory is not None:
        check_count("memory", memory)


def array_bytes(tree: PyTree) -> int:
    """Bytes of all arrays of a pytree together."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(eqx.filter(tree, eqx.is_array)))


def total_memory() -> int:
    """Memory in bytes of the default device if it tells, else of the machine."""
    stats = jax.local_devices()[0].memory_stats()
    if stats is not None and "bytes_limit" in stats:
        return stats["bytes_limit"]
    return _pages("SC_PHYS_PAGES")


def free_memory() -> int:
    """Free memory in bytes on the default device if it tells, else on the machine."""
    stats = jax.local_devices()[0].memory_stats()
    if stats is not None and "bytes_limit" in stats:
        return stats["bytes_limit"] - stats["bytes_in_use"]
    return _pages("SC_AVPHYS_PAGES")


def _pages(name: str) -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf(name)
    except (ValueError, OSError, AttributeError):
        return UNKNOWN
