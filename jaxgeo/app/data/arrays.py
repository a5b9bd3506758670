"""Read arrays in NumPy's format; memory is allocated only for bytes that the file has."""

import math
from typing import Any

import numpy as np

OBJECTS = (
    "it holds Python objects, and reading those may run a stranger's program; save plain arrays of numbers or text"
)


def read_array(file: Any, left: int) -> np.ndarray:
    """The next array of an open file in which at most `left` bytes remain.

    **Raises:** `ValueError` without a header, if the header announces Python objects, or if fewer bytes follow than it
    announces.
    """
    before = file.tell()
    try:
        version = np.lib.format.read_magic(file)
        header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = header(file)
    except Exception as error:  # NumPy reads a header as Python, and raises whatever that does.
        raise ValueError(f"it does not hold arrays: {' '.join(str(error).split())[:80]}") from None
    if dtype.hasobject:
        raise ValueError(OBJECTS)
    size = math.prod(shape) * dtype.itemsize
    if dtype.itemsize == 0 or min(shape, default=0) < 0 or not 0 <= size <= left - (file.tell() - before):
        raise ValueError(f"it is cut off: an array of shape {str(shape)[:60]} and {dtype} does not fit into it")
    content = file.read(size)
    if len(content) < size:
        raise ValueError("it is cut off")
    return np.frombuffer(content, dtype).reshape(shape, order="F" if fortran else "C")
