"""Notice Ctrl-C at once, and let the current computation finish."""

import threading
from collections.abc import Callable
from typing import Any


class Interruptible:
    """Runs computations so that Ctrl-C is noticed while compiled code runs.

    Python handles Ctrl-C only between its own instructions, and a compiled integration is a single instruction. So the
    computation runs on a separate thread, and the calling thread waits for it.

    - `on_interrupt`: called once when Ctrl-C is first pressed, for example to print a message.
    - `interrupted`: whether Ctrl-C has been pressed.
    - `abandoned`: whether a second Ctrl-C left a computation running.
    """

    def __init__(self, on_interrupt: Callable[[], None]):
        self.on_interrupt = on_interrupt
        self.interrupted = False
        self.abandoned = False

    def run(self, function: Callable[[], Any]) -> Any:
        """Call `function()`, and finish it even if Ctrl-C is pressed once; a second raises `KeyboardInterrupt`.

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
        # Do not use `join`: in Python 3.11, when Ctrl-C interrupts it, it assumes that the thread has ended.
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
