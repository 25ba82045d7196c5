"""What the Kafka connector does beyond the contract: members that share a group, and everything that can die."""

import os
import random
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaAdminClient, TopicPartition
from kafka.errors import KafkaConnectionError
from kafka.producer.transaction_manager import TransactionalRequestResult, TransactionManager
from kafka.structs import ConsumerGroupMetadata, OffsetAndMetadata

from connectors.kafka import ahead, client
from connectors.kafka.connector import KafkaConnector
from connectors.kafka.errors import Patience
from connectors.kafka.settings import KafkaSettings
from connectors.kafka.transactions import Transactions
from connectors.topic import Connector, ConnectorError, FencedError, Message, Outgoing, Partition, Reader, StaleError
from tests.kafka import Cluster

pytestmark = pytest.mark.kafka

#: Seconds after which a test that waits for something has failed.
PATIENCE = 60.0

#: Short, so that what a dead process leaves behind is soon taken back.
QUICK = {"session_timeout": 2, "transaction_timeout": 2}

WORKER = """
import sys
from connectors.kafka.connector import KafkaConnector
from connectors.kafka.settings import KafkaSettings
from connectors.topic import Outgoing, StaleError

connector = KafkaConnector(KafkaSettings.model_validate_json(sys.argv[1]))
texts, scores, group = sys.argv[2:5]
reader, writer = connector.reader([texts], group=group, shared=True), connector.writer()
while True:
    messages = reader.poll(7, 0.1)
    answers = [Outgoing(scores, b"of " + m.value, m.value) for m in messages]
    if messages:
        try:
            writer.write(answers, reader=reader, positions=reader.positions(), claim=reader.claim)
        except StaleError:
            pass
"""


class Room:
    """Topics and a group that no other test has, at a cluster."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.name = uuid.uuid4().hex[:8]
        self.texts, self.scores, self.group = f"texts-{self.name}", f"scores-{self.name}", f"group-{self.name}"
        self._opened: list[KafkaConnector] = []
        with self.admin() as admin:
            partitions = {self.texts: {"num_partitions": 4}, self.scores: {"num_partitions": 2}}
            admin.create_topics(partitions, wait_for_metadata=True)

    def settings(self, **options: Any) -> KafkaSettings:
        return KafkaSettings(bootstrap_servers=self.cluster.bootstrap, **options)

    def open(self, **options: Any) -> KafkaConnector:
        self._opened.append(KafkaConnector(self.settings(**options)))
        return self._opened[-1]

    def admin(self) -> KafkaAdminClient:
        return KafkaAdminClient(bootstrap_servers=self.cluster.bootstrap)

    def write(self, *values: object, key: bytes | None = None) -> list[bytes]:
        """In one transaction: to one partition with a `key`, else to all of them."""
        written = [str(value).encode() for value in values]
        with self.open().writer() as writer:
            writer.write([Outgoing(self.texts, value, key or value) for value in written])
        return written

    def answers(self) -> list[bytes]:
        """All that can be read of the scores, once every transaction has ended."""
        with self.open().reader([self.scores]) as reader:
            return [message.value for message in drain(reader)]

    def worker(self, **options: Any) -> "subprocess.Popen[bytes]":
        settings = self.settings(**options).model_dump_json()
        command = [sys.executable, "-c", WORKER, settings, self.texts, self.scores, self.group]
        return subprocess.Popen(command, cwd=Path(__file__).parents[2])

    def close(self) -> None:
        for connector in self._opened:
            connector.close()


@pytest.fixture
def room(kafka: Cluster) -> Iterator[Room]:
    room = Room(kafka)
    yield room
    room.close()


def wait_until(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


def drain(reader: Reader, most: int = 1000) -> list[Message]:
    messages: list[Message] = []
    deadline = time.monotonic() + PATIENCE
    while reader.positions() != reader.end():
        assert time.monotonic() < deadline, (reader.positions(), reader.end())
        messages += reader.poll(most, 0.1)
    return messages


def answered(texts: list[bytes]) -> Counter[bytes]:
    return Counter(b"of " + text for text in texts)


class Member:
    """A shared reader that answers what it is dealt, in a thread, until it is stopped."""

    def __init__(self, room: Room, connector: Connector, pause: Callable[[], None] = lambda: None) -> None:
        self.stale = 0
        self.count = 0
        self._room, self._connector, self._pause = room, connector, pause
        self._stop = threading.Event()
        self._failure: BaseException | None = None
        self.reader = connector.reader([room.texts], group=room.group, shared=True)
        self._thread = threading.Thread(target=self._work)
        self._thread.start()

    def partitions(self) -> set[Partition]:
        return set(self.reader.positions())

    def generation(self) -> int:
        """Of the deal that it works on."""
        return int(self.reader.role.deal.generation.generation_id)

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()
        self.reader.close()
        if self._failure is not None:
            raise self._failure

    def _work(self) -> None:
        try:
            with self._connector.writer() as writer:
                while not self._stop.is_set():
                    messages = self.reader.poll(7, 0.05)
                    positions, claim = self.reader.positions(), self.reader.claim
                    self._pause()
                    answers = [Outgoing(self._room.scores, b"of " + m.value, m.value) for m in messages]
                    try:
                        writer.write(answers, reader=self.reader, positions=positions, claim=claim)
                        self.count += len(answers)
                    except StaleError:
                        self.stale += 1
        except BaseException as error:  # noqa: BLE001 (kept, and raised by stop)
            self._failure = error


# Members of a group


def test_members_divide_the_partitions_and_answer_every_text_once(room: Room) -> None:
    written = room.write(*range(400))
    first = Member(room, room.open())
    wait_until(lambda: first.count > 20, "the first member answers")
    second = Member(room, room.open())
    wait_until(lambda: len(first.partitions()) == len(second.partitions()) == 2, "each member has half")
    assert first.partitions().isdisjoint(second.partitions())
    written += room.write(*range(400, 600))
    wait_until(lambda: second.count > 20, "the second member answers")
    first.stop()
    wait_until(lambda: len(second.partitions()) == 4, "the second member has all")
    written += room.write(*range(600, 700))
    wait_until(lambda: first.count + second.count == 700, "all is answered")
    second.stop()
    assert Counter(room.answers()) == answered(written)


@pytest.mark.parametrize("seed", [1, 2])
def test_members_that_are_killed_or_stopped_answer_every_text_once(room: Room, seed: int) -> None:
    rng = random.Random(seed)
    written: list[bytes] = []
    workers = [room.worker(**QUICK) for _ in range(3)]
    try:
        with room.open().reader([room.scores]) as answers:
            seen = 0
            for fault in range(6):
                written += room.write(*range(100 * fault, 100 * fault + 100))
                wanted = seen + rng.randrange(1, 60)
                deadline = time.monotonic() + PATIENCE
                while seen < min(wanted, len(written)):
                    assert time.monotonic() < deadline
                    seen += len(answers.poll(10, 0.1))
                victim = rng.randrange(3)
                if rng.random() < 0.5:
                    workers[victim].kill()
                    workers[victim].wait()
                    workers[victim] = room.worker(**QUICK)
                else:
                    workers[victim].send_signal(signal.SIGSTOP)
                    # Long enough, half of the time, to be thrown out of the group and come back as a zombie.
                    threading.Event().wait(rng.choice([0.5, 3.5]))
                    workers[victim].send_signal(signal.SIGCONT)
            deadline = time.monotonic() + PATIENCE
            while seen < len(written):
                assert time.monotonic() < deadline, f"{seen} of {len(written)} answered"
                seen += len(answers.poll(100, 0.1))
        assert all(worker.poll() is None for worker in workers)
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
    assert Counter(room.answers()) == answered(written)


def test_a_named_member_that_restarts_gets_its_partitions_back_and_disturbs_nobody(room: Room) -> None:
    room.write(*range(100))
    staying = Member(room, room.open(instance_id="staying"))
    leaving = Member(room, room.open(instance_id="leaving"))
    wait_until(lambda: len(staying.partitions()) == len(leaving.partitions()) == 2, "each member has half")
    wait_until(lambda: staying.generation() == leaving.generation(), "both have heard of the last deal")
    wait_until(lambda: staying.count + leaving.count == 100, "all is answered")
    claim, partitions = staying.reader.claim, leaving.partitions()
    leaving.stop()
    back = Member(room, room.open(instance_id="leaving"))
    wait_until(back.partitions, "the member is back")
    written = room.write(*range(100, 200))
    wait_until(lambda: staying.count + leaving.count + back.count == 200, "all is answered")
    back.stop()
    staying.stop()
    assert back.partitions() == partitions
    assert staying.reader.claim == claim
    assert len(room.answers()) == 100 + len(written)


def test_of_two_processes_with_one_name_the_older_is_fenced(room: Room) -> None:
    room.write("a", key=b"key")
    connectors = room.open(instance_id="same"), room.open(instance_id="same")
    older, newer = (connector.reader([room.texts], group=room.group, shared=True) for connector in connectors)
    assert len(older.poll(10, PATIENCE)) == 1
    assert len(newer.poll(10, PATIENCE)) == 1
    with connectors[0].writer() as writer, pytest.raises(FencedError, match="instance_id"):
        writer.write([Outgoing(room.scores, b"twice")], reader=older, positions=older.positions())
    with connectors[1].writer() as writer:
        writer.write([Outgoing(room.scores, b"once")], reader=newer, positions=newer.positions())
    assert room.answers() == [b"once"]


def test_what_was_polled_before_a_deal_cannot_be_committed_after_it(room: Room) -> None:
    room.write(*range(40))
    connector = room.open()
    reader = connector.reader([room.texts], group=room.group, shared=True)
    polled = reader.poll(1000, PATIENCE)
    positions, claim = reader.positions(), reader.claim
    with connector.writer() as writer:
        other = Member(room, room.open())
        wait_until(lambda: reader.poll(1000, 0.1) is not None and len(reader.positions()) == 2, "the other has half")
        assert reader.claim != claim
        answers = [Outgoing(room.scores, b"of " + m.value) for m in polled]
        with pytest.raises(StaleError):
            writer.write(answers, reader=reader, positions=positions, claim=claim)
        reader.close()
        wait_until(lambda: other.count == 40, "the other answers all")
        other.stop()
    assert len(room.answers()) == 40


def test_a_member_that_takes_long_stays_in_the_group(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ahead, "ENOUGH_MESSAGES", 5)  # so that it must pause its partitions meanwhile
    monkeypatch.setattr(client, "POLL_MESSAGES", 5)
    written = room.write(*range(300))
    connector = room.open(session_timeout=2, max_poll_interval=1, transaction_timeout=0.9)
    with connector.reader([room.texts], group=room.group, shared=True) as reader, connector.writer() as writer:
        messages = reader.poll(10, PATIENCE)
        positions, claim = reader.positions(), reader.claim
        threading.Event().wait(4)  # of training
        answers = [Outgoing(room.scores, b"of " + m.value) for m in messages]
        writer.write(answers, reader=reader, positions=positions, claim=claim)
        for message in drain(reader):
            writer.write([Outgoing(room.scores, b"of " + message.value)])
        assert reader.claim == claim
    assert Counter(room.answers()) == answered(written)


def test_a_member_keeps_no_positions_of_its_own(room: Room) -> None:
    room.write("a")
    connector = room.open()
    with connector.reader([room.texts], group=room.group, shared=True) as reader, connector.writer() as writer:
        reader.poll(1, PATIENCE)
        with pytest.raises(ConnectorError, match="outbox"):
            writer.write([], reader=reader, positions={Partition("outbox"): 1})


# What is missing


def test_messages_that_retention_removed_are_counted(room: Room) -> None:
    room.write(*range(10), key=b"key")
    connector = room.open()
    with connector.reader([room.texts], group=room.group) as reader, connector.writer() as writer:
        reader.poll(3, PATIENCE)
        writer.write([], reader=reader, positions=reader.positions())
        (partition,) = [partition for partition, at in reader.positions().items() if at]
        with room.admin() as admin:
            admin.delete_records({TopicPartition(*partition): 7})
    with connector.reader([room.texts], group=room.group) as reader, connector.writer() as writer:
        assert reader.positions()[partition] == 3
        assert [message.value for message in drain(reader)] == [b"7", b"8", b"9"]
        assert reader.lost == {partition: 4}
        reader.seek({partition: 5})
        assert [message.value for message in drain(reader)] == [b"7", b"8", b"9"]
        assert reader.lost == {partition: 4}, "what was counted is not counted again"
    with connector.reader([room.texts], group=f"{room.group}-new") as reader:
        assert len(drain(reader)) == 3
        assert reader.lost == {}


def test_a_member_counts_what_retention_removed(room: Room) -> None:
    room.write(*range(10), key=b"key")
    connector = room.open()
    with connector.reader([room.texts], group=room.group, shared=True) as reader, connector.writer() as writer:
        reader.poll(3, PATIENCE)
        writer.write([], reader=reader, positions=reader.positions())
        (partition,) = [partition for partition, at in reader.positions().items() if at]
    with room.admin() as admin:
        admin.delete_records({TopicPartition(*partition): 7})
    with connector.reader([room.texts], group=room.group, shared=True) as reader:
        assert [message.value for message in reader.poll(10, PATIENCE)] == [b"7", b"8", b"9"]
        assert reader.lost == {partition: 4}


def test_new_partitions_are_read(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "METADATA_AGE", 0.3)
    with room.open().reader([room.texts], group=room.group) as reader:
        assert reader.poll(1, 0.1) == []
        with room.admin() as admin:
            admin.create_partitions({room.texts: 8})
        wait_until(lambda: reader.poll(1, 0.1) is None or len(reader.positions()) == 8, "new partitions are seen")
        written = room.write(*range(100))
        assert sorted(message.value for message in drain(reader)) == sorted(written)


def test_a_member_is_dealt_new_partitions_however_long_joining_takes(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "METADATA_AGE", 0.3)
    monkeypatch.setattr(ahead, "POLL", 0.0)  # so that every join outlasts the poll it began in
    with room.open().reader([room.texts], group=room.group, shared=True) as reader:
        wait_until(lambda: reader.poll(1, 0.1) is None or len(reader.positions()) == 4, "the first deal")
        with room.admin() as admin:
            admin.create_partitions({room.texts: 8})
        wait_until(lambda: reader.poll(1, 0.1) is None or len(reader.positions()) == 8, "new partitions are dealt")


def test_a_topic_that_is_missing_is_named_with_what_to_do(room: Room) -> None:
    connector = room.open()
    with pytest.raises(ConnectorError, match=r"no topic 'nowhere'.*relearnd topics create"):
        connector.reader(["nowhere"])
    with connector.writer() as writer, pytest.raises(ConnectorError, match=r"no topic 'nowhere'"):
        writer.write([Outgoing("nowhere", b"a")])


def test_brokers_that_cannot_be_reached_are_named_with_the_reason() -> None:
    with pytest.raises(ConnectorError, match=r"127\.0\.0\.1:1: .*refused"):
        KafkaConnector(KafkaSettings(bootstrap_servers="127.0.0.1:1", connect_timeout=1))


def test_a_message_too_large_for_the_broker_is_refused_at_once(room: Room) -> None:
    with room.open().writer() as writer:
        with pytest.raises(ConnectorError, match=r"larger than the broker takes.*max\.message\.bytes"):
            writer.write([Outgoing(room.texts, b"small"), Outgoing(room.texts, os.urandom(2_000_000))])
        writer.write([Outgoing(room.texts, b"after")])
    with room.open().reader([room.texts]) as reader:
        assert [message.value for message in drain(reader)] == [b"after"]


# Commits whose outcome is not told


def test_a_commit_whose_answer_is_lost_is_not_done_twice(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    ends: list[object] = []
    begin, wait = TransactionManager.begin_commit, Transactions._await

    def begin_commit(self: TransactionManager) -> object:
        ends.append(begin(self))
        return ends[-1]

    def deaf(self: Transactions, producer: object, result: object) -> None:
        wait(self, producer, result)
        # Every other one: after a loss the next transaction ends what may be left of it, and then comes our own.
        if ends and result is ends[-1] and len(ends) % 2:
            raise KafkaConnectionError("the answer is lost")

    monkeypatch.setattr(TransactionManager, "begin_commit", begin_commit)
    monkeypatch.setattr(Transactions, "_await", deaf)
    answer_all_in_turn(room)


def test_a_commit_that_never_arrives_is_done_again(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    begin, begun = TransactionManager.begin_commit, count()

    def mute(self: TransactionManager) -> object:
        if next(begun) % 3 == 2:
            unsent = TransactionalRequestResult()
            unsent.done(error=KafkaConnectionError("it never left"))
            return unsent
        return begin(self)

    monkeypatch.setattr(TransactionManager, "begin_commit", mute)
    answer_all_in_turn(room)


def test_a_first_commit_under_way_is_waited_for(room: Room) -> None:
    room.write("a", key=b"key")
    connector = room.open()
    with connector.reader([room.texts]) as reader:
        (message,) = drain(reader)
    producer = client.Clients(room.settings()).producer(f"{room.group}-other")
    producer.init_transactions()
    producer.begin_transaction()
    at = {TopicPartition(room.texts, message.partition): OffsetAndMetadata(1, "", -1)}
    producer.send_offsets_to_transaction(at, room.group)
    opened: list[Reader] = []
    opener = threading.Thread(target=lambda: opened.append(connector.reader([room.texts], group=room.group)))
    opener.start()
    opener.join(0.5)
    assert not opened
    producer.commit_transaction()
    producer.close()
    opener.join()
    assert opened[0].positions()[Partition(room.texts, message.partition)] == 1


def answer_all_in_turn(room: Room) -> None:
    """By an owner of the group, then by a member; each text, and each position of the owner's own, exactly once."""
    connector = room.open(**QUICK)
    with connector.writer() as writer:
        writer.write([Outgoing(room.texts, str(n).encode()) for n in range(6)])
        for shared in (False, True):
            with connector.reader([room.texts], group=room.group, shared=shared) as reader:
                for n in range(3):
                    answers = [Outgoing(room.scores, b"of " + m.value) for m in reader.poll(1, PATIENCE)]
                    own = {} if shared else {Partition("outbox"): n}
                    writer.write(answers, reader=reader, positions=reader.positions() | own)
    assert connector.committed(room.group)[Partition("outbox")] == 2
    assert Counter(room.answers()) == answered([str(n).encode() for n in range(6)])


def test_an_owner_that_was_late_but_not_replaced_goes_on(room: Room) -> None:
    connector = room.open()
    with connector.writer() as writer, connector.reader([room.texts], group=room.group) as owner:
        writer.write([Outgoing(room.scores, b"before")], reader=owner, positions={Partition("outbox"): 1})
        # As a broker does that ends a transaction which takes too long: the next epoch is taken.
        producer = client.Clients(room.settings()).producer(room.group)
        producer.init_transactions()
        producer.close()
        writer.write([Outgoing(room.scores, b"after")], reader=owner, positions={Partition("outbox"): 2})
    assert sorted(room.answers()) == [b"after", b"before"]
    assert connector.committed(room.group) == {Partition("outbox"): 2}


# At least once


def test_at_least_once_commits_what_was_read_and_fences(room: Room) -> None:
    written = room.write(*range(20))
    connector = room.open(delivery="at-least-once")
    with connector.writer() as writer, connector.reader([room.texts], group=room.group) as reader:
        answers = [Outgoing(room.scores, b"of " + m.value) for m in drain(reader)]
        writer.write(answers, reader=reader, positions=reader.positions() | {Partition("outbox"): 3})
        assert connector.committed(room.group) == reader.positions() | {Partition("outbox"): 3}
        with connector.reader([room.texts], group=room.group) as newer:
            assert newer.positions() == reader.positions()
            with pytest.raises(FencedError):
                writer.write([Outgoing(room.scores, b"twice")], reader=reader, positions=reader.positions())
            writer.write([], reader=newer, positions={Partition("outbox"): 4})
    assert Counter(room.answers()) == answered(written)


def test_at_least_once_members_divide_the_partitions_and_miss_nothing(room: Room) -> None:
    written = room.write(*range(200))
    first = Member(room, room.open(delivery="at-least-once"))
    wait_until(lambda: first.count > 20, "the first member answers")
    second = Member(room, room.open(delivery="at-least-once"))
    wait_until(lambda: len(first.partitions()) == len(second.partitions()) == 2, "each member has half")
    written += room.write(*range(200, 300))
    wait_until(lambda: set(room.answers()) == set(answered(written)), "all is answered")
    first.stop()
    second.stop()


# Brokers that fail


@pytest.fixture(scope="module")
def frail(start_kafka: Callable[..., Cluster]) -> Cluster:
    """A node of our own to pause and to kill."""
    return start_kafka()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients that take a broker for dead after a second."""
    monkeypatch.setattr(client, "REQUEST_TIMEOUT", 1.0)


@pytest.mark.parametrize("shared", [False, True], ids=["owner", "member"])
@pytest.mark.parametrize("fault", ["pause", "kill"])
def test_a_broker_that_fails_costs_and_doubles_nothing(
    frail: Cluster, impatient: None, shared: bool, fault: str
) -> None:
    room = Room(frail)
    connector = room.open(**QUICK)
    stop = threading.Event()
    failures: list[BaseException] = []

    def work() -> None:
        try:
            with (
                connector.reader([room.texts], group=room.group, shared=shared) as reader,
                connector.writer() as writer,
            ):
                while not stop.is_set():
                    messages = reader.poll(5, 0.1)
                    answers = [Outgoing(room.scores, b"of " + m.value) for m in messages]
                    with suppress(StaleError):
                        writer.write(answers, reader=reader, positions=reader.positions(), claim=reader.claim)
        except BaseException as error:  # noqa: BLE001 (kept, and looked at below)
            failures.append(error)

    written = room.write(*range(300))
    thread = threading.Thread(target=work)
    thread.start()
    with room.open().reader([room.scores]) as answers:
        seen = answers.poll(10, PATIENCE)
        if fault == "pause":
            frail.pause(1)
            threading.Event().wait(3)  # until clients take it for dead
            frail.resume(1)
        else:
            frail.kill(1)
            frail.start(1)
        deadline = time.monotonic() + 2 * PATIENCE
        while len(seen) < len(written):
            assert not failures, failures
            assert time.monotonic() < deadline, f"{len(seen)} of {len(written)} answered"
            seen += answers.poll(100, 0.1)
    stop.set()
    thread.join()
    assert not failures, failures
    assert Counter(room.answers()) == answered(written)
    room.close()


class Lonely:
    """A topic with one copy, on the broker that also has the only copy of a group's positions, and that broker."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.room = Room(cluster)
        self.topic = f"lonely-{self.room.name}"
        self.text = Partition(self.room.texts, 0)
        self.group = ConsumerGroupMetadata(self.room.group)
        #: A member that may commit no more.
        self.thrown_out = ConsumerGroupMetadata(self.room.group, 5, "thrown-out", None)
        self.room.open().committed(self.room.group)  # which makes the topic of positions
        with self.room.admin() as admin:
            leaders: list[int] = []

            def are_led() -> bool:
                # Any broker may be asked, and not each of them knows yet.
                positions = admin.describe_topics(["__consumer_offsets"])[0]["partitions"]
                leaders[:] = [p["leader_id"] for p in sorted(positions, key=lambda p: int(p["partition_index"]))]
                return leaders and min(leaders) > 0

            wait_until(are_led, "nobody leads the positions")
            self.broker = leaders[_java_hash(self.room.group) % len(leaders)]
            topics = {self.topic: {"assignments": {0: [self.broker]}}}
            admin.create_topics(topics, wait_for_metadata=True)

    def transactions(self, **options: Any) -> Transactions:
        connector = self.room.open(**options)
        return Transactions(
            connector._clients, connector._cluster, Patience(threading.Event(), connector._clients.servers[0]), "id"
        )

    def offsets(self, at: int) -> dict[Partition, OffsetAndMetadata]:
        return {self.text: OffsetAndMetadata(at, "", -1)}

    def wait_for(self, state: str) -> None:
        known = self.room.open()._cluster
        wait_until(lambda: known.transaction("id")[0] == state, f"the transaction is no {state}")

    def found(self) -> tuple[list[bytes], dict[Partition, int]]:
        """What can be read of the topic, and what the group has committed."""
        connector = self.room.open()
        with connector.reader([self.topic]) as reader:
            return [message.value for message in drain(reader)], connector.committed(self.room.group)


def _java_hash(text: str) -> int:
    """As Kafka takes it, to find a group's partition: not negative."""
    value = 0
    for character in text:
        value = (31 * value + ord(character)) & 0xFFFFFFFF
    return value & 0x7FFFFFFF


@pytest.fixture(scope="module")
def fragile(start_kafka: Callable[..., Cluster]) -> Iterator[Cluster]:
    """Three brokers; of a group's positions, only one of them has a copy."""
    with start_kafka(3, properties={"offsets.topic.replication.factor": "1"}) as cluster:
        yield cluster


@pytest.fixture
def lonely(fragile: Cluster) -> Iterator[Lonely]:
    fragile.wait_until_ready()
    lonely = Lonely(fragile)
    yield lonely
    lonely.room.close()


@pytest.mark.parametrize("commit", [False, True], ids=["aborted", "committed"])
def test_a_transaction_that_ended_while_its_partition_had_no_broker_has_ended_there_too(
    lonely: Lonely, commit: bool
) -> None:
    dead, successor = lonely.transactions(**({} if commit else QUICK)), lonely.transactions()
    producer = dead._ready()
    producer.begin_transaction()
    producer.send(lonely.topic, b"left")
    producer.flush()
    dead._send_offsets(producer, lonely.group, lonely.offsets(1))
    lonely.cluster.kill(lonely.broker)
    # The coordinator, somewhere else by now, tells all partitions but these. Not told to, it aborts in time.
    if commit:
        producer.commit_transaction()
    lonely.wait_for("CompleteCommit" if commit else "CompleteAbort")
    lonely.cluster.start(lonely.broker)
    # A member that the group has thrown out meanwhile is refused; what it had committed stays.
    with pytest.raises(StaleError):
        successor.write([Outgoing(lonely.topic, b"refused")], lambda: [(lonely.thrown_out, lonely.offsets(2))])
    assert lonely.found() == ([b"left"] * commit, {lonely.text: 1} if commit else {})
    successor.write([Outgoing(lonely.topic, b"kept")], lambda: [(lonely.group, lonely.offsets(3))])
    assert lonely.found() == ([b"left"] * commit + [b"kept"], {lonely.text: 3})
    dead.close()
    successor.close()


@pytest.mark.parametrize("heard", [False, True], ids=["unheard", "heard"])
def test_a_commit_stays_whose_partitions_lost_their_broker_before_they_heard_of_it(
    lonely: Lonely, monkeypatch: pytest.MonkeyPatch, heard: bool
) -> None:
    transactions = lonely.transactions()
    begin, begun = TransactionManager.begin_commit, count()

    def commit_alone(self: TransactionManager) -> object:
        if next(begun) != 1:  # the first ends what predecessors may have left
            return begin(self)
        lonely.cluster.kill(lonely.broker)
        result = begin(self)
        sender.wakeup()
        lonely.wait_for("CompleteCommit")
        lonely.cluster.start(lonely.broker)
        if not heard:
            result = TransactionalRequestResult()
            result.done(error=KafkaConnectionError("the answer is lost"))
        return result

    monkeypatch.setattr(TransactionManager, "begin_commit", commit_alone)
    sender = transactions._ready()._sender
    transactions.write([Outgoing(lonely.topic, b"once")], lambda: [(lonely.group, lonely.offsets(1))])
    assert lonely.found() == ([b"once"], {lonely.text: 1})
    transactions.close()


def test_a_commit_stays_when_the_next_transaction_is_aborted(lonely: Lonely, monkeypatch: pytest.MonkeyPatch) -> None:
    transactions = lonely.transactions()
    begin, begun = TransactionManager.begin_commit, count()

    def commit_alone(self: TransactionManager) -> object:
        if next(begun) == 1:  # the first ends what predecessors may have left
            lonely.cluster.kill(lonely.broker)
        return begin(self)

    monkeypatch.setattr(TransactionManager, "begin_commit", commit_alone)
    transactions._attempt([Outgoing(lonely.topic, b"once")], lambda: [(lonely.group, lonely.offsets(1))])
    lonely.wait_for("CompleteCommit")
    lonely.cluster.start(lonely.broker)
    with pytest.raises(StaleError):
        transactions.write([Outgoing(lonely.topic, b"refused")], lambda: [(lonely.thrown_out, lonely.offsets(2))])
    assert lonely.found() == ([b"once"], {lonely.text: 1})
    transactions.close()


def test_closing_ends_a_wait_for_a_broker_that_is_away(frail: Cluster, impatient: None) -> None:
    room = Room(frail)
    connector = room.open()
    reader, writer = connector.reader([room.texts], group=room.group), connector.writer()
    writer.write([Outgoing(room.texts, b"a")], reader=reader, positions={Partition("outbox"): 1})
    frail.pause(1)
    closer = threading.Timer(0.5, connector.close)
    closer.start()
    with pytest.raises(ConnectorError, match="closed"):
        writer.write([Outgoing(room.texts, b"b")], reader=reader, positions={Partition("outbox"): 2})
    frail.resume(1)
    closer.join()
