"""Records a second through each connector, read, answered and committed, beside a bare kafka-python loop.

    python -m benchmarks.connectors --records 50000

Every loop reads texts in batches, writes one answer for each, and commits how far it read in the same atomic step, as
the scorer does, with no model between. The bare loop is what one would write with kafka-python alone: a consumer, a
transactional producer, the same batches and settings. Ours should reach 80 % of it; the last line and the exit status
say whether it did.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.structs import OffsetAndMetadata

from connectors.kafka.admin import TopicAdmin, WantedTopic
from connectors.kafka.client import BATCH_BYTES
from connectors.kafka.connector import KafkaConnector
from connectors.kafka.settings import KafkaSettings
from connectors.local import LocalConnector
from connectors.topic import Connector, Outgoing
from tests.kafka import Cluster

#: As many as the scorer reads at once by default.
BATCH = 256

#: A score with its sketch, in bytes.
SIZE = 600

#: Each loop is run this often, in turn; the median counts.
ROUNDS = 3

AIM = 0.8


def ours(connector: Connector, source: str, answers: str, group: str, records: int) -> float:
    """Seconds to read `records` of `source` and write as many to `answers`."""
    started, done = time.perf_counter(), 0
    with connector.reader([source], group=group, shared=True) as reader, connector.writer() as writer:
        while done < records:
            messages = reader.poll(BATCH, 1.0)
            if messages:
                out = [Outgoing(answers, message.value, message.key) for message in messages]
                writer.write(out, reader=reader, positions=reader.positions(), claim=reader.claim)
                done += len(messages)
    return time.perf_counter() - started


def bare(bootstrap: str, source: str, answers: str, group: str, records: int) -> float:
    """The same with kafka-python alone."""
    started, done = time.perf_counter(), 0
    consumer = KafkaConsumer(
        source,
        bootstrap_servers=bootstrap,
        group_id=group,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        isolation_level="read_committed",
    )
    producer = KafkaProducer(
        bootstrap_servers=bootstrap,
        transactional_id=group,
        acks="all",
        compression_type="lz4",
        batch_size=BATCH_BYTES,
        linger_ms=0,
    )
    producer.init_transactions()
    while done < records:
        polled = consumer.poll(timeout_ms=1000, max_records=BATCH)
        if not polled:
            continue
        producer.begin_transaction()
        for messages in polled.values():
            for message in messages:
                producer.send(answers, value=message.value, key=message.key)
                done += 1
        offsets: dict[TopicPartition, OffsetAndMetadata] = {
            partition: OffsetAndMetadata(messages[-1].offset + 1, "", -1) for partition, messages in polled.items()
        }
        producer.send_offsets_to_transaction(offsets, consumer.group_metadata())
        producer.commit_transaction()
    seconds = time.perf_counter() - started
    producer.close()
    consumer.close()
    return seconds


def fill(connector: Connector, topic: str, records: int) -> float:
    """Seconds to write `records` to `topic`."""
    value = b"x" * SIZE
    started = time.perf_counter()
    with connector.writer() as writer:
        for first in range(0, records, BATCH):
            batch = range(first, min(first + BATCH, records))
            writer.write([Outgoing(topic, b"%d" % number + value, b"%d" % number) for number in batch])
    return time.perf_counter() - started


def measure(records: int, scratch: Path) -> dict[str, float]:
    """Records a second by loop: the median of `ROUNDS`, which take turns."""
    seconds: dict[str, list[float]] = {}

    def note(name: str, run: Callable[[], float]) -> None:
        seconds.setdefault(name, []).append(run())
        print(f"{name:24} {records / seconds[name][-1]:10,.0f} records/s", flush=True)

    local = LocalConnector(scratch / "topics.db")
    with Cluster(scratch / "kafka") as cluster:
        settings = KafkaSettings(bootstrap_servers=cluster.bootstrap)
        TopicAdmin(settings).create([WantedTopic("texts", 6), WantedTopic("scores", 6)])
        kafka = KafkaConnector(settings)
        fill(local, "texts", records)
        note("kafka: write", partial(fill, kafka, "texts", records))
        for number in range(ROUNDS):
            note("local: read and answer", partial(ours, local, "texts", "scores", f"l{number}", records))
            note("kafka: bare loop", partial(bare, cluster.bootstrap, "texts", "scores", f"b{number}", records))
            note("kafka: read and answer", partial(ours, kafka, "texts", "scores", f"o{number}", records))
        kafka.close()
    local.close()
    return {name: records / statistics.median(taken) for name, taken in seconds.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=50_000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="relearnd-connectors-") as scratch:
        (Path(scratch) / "kafka").mkdir()
        speeds = measure(arguments.records, Path(scratch))
    share = speeds["kafka: read and answer"] / speeds["kafka: bare loop"]
    print(f"{'PASSED' if share >= AIM else 'FAILED'}: {share:.0%} of the bare loop, aim {AIM:.0%}")
    return 0 if share >= AIM else 1


if __name__ == "__main__":
    raise SystemExit(main())
