"""Building blocks of Markdown tables."""

from typing import Any


def table(header: list[str], rows: list[list[str]]) -> str:
    """A table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def environment(result: dict[str, Any]) -> str:
    """One line on where a result was measured."""
    where = result["environment"]
    blas = ", one BLAS thread" if where.get("OPENBLAS_NUM_THREADS") == "1" else ""
    return f"{where['device']}, {where['cores']} cores{blas}, JAX {where['versions']['jax']}, Python {where['python']}."


def number(value: float) -> str:
    """Three digits, or all digits before the decimal point."""
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"


def reason(row: dict[str, Any]) -> str:
    """Why there is no measurement, short enough for a cell."""
    first = row["failed"].splitlines()[0]
    return first if len(first) <= 80 else first[:79] + "…"
