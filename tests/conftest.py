"""For tests of the command line: a table in a separate folder and a short run on it. For hostile files: limits."""

import pytest

# A program of its own, which `test_input_matrix.py` runs; it has no examples to collect.
collect_ignore = ["input_matrix"]


@pytest.fixture
def home(tmp_path, monkeypatch):
    """The current folder, empty, and a wide terminal."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    return tmp_path


@pytest.fixture
def table(home):
    """The path of the table, in the current folder."""
    # What it loads is not for tests without a command line.
    from commands import write_table

    return write_table(home)


@pytest.fixture(scope="session")
def run_of_table(tmp_path_factory):
    """A run that was trained once."""
    from commands import train_once

    return train_once(tmp_path_factory.mktemp("kept"))


@pytest.fixture
def bounds():
    """Each within a minute and 2 GiB."""
    from limits import limited, restart

    with limited():
        restart(60)
        yield


@pytest.fixture
def trained(run_of_table, table):
    """A copy of it, beside the table."""
    from commands import copy_run

    return copy_run(run_of_table, table.parent)
