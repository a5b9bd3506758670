"""The examples of the page on flows as ODEs give what it says."""

import doctest
from pathlib import Path

import pytest


@pytest.mark.slow
def test_examples():
    failed, attempted = doctest.testfile(str(Path(__file__).parents[1] / "docs" / "ode.md"), module_relative=False)
    assert attempted > 15
    assert failed == 0
