"""Random networks: G without D against D Dᵀ, and the route by which each leaf's part of G is computed.

The networks are those of `cases/networks`, by number; `python -m benchmarks.random_networks` runs 5000, a thousand in
each case. For every fourth network it also compares the diagonal, which is computed without the rest.
"""

import collections
import functools
from collections.abc import Iterator
from typing import Any

import jax

from benchmarks.harness import Case, environment, failure, run_cases
from cases.networks import compare, numbered

LARGEST_ERROR = 1e-10
ROUTES = ("factored", "materialised", "vjp")


def networks(numbers: range) -> Iterator[dict[str, Any]]:
    """How many networks are wrong and how many raise, with their numbers, and how many leaves take each route."""
    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_disable_most_optimizations", True)
    before = environment()
    counts: collections.Counter[str] = collections.Counter()
    wrong: dict[str, float] = {}
    raised: dict[str, str] = {}
    largest = 0.0
    for done, number in enumerate(numbers, start=1):
        problem, params = numbered(number).run()
        try:
            found = compare(problem, params, diagonal=number % 4 == 0)
        # A failure of any kind is a result.
        except Exception as error:
            raised[str(number)] = failure(error)["failed"]
        else:
            counts.update(found.routes.values())
            counts["without derivative"] += found.scale == 0.0
            if found.error <= LARGEST_ERROR:
                largest = max(largest, found.error)
            else:
                wrong[str(number)] = found.error
        if done % 50 == 0 or done == len(numbers):
            # The next network cannot use these compiled programs.
            jax.clear_caches()
            leaves = sum(counts[route] for route in ROUTES)
            yield before | {
                "networks": done,
                "wrong": wrong,
                "raised": raised,
                "largest_error_of_the_others": largest,
                "without_derivative": counts["without derivative"],
                "leaves": leaves,
                "share_of_leaves": {route: counts[route] / max(leaves, 1) for route in ROUTES},
            }


CASES = {
    f"{start}-{start + 999}": Case(functools.partial(networks, range(start, start + 1000)), 14400.0)
    for start in range(0, 5000, 1000)
}
QUICK = {"0-99": Case(functools.partial(networks, range(100)))}


if __name__ == "__main__":
    run_cases("random_networks", CASES, QUICK)
