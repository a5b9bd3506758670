"""Ctrl-C that is heard at once, and lets the computation at hand finish."""

import threading
from collections.abc import Callable
from typing import Any


class Interruptible:
    """Runs computations so that Ctrl-C is noticed while compiled code runs.

    Python acts on Ctrl-C only between its own instructions, and a compiled integration is one instruction.
    So the computation runs on a thread of its own, and this one waits for it.

    - `on_interrupt`: called once when Ctrl-C is first pressed, such as to say so.
    - `interrupted`: whether Ctrl-C has been pressed.
    - `abandoned`: whether a second Ctrl-C left a computation running.
    """

    def __init__(self, on_interrupt: Callable[[], None]):
        self.on_interrupt = on_interrupt
        self.interrupted = False
        self.abandoned = False

    def run(self, function: Callable[[], Any]) -> Any:
        """`function()`, finished even if Ctrl-C is pressed once; `KeyboardInterrupt` at the second.

        ```python
        >>> from jaxgeo.fitting import Interruptible
        >>> Interruptible(lambda: None).run(lambda: 1 + 1)
        2

        ```
        """
        outcome: list[Any] = []
        errors: list[BaseException] = []
        done = threading.Event()

        def work() -> None:
            try:
                outcome.append(function())
            except BaseException as error:  # noqa: B036 - handed over to the waiting thread, which raises it
                errors.append(error)
            finally:
                done.set()

        threading.Thread(target=work, daemon=True).start()
        # Not `join`: in Python 3.11 one that Ctrl-C interrupts takes the thread for ended.
        while not done.is_set():
            try:
                done.wait(0.1)
            except KeyboardInterrupt:
                if self.interrupted:
                    self.abandoned = not done.is_set()
                    raise
                self.interrupted = True
                self.on_interrupt()
        if errors:
            raise errors[0]
        return outcome[0]
