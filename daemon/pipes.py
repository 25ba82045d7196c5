"""`relearnd send` and `relearnd tail`: a topic from and to a file, a pipe or a terminal."""

import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator
from heapq import merge
from io import BufferedIOBase
from itertools import chain
from pathlib import Path
from typing import cast

from connectors.topic import ConnectorError, Message, Outgoing, Partition, Reader
from daemon.config import Config
from daemon.connect import open_connector
from daemon.rows import lines

#: Lines written together when there is no rate: one transaction.
BATCH = 1_000

#: Bytes taken from standard input at once, at most.
CHUNK = 1 << 20

#: Messages read at once.
READ = 1_000

#: How long a read waits for messages, in seconds.
WAIT = 1.0

#: A topic that is silent for this long before its end is not well, in seconds: another broker takes over sooner.
SILENCE = 60.0

#: With a rate, lines are sent this often, in seconds: finer than a person sees, coarser than a write.
TICK = 0.05


def send_lines(config: Config, topic: str, file: Path | None, rate: float) -> int:
    """Write each line to `topic` as it stands, `rate` a second (0: as fast as it goes); returns how many."""
    # The cast: `buffer` is typed as the least it may be, which has no `read1`; what Python makes it has.
    batches = _batches(lines(file), BATCH) if file else _arriving(cast(BufferedIOBase, sys.stdin.buffer))
    if rate:
        batches = _batches(chain.from_iterable(batches), max(1, round(rate * TICK)))
    connector = open_connector(config)
    sent, started = 0, time.monotonic()
    with connector.writer() as writer:
        for batch in batches:
            writer.write([Outgoing(topic, line) for line in batch])
            sent += len(batch)
            if rate:
                time.sleep(max(0.0, started + sent / rate - time.monotonic()))
    connector.close()
    return sent


def _arriving(stream: BufferedIOBase) -> Iterator[list[bytes]]:
    """Whole lines as soon as they are there: what writes into a pipe may pause for long between two."""
    rest = b""
    while chunk := stream.read1(CHUNK):
        *whole, rest = (rest + chunk).split(b"\n")
        if batch := [line.rstrip(b"\r") for line in whole if line.strip()]:
            yield batch
    if rest.strip():
        yield [rest.rstrip(b"\r")]


def _batches(source: Iterable[bytes], size: int) -> Iterator[list[bytes]]:
    batch: list[bytes] = []
    for line in source:
        batch.append(line)
        if len(batch) >= size:
            yield batch
            batch = []
    if batch:
        yield batch


def tail_lines(config: Config, topic: str, count: int, follow: bool) -> Iterator[str]:
    """The last `count` records of `topic` (0: all), then, if asked to follow, each that comes."""
    connector = open_connector(config)
    with connector.reader([topic]) as reader:
        # A position in a file of lines must be the start of one, and only reading on tells where those are.
        step = 2 * count if config.connector.kind != "jsonl" else 0
        for messages in (_last(reader, count, step),) if count else up_to_now(reader):
            yield from map(_line, messages)
        while follow:
            yield from map(_line, reader.poll(READ, WAIT))
    connector.close()


def up_to_now(reader: Reader) -> Iterator[list[Message]]:
    """All messages from where `reader` is to the present end, in batches.

    Raises:
        ConnectorError: nothing comes although there is more.
    """
    end, heard = reader.end(), time.monotonic()
    while behind := [p for p, offset in end.items() if reader.positions().get(p, 0) < offset]:
        messages = reader.poll(READ, WAIT)
        if messages:
            heard = time.monotonic()
            yield messages
        elif time.monotonic() - heard > SILENCE:
            raise ConnectorError(
                f"topic {behind[0].topic!r} ends at offset {end[behind[0]]}, but nothing has come for {SILENCE:g} s; "
                "look whether its brokers are well, or whether the last line of its file has no end"
            )


def _last(reader: Reader, count: int, step: int) -> list[Message]:
    """The last `count` messages, the newest last, of all the partitions together.

    Looks `step` offsets before each partition's end, and further if that was too little: offsets may have holes. A
    `step` of 0 reads everything.
    """
    start, end = reader.positions(), reader.end()
    while True:
        since = {p: max(start.get(p, 0), end[p] - step) for p in end} if step else start
        reader.seek(since)
        kept: dict[Partition, deque[Message]] = {partition: deque(maxlen=count) for partition in end}
        for message in chain.from_iterable(up_to_now(reader)):
            kept[Partition(message.topic, message.partition)].append(message)
        if all(len(kept[p]) == count or since.get(p, 0) <= start.get(p, 0) for p in end):
            return list(merge(*kept.values(), key=lambda message: message.timestamp))[-count:]
        step *= 8


def _line(message: Message) -> str:
    return message.value.decode("utf-8", "replace")
