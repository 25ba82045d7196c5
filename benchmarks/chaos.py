"""Break a whole deployment on Kafka again and again while it works, and count what was lost or doubled: nothing may be.

    python -m benchmarks.chaos --faults 200 --texts 100000 --seed 1

Three brokers, three scorers and a controller, each a process of its own, and a producer at a steady rate. At random
moments a scorer, the controller or a broker is killed (SIGKILL) or frozen (SIGSTOP) and brought back, scorers are
added and removed, a second controller takes the place of a frozen one, and another version is promoted. At the end a
`read_committed` reader must find every text exactly once among the scores, each from a version that was champion then,
and every label must be counted once. The models are tiny: what is tried here is delivery. Whatever is done is printed,
with its second; the last line says the verdict, and so does the exit status.
"""

import argparse
import bisect
import json
import os
import random
import sched
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import yaml

from benchmarks.survival import labels_counted, messages_of, open_for_reading
from connectors.topic import ConnectorError, Outgoing
from daemon.config import Config
from daemon.connect import open_connector
from daemon.records import Label, Score, Text, encode
from daemon.registry import Registry
from daemon.settings import load
from daemon.steering import steer
from learners.model import create
from tests.encoder import make_encoder
from tests.kafka import Cluster
from tests.sentences import LABELS, sentence

RELEARND = [sys.executable, "-m", "daemon.cli"]

#: Versions to promote one after the other, and again from the first.
VERSIONS = 6

#: Scorers: where it begins, and how few and how many there are after some were removed or added.
SCORERS, FEWEST, MOST = 3, 1, 4

#: The group gives up on a silent scorer after this long; some freezes are shorter, some longer. Seconds.
SESSION_TIMEOUT = 6.0
FREEZES = (0.5, 2.5 * SESSION_TIMEOUT)

#: What supervises a service starts it again after this long, in seconds.
RESTARTS = (0.2, 3.0)

#: Two of three brokers must be up for anything to be written: they are broken one at a time, and this long apart.
BROKER_REST = 20.0

#: A label follows its text after this many others.
LABEL_DELAY = 200

#: The producer writes this often, in seconds.
TICK = 0.1

#: A scorer may go on with a version for this long after the next one was announced, in seconds: it reads, verifies and
#: loads that one first, on a machine with much else to do. Time that it was frozen or down comes on top.
SWAP_TIME = 30.0

#: After the last fault everything must be scored and counted within this time, in seconds.
PATIENCE = 600.0


@dataclass
class Verdict:
    """What was wrong: empty when nothing was."""

    faults: list[str] = field(default_factory=list)
    story: dict[str, object] = field(default_factory=dict)

    def __str__(self) -> str:
        story = ", ".join(f"{count} {name}" for name, count in self.story.items())
        return f"FAILED: {'; '.join(self.faults)} ({story})" if self.faults else f"PASSED: {story}"


class Producer(threading.Thread):
    """Sends texts at a steady rate, and each one's label later."""

    def __init__(self, config: Config, texts: int, rate: float) -> None:
        super().__init__(name="producer", daemon=True)
        self._config, self._texts, self._rate = config, texts, rate
        self.failure: BaseException | None = None

    def run(self) -> None:
        try:
            self._send()
        except ConnectorError as error:
            self.failure = error

    def _send(self) -> None:
        connector = open_connector(self._config)
        sent, started = 0, time.monotonic()
        with connector.writer() as writer:
            while sent < self._texts + LABEL_DELAY:
                due = min(int((time.monotonic() - started) * self._rate) + 1, self._texts + LABEL_DELAY)
                writer.write([row for number in range(sent, due) for row in self._rows(number)])
                sent = due
                time.sleep(TICK)
        connector.close()

    def _rows(self, number: int) -> list[Outgoing]:
        rows, topics, labelled = [], self._config.topics, number - LABEL_DELAY
        if number < self._texts:
            text = Text(id=f"t{number}", text=sentence(number)[0], timestamp=datetime.now(UTC), key=f"K{number % 50}")
            rows.append(Outgoing(topics.texts, encode(text), text.id.encode()))
        if labelled >= 0:
            label = Label(id=f"t{labelled}", label=sentence(labelled)[1])
            rows.append(Outgoing(topics.labels, encode(label), label.id.encode()))
        return rows


class Service:
    """A process of relearnd, started again whenever it is down and should not be."""

    def __init__(self, name: str, role: str, config: Path, *overrides: str) -> None:
        self.name = name
        self.frozen = False
        self._command = [*RELEARND, "run", "--role", role, "--config", str(config)]
        for override in overrides:
            self._command += ["--set", override]
        self._log = config.with_name(f"{name}.log")
        self._log.touch()
        self.start()

    def start(self) -> None:
        self._told_before = self._log.stat().st_size
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log)
        self.frozen = False

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    @property
    def ready(self) -> bool:
        """Whether it has come up since it was started."""
        with self._log.open("rb") as log:
            log.seek(self._told_before)
            return b'"event": "ready"' in log.read()

    def send(self, number: signal.Signals) -> None:
        if self.running:
            self._process.send_signal(number)

    def kill(self) -> None:
        self.send(signal.SIGKILL)
        self._process.wait()

    def end(self, seconds: float) -> int | None:
        """Ask it to stop, once it has come up and listens; its exit status, None when it had to be killed."""
        until = time.monotonic() + seconds
        while self.running and not self.ready and time.monotonic() < until:
            time.sleep(TICK)
        self.send(signal.SIGTERM)
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            return None


class Chaos:
    """The deployment and the faults, drawn from `seed`."""

    def __init__(self, directory: Path, cluster: Cluster, config_path: Path, seed: int) -> None:
        self.config = load(config_path, environment={}, overrides=[])
        self.deeds: Counter[str] = Counter()
        self._directory = directory
        self._config_path = config_path
        self._cluster = cluster
        self._random = random.Random(seed)
        self._clock = sched.scheduler(time.monotonic, time.sleep)
        self._began = time.monotonic()
        self._named = 0
        self._broker_free = 0.0
        self._promoted = 0
        self._people = ThreadPoolExecutor(1, "promote")
        self._asked: list[Future[str]] = []
        self._replaced: list[Service] = []
        self.controller = Service("controller", "controller", config_path)
        self.scorers = [self._new_scorer() for _ in range(SCORERS)]

    def wait_until_it_works(self) -> None:
        """Until a first text has been scored and counted."""
        until = time.monotonic() + PATIENCE
        while not self._done(1):
            if time.monotonic() > until:
                raise SystemExit(f"nothing was scored within {PATIENCE:.0f} s; see the logs in {self._directory}")
            time.sleep(0.5)
        self._began = time.monotonic()

    def run(self, faults: int, seconds: float) -> None:
        """Do `faults` things at random moments of the coming `seconds`, each undone after a while."""
        for moment in sorted(self._random.uniform(0, seconds) for _ in range(faults)):
            self._clock.enter(moment, 1, self._fault)
        # What dies by itself is started again, as systemd and Kubernetes do.
        for second in range(1, int(seconds)):
            self._clock.enter(second, 2, self._revive)
        self._clock.run()
        self._revive()

    def _say(self, deed: str, detail: str = "") -> None:
        self.deeds[deed] += 1
        print(f"{time.monotonic() - self._began:7.1f} s  {deed}{f' {detail}' if detail else ''}", flush=True)

    def _fault(self) -> None:
        deeds: list[tuple[Callable[[], bool], int]] = [
            (self._kill_scorer, 4),
            (self._freeze_scorer, 4),
            (self._add_scorer, 2),
            (self._remove_scorer, 2),
            (self._kill_controller, 2),
            (self._freeze_controller, 1),
            (self._replace_controller, 1),
            (self._kill_broker, 2),
            (self._freeze_broker, 1),
            (self._promote, 4),
        ]
        # What cannot be done now (the only scorer cannot be removed) makes room for something else.
        while not self._random.choices([deed for deed, _ in deeds], [weight for _, weight in deeds])[0]():
            pass

    def _later(self, seconds: tuple[float, float], action: Callable[[], None]) -> float:
        wait = self._random.uniform(*seconds)
        self._clock.enter(wait, 0, action)
        return wait

    def _new_scorer(self) -> Service:
        self._named += 1
        name = f"scorer-{self._named}"
        # A home of its own, as on another machine: it fetches what is announced.
        return Service(name, "scorer", self._config_path, f"home={self._directory / name}")

    def _pick(self) -> Service | None:
        awake = [scorer for scorer in self.scorers if scorer.running and not scorer.frozen]
        return self._random.choice(awake) if awake else None

    def _kill_scorer(self) -> bool:
        return self._kill("kill scorer", self._pick())

    def _kill_controller(self) -> bool:
        return self._kill("kill controller", self.controller)

    def _kill(self, deed: str, service: Service | None) -> bool:
        if service is None or service.frozen or not service.running:
            return False
        service.kill()
        service.frozen = True  # down on purpose: not to be revived before its time
        wait = self._later(RESTARTS, service.start)
        self._say(deed, f"{service.name}, back after {wait:.1f} s")
        return True

    def _freeze_scorer(self) -> bool:
        return self._freeze("freeze scorer", self._pick())

    def _freeze_controller(self) -> bool:
        return self._freeze("freeze controller", self.controller)

    def _freeze(self, deed: str, service: Service | None) -> bool:
        if service is None or service.frozen or not service.running:
            return False

        def thaw() -> None:
            service.send(signal.SIGCONT)
            service.frozen = False

        service.send(signal.SIGSTOP)
        service.frozen = True
        wait = self._later(FREEZES, thaw)
        self._say(deed, f"{service.name} for {wait:.1f} s")
        return True

    def _replace_controller(self) -> bool:
        """A second controller comes up while the first is frozen; the first must find that it has been replaced."""
        old = self.controller
        if old.frozen or not old.running:
            return False
        old.send(signal.SIGSTOP)
        self.controller = Service("controller", "controller", self._config_path)

        self._replaced.append(old)
        wait = self._later(FREEZES, lambda: old.send(signal.SIGCONT))
        self._say("replace controller", f"the old one wakes after {wait:.1f} s")
        return True

    def _add_scorer(self) -> bool:
        if len(self.scorers) >= MOST:
            return False
        self.scorers.append(self._new_scorer())
        self._say("add scorer", self.scorers[-1].name)
        return True

    def _remove_scorer(self) -> bool:
        scorer = self._pick()
        if scorer is None or len(self.scorers) <= FEWEST:
            return False
        self.scorers.remove(scorer)
        scorer.send(signal.SIGTERM)
        self._say("remove scorer", scorer.name)
        return True

    def _kill_broker(self) -> bool:
        node = self._free_broker()
        if node is None:
            return False
        self._cluster.kill(node)
        wait = self._later(RESTARTS, lambda: self._cluster.start(node))
        self._broker_free = time.monotonic() + wait + BROKER_REST
        self._say("kill broker", f"{node}, back after {wait:.1f} s")
        return True

    def _freeze_broker(self) -> bool:
        node = self._free_broker()
        if node is None:
            return False
        self._cluster.pause(node)
        wait = self._later(FREEZES, lambda: self._cluster.resume(node))
        self._broker_free = time.monotonic() + wait + BROKER_REST
        self._say("freeze broker", f"{node} for {wait:.1f} s")
        return True

    def _free_broker(self) -> int | None:
        return self._random.choice(self._cluster.nodes) if time.monotonic() >= self._broker_free else None

    def _promote(self) -> bool:
        self._promoted += 1
        version = f"v{self._promoted % VERSIONS + 1}"
        # Left in the controller's state, and taken up when there is a controller. A frozen one may have it locked.
        self._asked.append(self._people.submit(steer, self.config, "promote", {"version": version, "by": "chaos"}))
        self._say("promote", version)
        return True

    def _revive(self) -> None:
        for service in [self.controller, *self.scorers]:
            if not service.running and not service.frozen:
                self._say("restart", f"{service.name}, which ended by itself")
                service.start()

    def settle(self, texts: int, verdict: Verdict) -> None:
        """Wait until everything is scored and counted, then end all of it."""
        verdict.faults += [f"promote: {error}" for asked in self._asked if (error := asked.exception()) is not None]
        until = time.monotonic() + PATIENCE
        while not self._done(texts) and time.monotonic() < until:
            self._revive()
            time.sleep(1.0)
        if not self._done(texts):
            verdict.faults.append(f"not everything was scored and counted {PATIENCE:.0f} s after the last fault")
        for service in [*self.scorers, self.controller]:
            if (status := service.end(60)) != 0:
                verdict.faults.append(f"{service.name} ended with status {status}")
        if any(old.running for old in self._replaced):
            verdict.faults.append("a controller that had been replaced did not notice it")

    def _done(self, texts: int) -> bool:
        if not (self.config.home / "state.db").exists():
            return False
        with open_for_reading(self.config) as db:
            scored = db.execute("SELECT coalesce(max(seq), 0) FROM scored").fetchone()[0]
            return scored >= texts and labels_counted(db) >= texts

    def kill_all(self) -> None:
        for service in [*self.scorers, self.controller, *self._replaced]:
            service.kill()


def check(config: Config, texts: int, verdict: Verdict) -> None:
    """Count the scores, their versions and the labels."""
    scores = [Score.model_validate_json(message.value) for message in messages_of(config, config.topics.scores)]
    found = Counter(score.id for score in scores)
    wanted = {f"t{number}" for number in range(texts)}
    lost, doubled = wanted - found.keys(), [id for id, count in found.items() if count > 1]
    verdict.faults += [f"{len(lost)} texts without a score, as {min(lost)}"] if lost else []
    verdict.faults += [f"{len(doubled)} texts with several scores, as {min(doubled)}"] if doubled else []
    verdict.faults += ["scores of texts that nobody sent"] if found.keys() - wanted else []
    letters = sum(1 for _ in messages_of(config, config.topics.dead_letters))
    verdict.faults += [f"{letters} dead letters"] if letters else []
    with open_for_reading(config) as db:
        counted = labels_counted(db)
        waiting = db.execute("SELECT count(*) FROM early_labels").fetchone()[0]
    if counted != texts or waiting:
        verdict.faults.append(f"{counted} of {texts} labels counted, {waiting} still waiting")
    late = max(map(_lateness(config), scores), default=0.0)
    if late > SWAP_TIME + FREEZES[1]:
        verdict.faults.append(f"a score by a version that had not been champion for {late:.0f} s")
    verdict.story |= {
        "texts": texts,
        "scores": len(scores),
        "labels": counted,
        "s at most by a version after its successor's promotion": round(late, 1),
    }


def _lateness(config: Config) -> Callable[[Score], float]:
    """For how long the version of a score had not been champion when it was scored, in seconds; never: infinite."""
    with open_for_reading(config) as db:
        rows = db.execute("SELECT at, details FROM decisions WHERE kind IN ('promoted', 'rolled back') ORDER BY seq")
        reigns = [(at, json.loads(details)["version"]) for at, details in rows]
    ends: dict[str, list[tuple[float, float]]] = {}
    for (start, version), (end, _) in zip(reigns, [*reigns[1:], (float("inf"), "")], strict=True):
        ends.setdefault(version, []).append((start, end))

    def late(score: Score) -> float:
        at, spans = score.scored_at.timestamp(), ends.get(score.model, [])
        last = bisect.bisect(spans, (at, float("inf"))) - 1
        return max(0.0, at - spans[last][1]) if last >= 0 else float("inf")

    return late


def prepare(directory: Path, cluster: Cluster) -> Path:
    """A home with versions to promote, and the config of all processes."""
    encoder = make_encoder(directory / "encoder")
    registry = Registry(directory / "home" / "models")
    for number in range(1, VERSIONS + 1):
        create(str(encoder), list(LABELS), 32, number).save(directory / "made")
        registry.add(
            directory / "made",
            version=f"v{number}",
            parent=None,
            created_at=datetime.now(UTC),
            job=f"chaos-{number}",
            trigger="manual",
            method="finetune",
            labels=list(LABELS),
            data_sha256="",
            seed=number,
            decision={},
        )
    config = {
        "home": str((directory / "home").resolve()),
        "connector": {
            "kind": "kafka",
            "kafka": {"bootstrap_servers": cluster.bootstrap, "session_timeout": SESSION_TIMEOUT},
        },
        "model": {"encoder": str(encoder.resolve()), "max_tokens": 32, "device": "cpu", "threads": 1},
        # What is learned is not what is tried here.
        "triggers": {"labels": 0, "min_labels": 1_000_000},
        "alerts": {"enabled": False},
        "http": {"enabled": False},
    }
    path = directory / "relearnd.yaml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    return path


def run(directory: Path, cluster: Cluster, *, faults: int, texts: int, seed: int, rate: float) -> Verdict:
    """The whole of it, in an empty directory, on a cluster of three without topics."""
    verdict = Verdict()
    config_path = prepare(directory, cluster)
    subprocess.run([*RELEARND, "topics", "create", "--config", str(config_path)], check=True)
    with ExitStack() as stack:
        chaos = Chaos(directory, cluster, config_path, seed)
        stack.callback(chaos.kill_all)
        producer = Producer(chaos.config, texts, rate)
        producer.start()
        chaos.wait_until_it_works()
        chaos.run(faults, texts / rate)
        producer.join()
        if producer.failure is not None:
            verdict.faults.append(f"the producer failed: {producer.failure}")
        cluster.wait_until_ready()
        chaos.settle(texts, verdict)
    verdict.story |= dict(sorted(chaos.deeds.items()))
    check(chaos.config, texts, verdict)
    return verdict


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faults", type=int, default=200)
    parser.add_argument("--texts", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rate", type=float, default=100.0, help="texts a second")
    parser.add_argument("--out", type=Path, default=Path("out/chaos"), help="where homes, logs and brokers go")
    arguments = parser.parse_args()
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    shutil.rmtree(arguments.out, ignore_errors=True)
    (arguments.out / "kafka").mkdir(parents=True)
    with Cluster(arguments.out / "kafka", nodes=3) as cluster:
        verdict = run(
            arguments.out,
            cluster,
            faults=arguments.faults,
            texts=arguments.texts,
            seed=arguments.seed,
            rate=arguments.rate,
        )
    print(verdict)
    return 1 if verdict.faults else 0


if __name__ == "__main__":
    raise SystemExit(main())
