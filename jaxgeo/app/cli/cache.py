"""Compiled programs, saved from one command to the next in the user's cache folder."""

import hashlib
import os
import platform
import stat
from pathlib import Path
from typing import Any

import jax

# Limit for all programs together. The oldest are removed first, so that a forgotten folder does not grow.
MOST_BYTES = 2**30


def keep_programs() -> Path | None:
    """Let JAX save and reuse the programs that it compiles, unless another cache is set or the folder is not writable.

    Compilation takes most of the first seconds of a command; reading a program takes a tenth of that.

    **Returns:** the folder, or None if nothing is saved there.
    """
    # JAX declares its options during import, so type checkers do not see them.
    config: Any = jax.config
    if config.jax_compilation_cache_dir is not None or not config.jax_enable_compilation_cache:
        return None
    folder = programs_folder()
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _trim(folder, MOST_BYTES)
    except OSError:
        return None
    if not os.access(folder, os.W_OK) or not _is_ours(folder):
        return None
    config.update("jax_compilation_cache_dir", str(folder))
    config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    return folder


def _is_ours(folder: Path) -> bool:
    """Whether only this user can write there. This matters because JAX runs the programs that it finds."""
    if not hasattr(os, "getuid"):
        return True
    found = folder.stat()
    return found.st_uid == os.getuid() and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def programs_folder() -> Path:
    """The folder by the XDG convention, `$XDG_CACHE_HOME` or `~/.cache`, with a subfolder for each kind of processor.

    Machines that share a home folder may not be able to run each other's programs.
    """
    named = os.environ.get("XDG_CACHE_HOME", "")
    above = Path(named) if os.path.isabs(named) else Path.home() / ".cache"
    return above / "jaxgeo" / hashlib.sha256(_processor().encode()).hexdigest()[:12]


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    flags = (line for line in lines if line.startswith(("flags", "Features")))
    return f"{platform.machine()} {next(flags, platform.processor())}"


def _trim(folder: Path, most: int) -> None:
    """Remove the oldest files until the others take at most `most` bytes."""
    files = sorted((file.stat().st_mtime, file.stat().st_size, file) for file in folder.iterdir() if file.is_file())
    total = sum(size for _, size, _ in files)
    for _, size, file in files:
        if total <= most:
            break
        file.unlink(missing_ok=True)
        total -= size
