"""Alerts on relearnd itself, on their way from the threads that notice to the scorer's next write."""

import threading

from daemon.records import Alert


class Notices:
    """Threads may share it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: list[Alert] = []

    def add(self, *alerts: Alert) -> None:
        with self._lock:
            self._waiting += alerts

    def waiting(self) -> list[Alert]:
        """Oldest first; they stay until they are `sent`."""
        with self._lock:
            return list(self._waiting)

    def sent(self, count: int) -> None:
        """The `count` oldest are out."""
        with self._lock:
            del self._waiting[:count]
