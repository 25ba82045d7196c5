"""When to try again what failed: soon at first, then less and less often."""

import time
from collections.abc import Callable


class Backoff:
    """Waits of `first` seconds, doubled after each failure in a row, `last` seconds at most.

    >>> now = 0.0
    >>> backoff = Backoff(first=1.0, last=60.0, clock=lambda: now)
    >>> backoff.is_over(), backoff.failed(), backoff.is_over()
    (True, 1.0, False)
    >>> now = 1.0
    >>> backoff.is_over(), backoff.failed(), backoff.failures
    (True, 2.0, 2)
    """

    def __init__(self, *, first: float, last: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._first = first
        self._last = last
        self._clock = clock
        self.reset()

    def reset(self) -> None:
        """Something else is tried, or it worked: the next try may come at once."""
        self.failures = 0
        self._until = float("-inf")

    def failed(self) -> float:
        """Note a failure; returns how many seconds to wait."""
        wait = min(self._last, self._first * 2.0 ** min(self.failures, 60))
        self.failures += 1
        self._until = self._clock() + wait
        return wait

    def is_over(self) -> bool:
        return self._clock() >= self._until
