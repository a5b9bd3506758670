"""Networks that are weighted by their evidence, in a folder from elsewhere."""

import io
import json
import warnings

import numpy as np
import pytest
from damages import forge

from jaxgeo.app.cli.app import run
from jaxgeo.app.runs import load
from jaxgeo.app.runs.networks import NAME


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    home = tmp_path_factory.mktemp("kept")
    rng = np.random.default_rng(0)
    lines = [f"{a:.4f},{b:.4f},{a - b:.4f}" for a, b in rng.normal(size=(30, 2))]
    (home / "t.csv").write_text("\n".join(["a,b,y", *lines]) + "\n")
    table = ["train", str(home / "t.csv"), "--target", "y"]
    assert run([*table, "--max-steps", "3", "--samples", "24", "--out", str(home / "run")]) == 0
    return home / "run"


def test_a_changed_file_is_refused_or_predicts_finite_numbers(kept, tmp_path):
    """Every second one with a digest that agrees, as a stranger can make it."""
    content = (kept / NAME).read_bytes()
    rng, refused = np.random.default_rng(0), 0
    for number in range(60):
        changed = bytearray(content)
        for _ in range(rng.integers(1, 4)):
            changed[rng.integers(len(changed))] ^= 1 << rng.integers(8)
        if number % 5 == 0:
            changed = changed[: rng.integers(len(changed))]
        folder = tmp_path / str(number)
        folder.mkdir()
        for path in kept.iterdir():
            if path.is_file():
                (folder / path.name).write_bytes(path.read_bytes())
        (folder / NAME).write_bytes(changed)
        if number % 2:
            forge(folder, NAME)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found = load(folder).predict(np.array([[1.0, 2.0], [0.0, -1.0]]), return_std=True)
            assert number % 2
            assert np.isfinite(found).all()
        except ValueError:
            refused += 1
    assert refused >= 30


@pytest.mark.parametrize(
    ("name", "value", "part"),
    [
        ("networks", [], "0 networks"),
        ("rounds", -1, "counts"),
        ("stopped", "soon", "facts"),
        ("sharpness", 3.0, "facts"),
        ("tol", None, "facts"),
        ("data", 1, "data must be text"),
    ],
)
def test_facts_that_no_training_has_are_refused(kept, tmp_path, name, value, part):
    changed(kept, tmp_path, lambda facts: facts | {name: value})
    with pytest.raises(ValueError, match=part):
        load(tmp_path / "run")


@pytest.mark.parametrize(
    ("name", "value", "part"),
    [
        ("widths", [2**60], "in place of"),
        ("widths", [1] * 200, "widths"),
        ("widths", [0], "widths"),
        ("updates", 2**70, "counts"),
        ("is_asked", False, "in place of|lacks"),
    ],
)
def test_networks_that_cannot_be_meant_are_refused(kept, tmp_path, name, value, part):
    changed(kept, tmp_path, lambda facts: facts | {"networks": [each | {name: value} for each in facts["networks"]]})
    with pytest.raises(ValueError, match=part):
        load(tmp_path / "run")


def changed(kept, tmp_path, change):
    """A copy of the run with other facts, and digests that agree."""
    folder = tmp_path / "run"
    folder.mkdir()
    for path in kept.iterdir():
        if path.is_file():
            (folder / path.name).write_bytes(path.read_bytes())
    file = io.BytesIO((kept / NAME).read_bytes())
    facts = json.loads(np.load(file).tobytes())
    rest = file.read()
    out = io.BytesIO()
    np.save(out, np.frombuffer(json.dumps(change(facts)).encode(), np.uint8))
    (folder / NAME).write_bytes(out.getvalue() + rest)
    forge(folder, NAME)
