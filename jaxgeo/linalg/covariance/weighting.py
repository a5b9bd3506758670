"""Weight the rows of D: by a number for each row, or a matrix for each sample."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float


@dataclass(frozen=True)
class RowRoot:
    """L with LᵀL = W, the weights of the rows of D, in float64 on the host.

    - `scale`: a number for each row, for a diagonal W; None if `blocks` is given.
    - `blocks`: a matrix for each sample.
    """

    scale: Float[np.ndarray, " QN"] | None
    blocks: Float[np.ndarray, "N R Q"] | None = None

    @property
    def num_rows(self) -> int:
        """The number of rows of LD."""
        if self.blocks is None:
            assert self.scale is not None
            return self.scale.size
        return self.blocks.shape[0] * self.blocks.shape[1]

    def __call__(self, rows: Float[np.ndarray, "rows m"], start: int = 0) -> Float[np.ndarray, "kept m"]:
        """L times some rows of a matrix, from row `start` on; the rows must belong to whole samples."""
        if self.blocks is None:
            assert self.scale is not None
            return rows * self.scale[start : start + len(rows), None]
        outputs = self.blocks.shape[2]
        first, count = start // outputs, len(rows) // outputs
        product = self.blocks[first : first + count] @ rows.reshape(count, outputs, -1)
        return product.reshape(-1, rows.shape[1])

    def transposed(self, rows: Float[np.ndarray, "m kept"]) -> Float[np.ndarray, "m QN"]:
        """A matrix times L."""
        if self.blocks is None:
            assert self.scale is not None
            return rows * self.scale
        count, height, _ = self.blocks.shape
        return np.einsum("mnr,nrq->mnq", rows.reshape(-1, count, height), self.blocks).reshape(len(rows), -1)

    def both_sides(self, gram: Float[np.ndarray, "QN QN"]) -> Float[np.ndarray, "kept kept"]:
        """LGLᵀ."""
        return self(self(gram).T).T
