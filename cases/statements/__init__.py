"""Every numbered statement of arXiv:2311.15487, and how to measure how far numbers are from it.

Each module has the statements of its sections, in the order of the source.
"""

from cases.statements import (
    borderline,
    bundle,
    comparison,
    equilibria,
    introduction,
    overparametrized,
    rank_loss,
    underparametrized,
)
from cases.statements.base import Statement as Statement

PARTS = (introduction, overparametrized, bundle, comparison, rank_loss, equilibria, underparametrized, borderline)
STATEMENTS: list[Statement] = [statement for part in PARTS for statement in part.STATEMENTS]
