"""`relearnd send` and `relearnd tail`: a topic from and to a file, a pipe or a terminal."""

import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator
from io import BufferedIOBase
from itertools import chain
from pathlib import Path
from typing import cast

from connectors.topic import Outgoing
from daemon.config import Config
from daemon.connect import open_connector
from daemon.rows import lines

#: Lines written together when there is no rate: one transaction.
BATCH = 1_000

#: Bytes taken from standard input at once, at most.
CHUNK = 1 << 20

#: Messages read at once.
READ = 1_000

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
        end = reader.end()
        kept: deque[bytes] = deque(maxlen=count or None)
        while any(reader.positions().get(partition, 0) < offset for partition, offset in end.items()):
            kept.extend(message.value for message in reader.poll(READ, 0.0))
        yield from (value.decode("utf-8", "replace") for value in kept)
        while follow:
            yield from (message.value.decode("utf-8", "replace") for message in reader.poll(READ, 1.0))
    connector.close()
