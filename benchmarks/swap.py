"""Swap the model under a steady load, and see what the swap costs the batches that are scored meanwhile.

    python -m benchmarks.swap --rate 50 --swaps 3

For each swap it prints the slowest batch of the minute before and the slowest from the announcement until ten seconds
after the new version has scored its first text: the second should not exceed the first. A batch's time is from its
being read to its being committed. The last line, and the exit status, say whether it did, and whether any text was
lost, doubled or scored out of order.
"""

import argparse
import itertools
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from connectors.local import LocalConnector
from connectors.topic import Message, Outgoing, Reader
from daemon.config import Config
from daemon.demo.grammar import generate
from daemon.metrics import Metrics
from daemon.records import ModelAnnouncement, Score, Text, encode
from daemon.registry import Manifest, Registry
from daemon.scorer import Prepared, Scorer
from daemon.swap import Swapper
from learners.model import create

LABELS = ["negative", "neutral", "positive"]

#: Seconds of steady load before each swap, and watched after it.
BEFORE, AFTER = 60.0, 10.0


class Timed(Scorer):
    """A scorer that notes when each batch was committed and how long it took, in seconds."""

    def __init__(self, connector: LocalConnector, swapper: Swapper, config: Config, metrics: Metrics) -> None:
        super().__init__(connector, swapper, config, metrics)
        self.batches: list[tuple[float, float, str]] = []

    def _measure(self, batch: Prepared) -> None:
        super()._measure(batch)
        now = time.perf_counter()
        self.batches.append((now, now - batch.read_at, batch.engine.version))


def make_versions(registry: Registry, count: int, scratch: Path) -> list[Manifest]:
    """Versions with the shipped encoder; what they say does not matter here."""
    made = []
    for number in range(1, count + 1):
        create("minilm", LABELS, 128, number).save(scratch / str(number))
        made.append(
            registry.add(
                scratch / str(number),
                version=f"v{number}",
                parent=None,
                created_at=datetime.now(UTC),
                job=f"bench-{number}",
                trigger="manual",
                method="finetune",
                labels=LABELS,
                data_sha256="",
                seed=number,
                decision={},
            )
        )
    return made


@contextmanager
def steady(connector: LocalConnector, topic: str, rate: float) -> Iterator[Iterator[int]]:
    """Texts at `rate` a second, one at a time; yields the counter of those sent."""
    words = [text.text for text in generate(0).texts]
    numbers = itertools.count()
    over = threading.Event()

    def send() -> None:
        started = time.monotonic()
        with connector.writer() as writer:
            while not over.is_set():
                number = next(numbers)
                text = Text(id=f"t{number}", text=words[number % len(words)], timestamp=datetime.now(UTC))
                writer.write([Outgoing(topic, encode(text))])
                over.wait(max(0.0, started + (number + 1) / rate - time.monotonic()))

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield numbers
    finally:
        over.set()
        thread.join()


def measure(home: Path, rate: float, swaps: int, before: float) -> bool:
    config = Config(home=home)
    registry = Registry(home / "models")
    versions = make_versions(registry, swaps + 1, home / "scratch")
    connector = LocalConnector(home / "topics.db")
    metrics = Metrics("bench")
    swapper = Swapper(connector.reader([config.topics.models]), registry, config, metrics)
    scorer = Timed(connector, swapper, config, metrics)
    stop = threading.Event()
    threads = [threading.Thread(target=work, args=(stop,)) for work in (swapper.run, scorer.run)]
    for thread in threads:
        thread.start()
    kept = True
    with connector.writer() as writer, steady(connector, config.topics.texts, rate) as numbers:
        for number, manifest in enumerate(versions):
            announced = time.perf_counter()
            announcement = ModelAnnouncement(version=manifest.version, uri="", sha256=manifest.sha256, state="champion")
            writer.write([Outgoing(config.topics.models, encode(announcement))])
            while not any(version == manifest.version for _, _, version in list(scorer.batches)):
                time.sleep(0.05)
            time.sleep(AFTER if number else before)
            if number:
                earlier = max(took for at, took, _ in scorer.batches if announced - before < at < announced)
                during = max(took for at, took, _ in scorer.batches if at >= announced)
                kept = kept and during <= earlier
                print(
                    f"swap {number}: slowest batch {earlier * 1000:.1f} ms in the {before:.0f} s before, "
                    f"{during * 1000:.1f} ms during and {AFTER:.0f} s after",
                    flush=True,
                )
                time.sleep(max(0.0, before - AFTER))
        sent = next(numbers)
    time.sleep(1.0)
    stop.set()
    for thread in threads:
        thread.join()
    with connector.reader([config.topics.scores]) as reader:
        ids = [Score.model_validate_json(message.value).id for message in _all(reader)]
    connector.close()
    whole = ids == [f"t{number}" for number in range(sent)]
    print(f"{sent} texts, {len(ids)} scores, {'each once and in order' if whole else 'NOT each once and in order'}")
    print("PASSED" if kept and whole else "FAILED")
    return kept and whole


def _all(reader: Reader) -> Iterator[Message]:
    while batch := reader.poll(10_000, 0.0):
        yield from batch


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=float, default=50.0, help="texts a second")
    parser.add_argument("--swaps", type=int, default=3)
    parser.add_argument("--before", type=float, default=BEFORE, help="seconds of load before each swap")
    arguments = parser.parse_args()
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    home = Path(tempfile.mkdtemp(prefix="relearnd-swap-"))
    try:
        return 0 if measure(home, arguments.rate, arguments.swaps, arguments.before) else 1
    finally:
        shutil.rmtree(home)


if __name__ == "__main__":
    raise SystemExit(main())
