"""Ctrl-C and SIGTERM end a run between two steps, with everything saved."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

_NOTICE = b"\nstopping: the current step is finished and saved; interrupt again to abort at once\n"


@dataclass
class StopRequest:
    """Whether a signal has asked the run to stop."""

    requested: bool = False


@contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Turns the first SIGINT or SIGTERM into a request, and the second into `KeyboardInterrupt`.

    Outside the main thread Python delivers no signals; the request is then never set.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return

    def handle(number: int, frame: FrameType | None) -> None:
        if request.requested:
            raise KeyboardInterrupt
        request.requested = True
        # Not print or logging: the signal may arrive in the middle of a buffered write, which cannot be entered twice.
        os.write(2, _NOTICE)

    previous = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield request
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
