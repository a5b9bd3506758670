"""Limits on the time and the memory of a test."""

import contextlib
import resource
import signal
from pathlib import Path

MIB, GIB = 2**20, 2**30


class Hangs(BaseException):
    pass


def _ring(*_):
    raise Hangs


@contextlib.contextmanager
def limited(memory=2 * GIB):
    """At most so many bytes more than there are; `restart` sets the bound on the time."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    signals = (signal.SIGALRM, signal.SIGPROF)
    heard = [signal.signal(number, _ring) for number in signals]
    resource.setrlimit(resource.RLIMIT_AS, (held + memory, before[1]))
    try:
        yield
    finally:
        restart(0)
        for number, handler in zip(signals, heard, strict=True):
            signal.signal(number, handler)
        resource.setrlimit(resource.RLIMIT_AS, before)


def check_line(error):
    """What a user is told is one line."""
    assert 0 < len(str(error).strip()) < 1000
    assert "\n" not in str(error)


def restart(seconds):
    """From now on so many seconds of the processor, or ten times as many of the clock, raise `Hangs`; 0 none.

    Other processes may have most of the processor.
    """
    signal.setitimer(signal.ITIMER_PROF, seconds)
    signal.setitimer(signal.ITIMER_REAL, 10 * seconds)
