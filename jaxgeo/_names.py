"""Help with mistyped names, and show only the public names of a package or module."""

import difflib
from collections.abc import Sequence
from typing import Any

# Characters of names that are compared, which takes the square of their number in time.
MOST = 200


def did_you_mean(name: str, known: Sequence[str]) -> str:
    """'; did you mean "…"?' if a known name resembles `name`, and '.' otherwise.

    ```python
    >>> from jaxgeo._names import did_you_mean
    >>> did_you_mean("digit", ["digits"]), did_you_mean("xyz", ["digits"])
    ("; did you mean 'digits'?", '.')

    ```
    """
    lowered = {each.lower(): each for each in known if len(each) <= MOST}
    close = difflib.get_close_matches(name.lower(), lowered, n=1, cutoff=0.5) if len(name) <= MOST else []
    return f"; did you mean {lowered[close[0]]!r}?" if close else "."


def show_public_names(namespace: dict[str, Any], *modules: str, within: str = "") -> None:
    """Let `dir` of a package or module show what it defines or re-exports, but not what it imports for its own use.

    **Arguments:**

    - `namespace`: its `globals()`.
    - `modules`: its public modules.
    - `within`: the package whose names it shows; by default its own.
    """

    def names() -> list[str]:
        own = within or namespace["__name__"]
        return sorted(
            name
            for name, value in namespace.items()
            if name in modules or not name.startswith("_") and str(getattr(value, "__module__", "")).startswith(own)
        )

    namespace["__dir__"] = names
