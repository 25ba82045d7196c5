"""What was read ahead of one partition."""

from collections import deque

from connectors.topic import Message


class Shelf:
    """Runs of messages, each with the position after it; `messages` and `bytes` of values say how much that is."""

    def __init__(self) -> None:
        self.position = 0
        self.messages = 0
        self.bytes = 0
        self._end: int | None = None
        self._runs: deque[tuple[list[Message], int]] = deque()

    def add(self, messages: list[Message], end: int) -> None:
        if self._end is None:
            self.position = messages[0].offset if messages else end
        if messages or end != self._end:
            self._runs.append((messages, end))
            self.messages += len(messages)
            self.bytes += sum(len(message.value) for message in messages)
            self._end = end

    def take(self, into: list[Message], most: int) -> None:
        """Move messages on to `into` until it holds `most`, and markers behind them."""
        while self._runs and len(self._runs[0][0]) <= most - len(into):
            messages, end = self._runs.popleft()
            self._hand(messages, end, into)
        if self._runs and (room := most - len(into)) > 0:
            messages, end = self._runs[0]
            self._runs[0] = messages[room:], end
            self._hand(messages[:room], messages[room - 1].offset + 1, into)

    def _hand(self, messages: list[Message], end: int, into: list[Message]) -> None:
        into += messages
        self.position = end
        self.messages -= len(messages)
        self.bytes -= sum(len(message.value) for message in messages)
