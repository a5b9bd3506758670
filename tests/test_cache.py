"""Compiled programs are saved for the next command, in the user's cache folder and nowhere else."""

import os
import subprocess
import sys

import jax
import pytest
from commands import TRAIN, own_environment, write_table

from jaxgeo.app.cli import cache
from jaxgeo.app.cli.app import run


@pytest.fixture
def undecided(tmp_path, monkeypatch):
    """JAX as it is where nobody has named a folder."""
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: getattr(jax.config, name) for name in names}
    jax.config.update("jax_compilation_cache_dir", None)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    yield tmp_path
    for name, value in before.items():
        jax.config.update(name, value)


def test_programs_are_kept_in_the_cache_folder_of_the_user(undecided):
    folder = cache.keep_programs()
    assert folder is not None
    assert folder.parent == undecided / "jaxgeo"
    assert folder.is_dir()
    assert jax.config.jax_compilation_cache_dir == str(folder)
    # Now a folder is named.
    assert cache.keep_programs() is None


def test_a_relative_folder_does_not_count(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "here")
    monkeypatch.setenv("HOME", "/home/somebody")
    assert str(cache.programs_folder()).startswith("/home/somebody/.cache/jaxgeo/")


def test_an_option_switches_it_off(undecided, capsys):
    assert run(["--no-cache", "info"]) == 0
    assert jax.config.jax_compilation_cache_dir is None
    assert run(["info"]) == 0
    assert jax.config.jax_compilation_cache_dir is not None
    capsys.readouterr()


def test_where_no_folder_can_be_made_nothing_is_kept(undecided):
    (undecided / "jaxgeo").write_text("a file")
    assert cache.keep_programs() is None
    assert jax.config.jax_compilation_cache_dir is None


def test_the_oldest_programs_are_removed(undecided, monkeypatch):
    folder = cache.programs_folder()
    folder.mkdir(parents=True)
    for age, name in enumerate(("new", "old", "oldest")):
        (folder / name).write_bytes(bytes(10))
        os.utime(folder / name, (1e9 - age, 1e9 - age))
    monkeypatch.setattr(cache, "MOST_BYTES", 20)
    assert cache.keep_programs() == folder
    assert sorted(file.name for file in folder.iterdir()) == ["new", "old"]


@pytest.mark.slow
def test_a_second_command_compiles_nothing_anew(tmp_path):
    table = write_table(tmp_path)
    environment = own_environment(XDG_CACHE_HOME=str(tmp_path / "cache"))

    def programs(name):
        command = [sys.executable, "-m", "jaxgeo", "train", str(table), *TRAIN, "--out", str(tmp_path / name)]
        ended = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
        assert ended.stderr == ""
        return {file.name for file in (tmp_path / "cache").rglob("*-cache")}

    first = programs("one")
    assert first
    assert programs("two") == first
