"""Help with mistyped names."""

import difflib
from collections.abc import Sequence


def did_you_mean(name: str, known: Sequence[str]) -> str:
    """'; did you mean "…"?' where a known name resembles `name`, and '.' otherwise.

    ```python
    >>> from jaxgeo._names import did_you_mean
    >>> did_you_mean("digit", ["digits"]), did_you_mean("xyz", ["digits"])
    ("; did you mean 'digits'?", '.')

    ```
    """
    lowered = {each.lower(): each for each in known}
    close = difflib.get_close_matches(name.lower(), lowered, n=1, cutoff=0.5)
    return f"; did you mean {lowered[close[0]]!r}?" if close else "."
