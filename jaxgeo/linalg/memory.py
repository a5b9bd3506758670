"""How much memory the device, or on a CPU the machine, has."""

import os
from typing import Any

import jax

from jaxgeo._checks import check_count

# Where neither the device nor the system tells.
UNKNOWN = 8 * 2**30


def check_memory(memory: Any) -> None:
    """`ValueError` if `memory` is neither None nor a number of bytes."""
    if memory is not None:
        check_count("memory", memory)


def total_memory() -> int:
    """Bytes of the default device where it tells, else of the machine."""
    stats = jax.local_devices()[0].memory_stats()
    if stats is not None and "bytes_limit" in stats:
        return stats["bytes_limit"]
    return _pages("SC_PHYS_PAGES")


def free_memory() -> int:
    """Bytes free on the default device where it tells, else on the machine."""
    stats = jax.local_devices()[0].memory_stats()
    if stats is not None and "bytes_limit" in stats:
        return stats["bytes_limit"] - stats["bytes_in_use"]
    return _pages("SC_AVPHYS_PAGES")


def _pages(name: str) -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf(name)
    except (ValueError, OSError, AttributeError):
        return UNKNOWN
