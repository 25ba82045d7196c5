"""A recorded stream on its own clock: texts and labels merged by their timestamps."""

import heapq
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ValidationError
from pydantic.types import AwareDatetime

from connectors.topic import Message
from daemon.rows import RowsError, lines

#: Texts of one slice of the stream, at most: what a daemon that keeps up would find waiting.
SLICE_TEXTS = 64

#: Stream time of one slice, at most, in seconds: labels reach the controller this late at worst.
SLICE_SECONDS = 600.0


@dataclass(frozen=True)
class Slice:
    """What came in a short while: messages of the texts and of the labels topic, and the time at its end."""

    texts: list[Message]
    labels: list[Message]
    now: float


class _Moment(BaseModel):
    timestamp: AwareDatetime


def slices(texts: Path, labels: Path, *, texts_topic: str, labels_topic: str) -> Iterator[Slice]:
    """The recording cut into short slices, in order.

    Raises:
        RowsError: a file is missing or not what its name says, or none of its records has a time.
    """
    merged = heapq.merge(messages(texts, texts_topic), messages(labels, labels_topic), key=lambda m: m.timestamp)
    some_texts: list[Message] = []
    some_labels: list[Message] = []
    start: float | None = None
    now = 0.0
    for message in merged:
        over = start is not None and message.timestamp - start > SLICE_SECONDS
        if over or len(some_texts) >= SLICE_TEXTS:
            yield Slice(some_texts, some_labels, now)
            some_texts, some_labels, start = [], [], None
        start = message.timestamp if start is None else start
        now = message.timestamp
        (some_texts if message.topic == texts_topic else some_labels).append(message)
    if some_texts or some_labels:
        yield Slice(some_texts, some_labels, now)


def messages(path: Path, topic: str) -> Iterator[Message]:
    """Each line as a message at its record's time; one without a time, or out of order, comes when it stands."""
    latest = _first_time(path)
    for offset, line in enumerate(lines(path)):
        time = _time(line)
        latest = latest if time is None else max(latest, time)
        yield Message(topic, 0, offset, latest, None, line, {})


def _first_time(path: Path) -> float:
    """The time of the first record that has one; 0 when there is no record."""
    empty = True
    for line in lines(path):
        empty, time = False, _time(line)
        if time is not None:
            return time
    if empty:
        return 0.0
    raise RowsError(f"{path}: no record has a timestamp with a time zone, so none can be put on the stream's clock")


def _time(line: bytes) -> float | None:
    try:
        return _Moment.model_validate_json(line).timestamp.timestamp()
    except ValidationError:
        # The record is broken; whoever decodes it will say so.
        return None
