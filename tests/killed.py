"""Commands of `jaxgeo` to be killed, forked from a process that has loaded everything they need but used none of it."""

import multiprocessing
import os
import sys
import time

import jax

import jaxgeo.app.report.page as page
from jaxgeo.app.cli.app import run
from jaxgeo.app.runs import training
from jaxgeo.fitting.keeper import Keeper

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["jaxgeo.app.cli.app", "jaxgeo.app.report.page", "orbax.checkpoint", "pandas"])


class Command:
    """A command in a process of its own, which tells where it is, and writes what it says into a file.

    - `waits`: repeat it until it is not refused any more.
    """

    def __init__(self, home, *arguments, waits=False):
        self.output = home / f"output {time.monotonic_ns()}"
        self.moments, there = PROCESSES.Pipe(duplex=False)
        self.process = PROCESSES.Process(target=_command, args=(home, self.output, there, arguments, waits))
        self.process.start()
        there.close()

    def wait_for(self, moment, times=1):
        """Return as soon as it has been at that moment so many times; False if it ends before."""
        try:
            while times > 0:
                times -= self.moments.recv() == moment
        except EOFError:
            return False
        return True

    def kill(self):
        self.process.kill()
        self.process.join()
        self.moments.close()

    def end(self):
        """How often it was at each moment, from now on."""
        counts = {}
        try:
            while True:
                moment = self.moments.recv()
                counts[moment] = counts.get(moment, 0) + 1
        except EOFError:
            self.moments.close()
        self.process.join()
        told = self.output.read_text()
        assert self.process.exitcode == 0, told[-2000:]
        assert "Traceback" not in told
        return counts


def _command(home, output, moments, arguments, waits):
    os.chdir(home)
    descriptor = os.open(output, os.O_WRONLY | os.O_CREAT)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    # All commands keep their compiled programs in one place, whose writing is cut off by the kills too.
    os.environ["XDG_CACHE_HOME"] = str(home / "cache")
    jax.config.update("jax_compilation_cache_dir", None)
    for owner, name, moment in (
        (training._KeepParameters, "__call__", "training"),
        (Keeper, "save", "checkpointing"),
        (Keeper, "restore", "resuming"),
        (page, "write_report", "reporting"),
    ):
        setattr(owner, name, _telling(getattr(owner, name), moments, moment))
    # One of the figures, which take most of a second.
    page.FIGURES = {"cost": page.FIGURES["cost"]}
    if waits:
        moments.send("waiting")
    while (code := run(list(arguments))) == 2 and waits:
        time.sleep(0.01)
    sys.exit(code)


def _telling(function, moments, moment):
    def call(*args, **options):
        moments.send(moment)
        return function(*args, **options)

    return call
