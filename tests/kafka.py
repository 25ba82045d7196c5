"""Apache Kafka itself, for tests and benchmarks: brokers in KRaft's combined mode, on loopback, with small heaps.

Maven fetches the jars once, into `out/`; nothing else is installed.
"""

import fcntl
import hashlib
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from random import SystemRandom
from types import TracebackType
from typing import Self

from kafka import KafkaAdminClient
from kafka.errors import KafkaError

POM = Path(__file__).with_name("pom.xml")
CACHE = POM.parent.parent / "out"

#: How long a node may take to start, in seconds: it takes about 3, and more on a machine that does much else.
READY_SECONDS = 120.0

#: What `free_port` has returned, whose takers may not listen yet.
_given: set[int] = set()

#: Where Linux hands out no ports of itself, so that a client's port never stands in the way of a broker's restart.
PORTS = range(15000, 30000)

JAVA_OPTIONS = [
    "-Xms64m",
    "-Xmx320m",
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-XX:ActiveProcessorCount=2",
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
    "-Dorg.slf4j.simpleLogger.showDateTime=true",
    "-Dorg.slf4j.simpleLogger.dateTimeFormat=HH:mm:ss.SSS",
]

#: A broker made for one machine and for tests: small, quick to notice what died, and nothing made by accident.
PROPERTIES = {
    "process.roles": "broker,controller",
    "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,SSL:SSL,SASL_SSL:SASL_SSL",
    "controller.listener.names": "CONTROLLER",
    "inter.broker.listener.name": "PLAINTEXT",
    "auto.create.topics.enable": "false",
    "num.network.threads": "2",
    "num.io.threads": "2",
    "background.threads": "2",
    "log.cleaner.dedupe.buffer.size": str(4 << 20),
    "log.index.size.max.bytes": str(1 << 20),
    "log.initial.task.delay.ms": "500",
    "log.retention.check.interval.ms": "1000",
    "log.cleaner.backoff.ms": "1000",
    "offsets.topic.num.partitions": "4",
    "offsets.topic.segment.bytes": str(4 << 20),
    "transaction.state.log.num.partitions": "4",
    "transaction.state.log.segment.bytes": str(4 << 20),
    "transaction.abort.timed.out.transaction.cleanup.interval.ms": "500",
    "group.initial.rebalance.delay.ms": "0",
    "group.min.session.timeout.ms": "1000",
    "broker.heartbeat.interval.ms": "500",
    "broker.session.timeout.ms": "4000",
    "controlled.shutdown.max.retries": "1",
}


class UnavailableError(Exception):
    """Kafka cannot be run on this machine; the message says why, in one sentence."""


class Cluster:
    """`nodes` brokers, numbered from 1, which have started when the constructor returns.

    They listen without encryption on `bootstrap`, where everyone is the user ANONYMOUS. They die with this process,
    however it dies.

    Args:
        directory: An empty directory for their settings, data and logs.
        nodes: 1, or 3 for what happens when one fails: topics are then kept by all three, and two must acknowledge.
        listeners: Further listeners for clients, from name to port; `free_port` finds one. The names SSL and SASL_SSL
            are known.
        properties: Further settings of every broker, as in server.properties.

    Raises:
        UnavailableError: there is no Java or Maven.
        RuntimeError: a broker does not start; the message holds the end of its log.
    """

    def __init__(
        self,
        directory: Path,
        nodes: int = 1,
        *,
        listeners: Mapping[str, int] | None = None,
        properties: Mapping[str, str] | None = None,
    ) -> None:
        if nodes > 1 and listeners:
            raise ValueError("further listeners have one port each, so they are for one node only")
        self._directory = directory
        self._jars = jars()
        self._ports = {node: (free_port(), free_port()) for node in range(1, nodes + 1)}
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        self._paused: set[int] = set()
        self._properties = {**PROPERTIES, **_replication(nodes), **(properties or {})}
        self._lifeline = _lifeline()
        try:
            self._format(listeners or {})
            for node in self._ports:
                self._launch(node)
            self.wait_until_ready()
        except BaseException:
            self.stop()
            raise

    @property
    def bootstrap(self) -> str:
        """Where clients begin: every node's address, separated by commas."""
        return ",".join(self.address(node) for node in self._ports)

    @property
    def nodes(self) -> list[int]:
        return list(self._ports)

    def address(self, node: int) -> str:
        """Where one node listens; clients learn of the others from it."""
        return f"127.0.0.1:{self._ports[node][0]}"

    def start(self, node: int) -> None:
        """Start a node that was killed, on its old data; returns at once, see `wait_until_ready`."""
        if node in self._processes:
            raise ValueError(f"node {node} is running")
        self._launch(node)

    def kill(self, node: int) -> None:
        """SIGKILL: nothing is flushed, nobody is told."""
        process = self._processes.pop(node)
        self._paused.discard(node)
        process.kill()
        process.wait()

    def pause(self, node: int) -> None:
        """SIGSTOP: it keeps its connections and answers nothing."""
        self._processes[node].send_signal(signal.SIGSTOP)
        self._paused.add(node)

    def resume(self, node: int) -> None:
        self._processes[node].send_signal(signal.SIGCONT)
        self._paused.discard(node)

    def wait_until_ready(self, timeout: float = READY_SECONDS) -> None:
        """Return when every node that runs and is not paused takes part in the cluster, as all of them see it."""
        deadline = time.monotonic() + timeout
        for node in self._processes.keys() - self._paused:
            while not self._is_ready(node):
                if (status := self._processes[node].poll()) is not None:
                    raise RuntimeError(f"Kafka node {node} stopped with status {status}:\n{self.log(node)[-3000:]}")
                if time.monotonic() > deadline:
                    raise RuntimeError(f"Kafka node {node} is not ready after {timeout:g} s:\n{self.log(node)[-3000:]}")
                time.sleep(0.1)

    def log(self, node: int) -> str:
        """What the node has logged: warnings and errors."""
        return (self._directory / f"node-{node}.log").read_text()

    def stop(self) -> None:
        """Kill every node; their data stays."""
        for node in list(self._processes):
            self.kill(node)
        # Only now: the lifeline kills by number, and these are no longer anybody's.
        self._lifeline.kill()
        self._lifeline.wait()
        if self._lifeline.stdin is not None:
            self._lifeline.stdin.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _format(self, listeners: Mapping[str, int]) -> None:
        """Write every node's settings and format its storage, all at once: each takes a second of a JVM's start."""
        formatting = []
        for node, (port, controller) in self._ports.items():
            own = {name: f"127.0.0.1:{at}" for name, at in {"PLAINTEXT": port, **listeners}.items()}
            everything = own | {"CONTROLLER": f"127.0.0.1:{controller}"}
            settings = self._properties | {
                "node.id": str(node),
                "controller.quorum.voters": ",".join(f"{n}@127.0.0.1:{c}" for n, (_, c) in self._ports.items()),
                "listeners": ",".join(f"{name}://{address}" for name, address in everything.items()),
                "advertised.listeners": ",".join(f"{name}://{address}" for name, address in own.items()),
                "log.dirs": str(self._directory / f"node-{node}"),
            }
            file = self._directory / f"node-{node}.properties"
            file.write_text("".join(f"{key}={value}\n" for key, value in settings.items()))
            cluster_id = "relearnd-tests-0000000"  # 16 bytes in base64, as Kafka has them
            tool = ["kafka.tools.StorageTool", "format", "--cluster-id", cluster_id, "--config", str(file)]
            formatting.append(self._java(tool, node))
        for node, process in zip(self._ports, formatting, strict=True):
            if process.wait(READY_SECONDS) != 0:
                raise RuntimeError(f"the storage of Kafka node {node} cannot be formatted:\n{self.log(node)}")

    def _launch(self, node: int) -> None:
        self._processes[node] = self._java(["kafka.Kafka", str(self._directory / f"node-{node}.properties")], node)

    def _java(self, command: list[str], node: int) -> subprocess.Popen[bytes]:
        with (self._directory / f"node-{node}.log").open("ab") as log:
            process = subprocess.Popen(
                ["java", *JAVA_OPTIONS, "-cp", f"{self._jars}/*", *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for the tests, which then stop the brokers in order
            )
        assert self._lifeline.stdin is not None
        self._lifeline.stdin.write(b"%d\n" % process.pid)
        self._lifeline.stdin.flush()
        return process

    def _is_ready(self, node: int) -> bool:
        port, _ = self._ports[node]
        if not _listens(port):
            return False
        try:
            admin = KafkaAdminClient(bootstrap_servers=self.address(node), bootstrap_timeout_ms=2000)
        except KafkaError:
            return False
        try:
            brokers = admin.describe_cluster()["brokers"]
        except KafkaError:
            return False
        finally:
            admin.close()
        taking_part = {broker["broker_id"] for broker in brokers if not broker.get("is_fenced")}
        return taking_part >= self._processes.keys() - self._paused


def jars() -> Path:
    """The directory with the jars of Kafka, fetched at the first call; other processes may call it at the same time.

    Raises:
        UnavailableError: there is no Java or Maven, or Maven cannot fetch them.
    """
    if shutil.which("java") is None:
        raise UnavailableError("Apache Kafka needs Java 17 or newer, and there is no `java` on the PATH.")
    directory = CACHE / f"kafka-{hashlib.sha256(POM.read_bytes()).hexdigest()[:12]}"
    CACHE.mkdir(exist_ok=True)
    with _locked(CACHE / "kafka.lock"):
        if not directory.exists():
            if shutil.which("mvn") is None:
                raise UnavailableError("Apache Kafka is fetched by Maven, and there is no `mvn` on the PATH.")
            fresh = directory.with_suffix(".part")
            command = ["mvn", "-q", "-B", "-f", str(POM), "dependency:copy-dependencies", f"-DoutputDirectory={fresh}"]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode != 0:
                reason = next((line for line in done.stdout.splitlines() if "ERROR" in line), done.stdout.strip())
                raise UnavailableError(f"Maven cannot fetch Apache Kafka: {reason}")
            fresh.rename(directory)
    return directory


def free_port() -> int:
    """A port of loopback where nothing listens now; another one at each call."""
    for _ in range(100):
        port = SystemRandom().choice(PORTS)
        with socket.socket() as trial:
            try:
                trial.bind(("127.0.0.1", port))
            except OSError:
                continue
        if port not in _given:
            _given.add(port)
            return port
    raise RuntimeError(f"no free port among {PORTS}")


def _replication(nodes: int) -> dict[str, str]:
    """Three nodes lose one without losing a record or stopping."""
    copies, acknowledging = (nodes, 2) if nodes > 1 else (1, 1)
    return {
        "default.replication.factor": str(copies),
        "min.insync.replicas": str(acknowledging),
        "offsets.topic.replication.factor": str(copies),
        "transaction.state.log.replication.factor": str(copies),
        "transaction.state.log.min.isr": str(acknowledging),
    }


def _lifeline() -> subprocess.Popen[bytes]:
    """A process that kills the processes whose numbers it is told as soon as this one is gone, even by SIGKILL."""
    script = 'while read -r pid; do pids="$pids $pid"; done; kill -9 $pids'
    return subprocess.Popen(
        ["sh", "-c", script], stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
    )


def _listens(port: int) -> bool:
    with socket.socket() as trial:
        trial.settimeout(1)
        return trial.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
