"""Commands on what a stranger gave: settings, wide networks, names of megabytes, files in the current folder."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import runs
from commands import error_of

from jaxgeo.app.data import read_table, table_task
from jaxgeo.app.runs.folder import RunFolder
from jaxgeo.app.runs.setup import has_spectrum
from jaxgeo.equations import Network

pytestmark = pytest.mark.usefixtures("bounds")


def test_rank_is_not_taken_of_a_matrix_that_is_too_large(tmp_path, capsys):
    x = np.random.default_rng(0).normal(size=(12_500, 3))
    np.savetxt(tmp_path / "t.csv", x, header="a,b,y", delimiter=",", comments="")
    config = dataclasses.replace(
        runs.CONFIG,
        problem=str(tmp_path / "t.csv"),
        target="y",
        samples=10_000,
        hidden=(1000,),
        flow="standard",
        drop=(),
    )
    folder = runs.write(tmp_path / "run")
    with RunFolder.open(folder.path):
        task = table_task(read_table(tmp_path / "t.csv"), "y", num_samples=10_000)
        folder.save_settings(config, task, (2, 1000, 1))
        folder.save_parameters(Network((2, 1000, 1), jnp.float64, key=jax.random.key(0)))
    message = error_of(capsys, ["rank", str(folder.path)])
    assert "D of the run in" in message
    assert "10000 × 4001 entries" in message


def test_a_spectrum_is_taken_of_what_fits():
    # By the singular values of D; by those of DDᵀ with few rows; by neither with many.
    assert has_spectrum(10_000, 1600)
    assert has_spectrum(1000, 30_000)
    assert not has_spectrum(10_000, 2000)
    assert not has_spectrum(1000, 30_001)
    assert not has_spectrum(1000, 1001, 1_000_000)
