"""The brokers that other tests stand on."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from kafka import KafkaAdminClient
from kafka.errors import KafkaError, TopicAlreadyExistsError

from tests import kafka as kafka_room
from tests.kafka import Cluster, UnavailableError, jars

pytestmark = pytest.mark.kafka


def test_a_node_that_was_killed_comes_back_with_its_data(start_kafka: Callable[..., Cluster]):
    with start_kafka() as cluster:
        create(cluster.bootstrap, "kept")
        cluster.kill(1)
        cluster.start(1)
        cluster.wait_until_ready()
        assert "kept" in topics(cluster)


def test_three_nodes_go_on_when_one_is_paused(start_kafka: Callable[..., Cluster]):
    with start_kafka(3) as cluster:
        cluster.pause(1)
        wait_for(lambda: brokers(cluster.address(2)) == {2, 3})
        wait_for(lambda: made(cluster.address(2), "made-by-two"))
        cluster.resume(1)
        cluster.wait_until_ready()
        wait_for(lambda: brokers(cluster.address(2)) == {1, 2, 3})


def test_brokers_die_with_the_process_that_started_them(kafka: Cluster, tmp_path: Path):
    script = (
        "import sys, time; from pathlib import Path; from tests.kafka import Cluster;"
        "cluster = Cluster(Path(sys.argv[1])); print(cluster.bootstrap, flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True) as parent:
        port = int(parent.stdout.readline().split(":")[1])
        os.kill(parent.pid, signal.SIGKILL)
    wait_for(lambda: not kafka_room._listens(port))


def test_without_java_it_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UnavailableError, match="needs Java 17"):
        jars()


def test_without_maven_it_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    (tmp_path / "java").symlink_to("/bin/true")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(kafka_room, "CACHE", tmp_path)
    with pytest.raises(UnavailableError, match="fetched by Maven"):
        jars()


def create(address: str, topic: str) -> None:
    with KafkaAdminClient(bootstrap_servers=address) as admin:
        admin.create_topics({topic: {}}, wait_for_metadata=True)


def made(address: str, topic: str) -> bool:
    """Whether a topic is there after asking for it; a broker may still wait for a node that answers nothing."""
    try:
        create(address, topic)
    except TopicAlreadyExistsError:
        return True
    except KafkaError:
        return False
    return True


def topics(cluster: Cluster) -> list[str]:
    with KafkaAdminClient(bootstrap_servers=cluster.bootstrap) as admin:
        return admin.list_topics()


def brokers(address: str) -> set[int]:
    """Those that take part, as a new client sees it; none if it asked one that answers nothing."""
    try:
        with KafkaAdminClient(bootstrap_servers=address) as admin:
            return {broker["broker_id"] for broker in admin.describe_cluster()["brokers"] if not broker["is_fenced"]}
    except KafkaError:
        return set()


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
