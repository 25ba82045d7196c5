"""A controller and a scorer as processes of their own, with homes of their own: they share topics and a store."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from connectors.topic import Message, Outgoing
from daemon.config import Config
from daemon.connect import open_connector
from daemon.records import Alert, ModelAnnouncement, Score
from daemon.registry import Registry
from daemon.store import Store
from tests.daemon.streams import text_row
from tests.daemon.test_scorer import SOON, wait_for
from tests.daemon.versions import another

RELEARND = [sys.executable, "-m", "daemon.cli"]


class Apart:
    """The controller's machine, the scorer's machine, and what is between them."""

    def __init__(self, config: Config, directory: Path) -> None:
        self.config = config.model_copy(
            update={
                "connector": config.connector.model_copy(
                    update={"local": config.connector.local.model_copy(update={"path": directory / "topics.db"})}
                ),
                "registry": config.registry.model_copy(update={"url": str(directory / "store")}),
                "logging": config.logging.model_copy(update={"level": "info"}),
            }
        )
        self.registry = Registry(config.home / "models")
        self.store = Store(str(directory / "store"))
        self.scorer_home = directory / "scorer"
        self._directory = directory
        self._connector = open_connector(self.config)

    @contextmanager
    def running(self, role: str) -> Iterator["subprocess.Popen[bytes]"]:
        """The role as a process, which is killed at the end if it has not stopped by itself."""
        home = self.scorer_home if role == "scorer" else self.config.home
        command = [*RELEARND, "run", "--role", role, "--config", str(self.write(role)), "--set", f"home={home}"]
        with self.log(role).open("ab") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
            try:
                yield process
            finally:
                process.kill()

    def promote(self, version: str) -> str:
        command = [*RELEARND, "models", "promote", version, "--config", str(self.write("person"))]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=SOON).stdout.strip()

    def write(self, who: str) -> Path:
        path = self._directory / f"{who}.yaml"
        path.write_text(yaml.safe_dump(self.config.model_dump(mode="json")), encoding="utf-8")
        return path

    def log(self, role: str) -> Path:
        return self._directory / f"{role}.log"

    def send(self, *numbers: int) -> None:
        with self._connector.writer() as writer:
            rows = [json.dumps(text_row(number)).encode() for number in numbers]
            writer.write([Outgoing(self.config.topics.texts, row) for row in rows])

    def read(self, topic: str) -> list[Message]:
        with self._connector.reader([topic]) as reader:
            return reader.poll(10_000, 0.0)

    def scored(self) -> list[tuple[str, str]]:
        scores = [Score.model_validate_json(message.value) for message in self.read(self.config.topics.scores)]
        return [(score.id, score.model) for score in scores]

    def announced(self) -> list[tuple[str, str]]:
        said = [ModelAnnouncement.model_validate_json(one.value) for one in self.read(self.config.topics.models)]
        return [(one.version, one.state) for one in said]

    def alerts(self) -> list[tuple[str, str, str]]:
        said = [Alert.model_validate_json(message.value) for message in self.read(self.config.topics.alerts)]
        return [(one.name, one.key, one.status) for one in said]

    def until(self, condition: Callable[[], bool], *processes: "subprocess.Popen[bytes]") -> None:
        wait_for(lambda: condition() or any(process.poll() is not None for process in processes))
        assert condition(), "".join(path.read_text() for path in self._directory.glob("*.log"))

    def events(self, role: str) -> list[str]:
        """What the role's log tells, line by line."""
        text = self.log(role).read_text()
        whole = text[: text.rfind("\n") + 1].splitlines()
        return [json.loads(line)["event"] for line in whole if line.startswith("{")]

    def close(self) -> None:
        self._connector.close()


@pytest.fixture
def apart(config: Config, tmp_path: Path) -> Iterator[Apart]:
    apart = Apart(config, tmp_path)
    yield apart
    apart.close()


def test_a_scorer_waits_for_the_first_champion_and_catches_up_with_a_promotion_that_it_slept_through(apart):
    apart.send(0)
    with apart.running("scorer") as scorer:
        with apart.running("controller") as controller:
            apart.until(lambda: apart.scored() == [("t0", "v1")], scorer, controller)
            scorer.kill()
            scorer.wait()
            another(apart.registry, 2)
            assert apart.promote("v2") == "promoted v2"
            apart.until(lambda: apart.announced()[1:] == [("v1", "retired"), ("v2", "champion")], controller)
        # The controller is not needed for it.
        apart.send(1)
        with apart.running("scorer") as scorer:
            apart.until(lambda: apart.scored()[1:] == [("t1", "v2")], scorer)
            scorer.send_signal(signal.SIGTERM)
            assert scorer.wait(SOON) == 0
    assert not (apart.scorer_home / "models").exists()


def test_a_damaged_version_in_the_store_leaves_the_old_one_scoring_until_it_is_mended(apart):
    with apart.running("controller") as controller, apart.running("scorer") as scorer:
        made = another(apart.registry, 2)
        apart.store.put(apart.registry.path("v2"), made)
        weights = Path(apart.store.url.removeprefix("file://")) / "v2" / "model.safetensors"
        whole = weights.read_bytes()
        weights.write_bytes(whole[: len(whole) // 2])
        apart.until(lambda: apart.announced() == [("v1", "champion")], controller)
        apart.send(0)
        apart.until(lambda: apart.scored() == [("t0", "v1")], scorer)

        assert apart.promote("v2") == "promoted v2"
        apart.until(lambda: apart.alerts() == [("model-not-loaded", "v2", "firing")], scorer, controller)
        apart.send(1)
        apart.until(lambda: apart.scored()[1:] == [("t1", "v1")], scorer)

        weights.write_bytes(whole)
        apart.until(lambda: apart.events("scorer").count("swapped") == 2, scorer)
        apart.send(2)
        apart.until(lambda: apart.scored()[2:] == [("t2", "v2")], scorer)
        apart.until(lambda: apart.alerts()[1:] == [("model-not-loaded", "v2", "resolved")], scorer)


def test_a_controller_that_is_killed_neither_repeats_nor_loses_a_decision(apart):
    another(apart.registry, 2)
    store = Path(apart.store.url.removeprefix("file://"))
    with apart.running("controller") as controller:
        apart.until(lambda: apart.announced() == [("v1", "champion")], controller)
        # It decides, and cannot announce: nobody could fetch what it would name.
        store.rename(store.with_name("away"))
        store.write_text("a file where the store was")
        assert apart.promote("v2") == "promoted v2"
        apart.until(lambda: "model not published" in apart.events("controller"), controller)
    store.unlink()
    store.with_name("away").rename(store)
    told = [("v1", "champion"), ("v1", "retired"), ("v2", "champion")]
    with apart.running("controller") as controller:
        apart.until(lambda: apart.announced() == told, controller)
    with apart.running("controller") as controller:
        apart.until(lambda: apart.events("controller").count("ready") == 3, controller)
        assert apart.promote("v2") == "v2 is champion already"
    assert apart.announced() == told
