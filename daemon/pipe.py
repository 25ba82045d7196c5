"""A bounded queue between two stages that both can end: the giver when it is done, anyone when something broke."""

import threading
from collections import deque
from typing import Generic, TypeVar

T = TypeVar("T")


class Pipe(Generic[T]):
    def __init__(self, size: int) -> None:
        self._size = size
        self._items: deque[T] = deque()
        self._finished = False
        self._broken = False
        self._changed = threading.Condition()

    def put(self, item: T) -> bool:
        """Hand on `item`, waiting for room; False when the pipe is broken and the item goes nowhere."""
        with self._changed:
            self._changed.wait_for(lambda: self._broken or len(self._items) < self._size)
            if self._broken:
                return False
            self._items.append(item)
            self._changed.notify_all()
            return True

    def get(self) -> T | None:
        """The next item, waiting for it; None when there will be none."""
        with self._changed:
            self._changed.wait_for(lambda: self._broken or self._items or self._finished)
            if self._broken or not self._items:
                return None
            item = self._items.popleft()
            self._changed.notify_all()
            return item

    def finish(self) -> None:
        """No more will be put; what is in the pipe can still be taken."""
        with self._changed:
            self._finished = True
            self._changed.notify_all()

    def break_off(self) -> None:
        """End at once: what is in the pipe is dropped, and whoever waits is released."""
        with self._changed:
            self._broken = True
            self._changed.notify_all()
