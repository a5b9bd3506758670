"""Handwritten digits, 8 × 8 pixels: 1797 samples that come with scikit-learn."""

from typing import Any

import numpy as np

from jaxgeo._checks import check_count
from jaxgeo.app.data.encoder import Encoder
from jaxgeo.app.data.task import Kind, Task
from jaxgeo.fitting.scaling import Scaling


def digits(num_samples: int = 100, seed: int = 0) -> Task:
    """Digits: `num_samples` to train on, and all others held out.

    **Arguments:**

    - `num_samples`: N, from 10 to 1787.
    - `seed`: seed of the random split.

    **Raises:** `ValueError` if the number of samples is out of range; `ModuleNotFoundError` without scikit-learn.

    ```python
    >>> from jaxgeo.app.data import digits
    >>> task = digits(100)
    >>> task.train_inputs.shape, task.train_targets.shape, task.test_inputs.shape
    ((100, 64), (100, 10), (1697, 64))

    ```
    """
    from sklearn.datasets import load_digits

    data: Any = load_digits()
    total = len(data.data)
    check_count("num_samples", num_samples)
    if not 10 <= num_samples <= total - 10:
        raise ValueError(
            f"the number of samples must lie in [10, {total - 10}], so that some are held out; got {num_samples}."
        )
    order = np.random.default_rng(seed).permutation(total)
    train, test = order[:num_samples], order[num_samples:]
    # All pixels are 0 … 16, so one scale for all keeps them comparable.
    names = tuple(f"pixel {row},{column}" for row in range(8) for column in range(8))
    inputs = Scaling(names, np.zeros(64), np.full(64, 16.0))
    targets = np.eye(10)[data.target]
    return Task(
        name="digits",
        source="scikit-learn's digits: 1797 handwritten digits of 8 × 8 pixels",
        kind=Kind.CLASSIFICATION,
        train_inputs=inputs.apply(data.data[train]),
        train_targets=targets[train],
        test_inputs=inputs.apply(data.data[test]),
        test_targets=targets[test],
        test_rows=tuple(test.tolist()),
        inputs=inputs,
        outputs=Scaling.identity(tuple(str(digit) for digit in range(10))),
        encoder=Encoder.of_numbers(names),
    )
