import json
import os
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import yaml

from connectors.topic import FencedError, Outgoing
from daemon.config import Config
from daemon.connect import open_connector
from daemon.service import Service, ServiceError
from daemon.status import status
from daemon.steering import steer
from tests.daemon.streams import label_row, settings, text_row
from tests.daemon.test_scorer import SOON, wait_for


class Running:
    """A service in a thread of its own, and what became of it."""

    def __init__(self, config: Config, role: str = "all") -> None:
        self.ready = threading.Event()
        self.service = Service(config, role)  # type: ignore[arg-type]
        self.failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.service.run(on_ready=self.ready.set)
        except BaseException as error:  # noqa: BLE001 (kept for the test to see)
            self.failure = error

    def __enter__(self) -> "Running":
        wait_for(lambda: self.ready.is_set() or not self._thread.is_alive())
        return self

    def __exit__(self, *_: object) -> None:
        self.service.stop.set()
        self.join()

    def join(self) -> None:
        self._thread.join(SOON)
        assert not self._thread.is_alive()


def send(config: Config, topic: str, *rows: object) -> None:
    connector = open_connector(config)
    with connector.writer() as writer:
        writer.write([Outgoing(topic, json.dumps(row).encode()) for row in rows])
    connector.close()


def test_texts_and_labels_sent_to_its_topics_show_up_in_its_status(config):
    with Running(config):
        send(config, "texts", *(text_row(number) for number in range(30)))
        send(config, "labels", *(label_row(number) for number in range(30)))
        wait_for(lambda: status(config)["live"]["labels"] == 30)
    found = status(config)
    assert found["texts"] == 30
    assert found["live"]["accuracy"] > 0.9
    assert found["champion"]["version"] == "v1"


def test_the_api_tells_health_readiness_and_metrics_and_takes_commands(config):
    config = config.model_copy(update={"http": config.http.model_copy(update={"enabled": True, "port": 0})})
    with Running(config) as running:
        port = running.service.port

        def get(path: str) -> str:
            return urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=SOON).read().decode()

        assert json.loads(get("/healthz"))["ok"]
        assert json.loads(get("/readyz"))["ok"]
        assert json.loads(get("/status"))["scoring_with"] == "v1"
        assert 'relearnd_model_info{version="v1"} 1.0' in get("/metrics")
        request = urllib.request.Request(f"http://127.0.0.1:{port}/learn", b"{}", {"Content-Type": "application/json"})
        answer = json.loads(urllib.request.urlopen(request, timeout=SOON).read())  # noqa: S310
        assert answer["outcome"] == "a training run is asked for"


def test_a_person_can_make_it_learn_promote_what_came_of_it_and_go_back(config):
    with Running(config):
        send(config, "texts", *(text_row(number, slang=True) for number in range(200)))
        send(config, "labels", *(label_row(number, slang=True) for number in range(200)))
        wait_for(lambda: status(config)["live"]["labels"] == 200)
        assert steer(config, "learn", {"by": "Ada"}, wait=SOON) == "a training run is asked for"
        wait_for(lambda: status(config)["champion"]["version"] == "v2")
        send(config, "texts", text_row(1000, slang=True))
        assert steer(config, "rollback", {"by": "Ada"}, wait=SOON) == "rolled back to v1"
        assert status(config)["champion"]["version"] == "v1"
        assert steer(config, "promote", {"version": "v2"}, wait=SOON) == "promoted v2"
    kinds = [decision["kind"] for decision in status(config)["decisions"]]
    assert kinds[-4:] == ["promoted", "audited", "rolled back", "promoted"]


def test_roles_apart_do_what_one_process_does(config):
    with Running(config, "controller"), Running(config, "scorer"):
        send(config, "texts", text_row(0))
        send(config, "labels", label_row(0))
        wait_for(lambda: status(config)["live"]["labels"] == 1)


def test_a_second_controller_takes_over_and_the_first_one_ends_saying_so(config):
    with Running(config, "controller") as first, Running(config, "controller"):
        first.join()
        assert isinstance(first.failure, FencedError)


def test_without_a_model_it_says_how_to_make_one(encoder, tmp_path):
    with pytest.raises(ServiceError, match="relearnd fit"):
        Service(settings(tmp_path, encoder), "all").run()


def test_as_a_process_it_tells_systemd_learns_at_sigusr1_and_stops_at_sigterm(config, tmp_path):
    path = tmp_path / "relearnd.yaml"
    path.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    with listening(str(tmp_path / "notify")) as said, started(path, str(tmp_path / "notify")) as process:
        wait_for(lambda: b"READY=1" in said)
        process.send_signal(signal.SIGUSR1)
        wait_for(lambda: any("SIGUSR1" in one["because"] for one in status(config)["decisions"]))
        process.send_signal(signal.SIGTERM)
        assert process.wait(SOON) == 0
        wait_for(lambda: b"STOPPING=1" in said)
    assert b"WATCHDOG=1" in said


@contextmanager
def listening(address: str) -> Iterator[list[bytes]]:
    """What systemd is told, as it comes."""
    said: list[bytes] = []
    over = threading.Event()

    def listen() -> None:
        while not over.is_set():
            with suppress(TimeoutError):
                said.append(systemd.recv(100))

    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(address)
        systemd.settimeout(0.1)
        thread = threading.Thread(target=listen)
        thread.start()
        try:
            yield said
        finally:
            over.set()
            thread.join()


@contextmanager
def started(path: Path, address: str) -> "Iterator[subprocess.Popen[bytes]]":
    environment = {**os.environ, "NOTIFY_SOCKET": address}
    command = [sys.executable, "-m", "daemon.cli", "run", "--config", str(path)]
    with subprocess.Popen(command, env=environment) as process:
        try:
            yield process
        finally:
            process.kill()


def test_a_learner_that_is_killed_fails_its_run_and_the_daemon_goes_on(config):
    with Running(config) as running:
        send(config, "texts", *(text_row(number, slang=True) for number in range(200)))
        send(config, "labels", *(label_row(number, slang=True) for number in range(200)))
        wait_for(lambda: status(config)["live"]["labels"] == 200)
        steer(config, "learn", {}, wait=SOON)
        training = running.service.controller.training
        wait_for(lambda: training.learner is not None)
        os.kill(training.learner.pid, signal.SIGKILL)
        wait_for(lambda: status(config)["decisions"][-1]["kind"] == "failed")
        send(config, "texts", text_row(500))
        wait_for(lambda: status(config)["texts"] == 201)
