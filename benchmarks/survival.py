"""Kill the daemon again and again while it works, and count what was lost or doubled: nothing may be.

    python -m benchmarks.survival --base BASE.jsonl --texts TEXTS.jsonl --labels LABELS.jsonl --kills 20

`relearnd run` is killed with SIGKILL at random moments (scoring, learning, promoting, swapping) while other processes
send texts and labels with `relearnd send`. At the end every text must have exactly one score, every label must be
counted once, and every version of the registry must be whole. The last line says the verdict, and so does the exit
status.
"""

import argparse
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from connectors.topic import Message
from daemon.config import Config
from daemon.connect import open_connector
from daemon.prequential import Prequential
from daemon.records import ModelAnnouncement, Score
from daemon.registry import Registry, RegistryError
from daemon.rows import lines
from daemon.settings import load
from daemon.state import Blobs, Decisions
from daemon.training import Jobs

#: The daemon lives this long before it is killed, in seconds: from while it starts to after it has trained.
LIVES = (0.5, 20.0)

#: What was sent must be scored and counted within this time after the last kill, in seconds.
PATIENCE = 900.0

RELEARND = [sys.executable, "-m", "daemon.cli"]


@dataclass
class Verdict:
    """What was wrong: empty when nothing was. `deeds` counts what the daemon was doing when it was killed."""

    faults: list[str] = field(default_factory=list)
    deeds: Counter[str] = field(default_factory=Counter)
    versions: int = 0
    texts: int = 0
    labels: int = 0

    def __str__(self) -> str:
        deeds = ", ".join(f"{deed} {count}" for deed, count in sorted(self.deeds.items()))
        story = f"{self.texts} texts, {self.labels} labels, {self.versions} versions; killed while {deeds}"
        return f"FAILED: {'; '.join(self.faults)} ({story})" if self.faults else f"PASSED: {story}"


def survive(config_path: Path, texts: Path, labels: Path, *, kills: int, seed: int, rate: float) -> Verdict:
    """Send both files at `rate` a second to a daemon that is killed `kills` times; its home must hold a model."""
    config = load(config_path, environment={}, overrides=[])
    verdict = Verdict()
    moments = random.Random(seed)
    with (
        _sending(config_path, config.topics.texts, texts, rate),
        _sending(config_path, config.topics.labels, labels, rate),
    ):
        for number in range(1, kills + 1):
            with _daemon(config_path) as daemon:
                time.sleep(moments.uniform(*LIVES))
                deed = _deed(config)
                daemon.send_signal(signal.SIGKILL)
            verdict.deeds[deed] += 1
            print(f"kill {number} of {kills}: it was {deed}", flush=True)
    wanted = [json.loads(line)["id"] for line in lines(texts)], sum(1 for _ in lines(labels))
    with _daemon(config_path) as daemon:
        _wait(config, daemon, len(wanted[0]), wanted[1])
        daemon.send_signal(signal.SIGTERM)
        if daemon.wait(60) != 0:
            verdict.faults.append(f"the last daemon ended with status {daemon.returncode}")
    verdict.texts, verdict.labels = len(wanted[0]), wanted[1]
    _check_scores(config, wanted[0], verdict)
    _check_labels(config, wanted[1], verdict)
    _check_versions(config, verdict)
    return verdict


@contextmanager
def _daemon(config: Path) -> Iterator[subprocess.Popen[bytes]]:
    with (config.parent / "daemon.log").open("ab") as log:
        process = subprocess.Popen([*RELEARND, "run", "--config", str(config)], stdout=log, stderr=log)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


@contextmanager
def _sending(config: Path, topic: str, file: Path, rate: float) -> Iterator[None]:
    command = [*RELEARND, "send", topic, str(file), "--rate", str(rate), "--config", str(config)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    yield
    if process.wait(PATIENCE) != 0:
        raise SystemExit(f"{' '.join(command)} ended with status {process.returncode}")


@contextmanager
def open_for_reading(config: Config) -> Iterator[sqlite3.Connection]:
    db = sqlite3.connect(f"file:{config.home / 'state.db'}?mode=ro", uri=True)
    try:
        yield db
    finally:
        db.close()


def _deed(config: Config) -> str:
    """What the daemon is at, as far as one sees from outside."""
    with open_for_reading(config) as db:
        decisions = Decisions(db).latest(1)
        if Jobs(db).running() is not None:
            return "learning"
        recent = decisions and decisions[0]["kind"] == "promoted" and time.time() - decisions[0]["at"] < 2.0
        return "swapping" if recent else "scoring"


def labels_counted(db: sqlite3.Connection) -> int:
    counts = Blobs(db).get_json("prequential", None)
    return Prequential.restored(counts, window=1, max_slices=1).overall.total if counts else 0


def _wait(config: Config, daemon: subprocess.Popen[bytes], texts: int, labels: int) -> None:
    """Until everything sent has been scored and counted and nothing is being learned."""
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until and daemon.poll() is None:
        with open_for_reading(config) as db:
            scored = db.execute("SELECT coalesce(max(seq), 0) FROM scored").fetchone()[0]
            if scored >= texts and labels_counted(db) >= labels and Jobs(db).running() is None:
                return
        time.sleep(0.2)


def messages_of(config: Config, topic: str) -> Iterator[Message]:
    connector = open_connector(config)
    with connector.reader([topic]) as reader:
        end = reader.end()
        while any(reader.positions()[partition] < offset for partition, offset in end.items()):
            yield from reader.poll(10_000, 1.0)
    connector.close()


def _check_scores(config: Config, ids: list[str], verdict: Verdict) -> None:
    scores = [Score.model_validate_json(message.value) for message in messages_of(config, config.topics.scores)]
    found = Counter(score.id for score in scores)
    lost = [id for id in ids if not found[id]]
    doubled = [id for id, count in found.items() if count > 1]
    champions = {
        announced.version
        for announced in (
            ModelAnnouncement.model_validate_json(message.value)
            for message in messages_of(config, config.topics.models)
        )
        if announced.state == "champion"
    }
    strangers = {score.model for score in scores} - champions
    verdict.faults += [f"{len(lost)} texts without a score, as {lost[0]}"] if lost else []
    verdict.faults += [f"{len(doubled)} texts with several scores, as {doubled[0]}"] if doubled else []
    verdict.faults += [f"scores by versions that were never champion: {sorted(strangers)}"] if strangers else []


def _check_labels(config: Config, labels: int, verdict: Verdict) -> None:
    with open_for_reading(config) as db:
        counted = labels_counted(db)
        waiting = db.execute("SELECT count(*) FROM early_labels").fetchone()[0]
    if counted != labels or waiting:
        verdict.faults.append(f"{counted} of {labels} labels counted, {waiting} still waiting")


def _check_versions(config: Config, verdict: Verdict) -> None:
    registry = Registry(config.home / "models")
    verdict.versions = len(registry.manifests())
    for manifest in registry.manifests():
        try:
            registry.verify(manifest.version)
        except RegistryError as error:
            verdict.faults.append(str(error))
    announced = Counter(message.value for message in messages_of(config, config.topics.models))
    twice = [value for value, count in announced.items() if count > 1 and b'"champion"' in value]
    if twice:
        verdict.faults.append(f"announced twice: {twice[0].decode()}")
    strays = [path.name for path in registry.directory.iterdir() if not (path / "manifest.json").is_file()]
    if strays:
        verdict.faults.append(f"left behind in the registry: {', '.join(strays)}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, required=True, help="rows {text, label} for version 1")
    parser.add_argument("--texts", type=Path, required=True)
    parser.add_argument("--labels", type=Path, required=True)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--rate", type=float, default=40.0, help="texts and labels a second")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("out/survival"), help="where its home and log go")
    arguments = parser.parse_args()
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    arguments.out.mkdir(parents=True)
    config = arguments.out / "relearnd.yaml"
    # Learn often: a killed learner is what is wanted.
    config.write_text(
        f"home: {arguments.out.resolve() / 'home'}\nhttp: {{enabled: false}}\n"
        "triggers: {cooldown: 0, labels: 300, min_labels: 100, drift_labels: 100, daily_budget: 1000}\n"
        "learning: {epochs: 1}\ngate: {alpha: 0.5}\n",
        encoding="utf-8",
    )
    fitted = subprocess.run([*RELEARND, "fit", "--data", str(arguments.base), "--config", str(config)], check=False)
    if fitted.returncode:
        return fitted.returncode
    verdict = survive(
        config, arguments.texts, arguments.labels, kills=arguments.kills, seed=arguments.seed, rate=arguments.rate
    )
    print(verdict)
    return 1 if verdict.faults else 0


if __name__ == "__main__":
    raise SystemExit(main())
