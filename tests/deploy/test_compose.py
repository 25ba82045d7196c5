"""Compose cannot be run here; these hold what reading its file can hold."""

import re
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml

from daemon.cli import app
from daemon.settings import load
from tests.kafka import POM

Services = dict[str, dict[str, Any]]


@pytest.fixture
def services(deploy: Path) -> Services:
    content = yaml.safe_load((deploy / "docker" / "compose.yaml").read_text())
    services: Services = content["services"]
    named = {volume.split(":")[0] for service in services.values() for volume in service["volumes"]}
    assert named == set(content["volumes"])
    return services


def addresses(broker: dict[str, Any], variable: str) -> dict[str, str]:
    """Listeners by name."""
    return dict(one.split("://") for one in broker["environment"][variable].split(","))


def test_the_broker_is_the_version_that_the_tests_run_on(services: Services) -> None:
    (version,) = re.findall(r"<artifactId>kafka_[\d.]+</artifactId>\s*<version>([\d.]+)</version>", POM.read_text())
    assert services["kafka"]["image"] == f"apache/kafka:{version}"


def test_the_listeners_fit_together(services: Services) -> None:
    broker = services["kafka"]
    here, told = addresses(broker, "KAFKA_LISTENERS"), addresses(broker, "KAFKA_ADVERTISED_LISTENERS")
    controller = broker["environment"]["KAFKA_CONTROLLER_LISTENER_NAMES"]
    assert set(told) == set(here) - {controller}
    assert all(told[name].split(":")[1] == here[name].split(":")[1] for name in told)
    assert broker["environment"]["KAFKA_CONTROLLER_QUORUM_VOTERS"] == f"1@{here[controller]}"
    assert broker["environment"]["KAFKA_INTER_BROKER_LISTENER_NAME"] in told
    protocols = dict(one.split(":") for one in broker["environment"]["KAFKA_LISTENER_SECURITY_PROTOCOL_MAP"].split(","))
    assert set(protocols) == set(here)
    assert f"127.0.0.1:{told['OUTSIDE'].split(':')[1]}:{here['OUTSIDE'].removeprefix(':')}" in broker["ports"]


def test_only_this_machine_reaches_the_containers(services: Services) -> None:
    assert all(port.startswith("127.0.0.1:") for service in services.values() for port in service.get("ports", []))


@pytest.mark.parametrize("name", ["topics", "relearnd"])
def test_the_daemon_finds_the_broker_and_its_commands_exist(services: Services, name: str) -> None:
    service = services[name]
    config = load(None, environment=service["environment"], overrides=[])
    assert config.connector.kind == "kafka"
    assert (
        config.connector.kafka.bootstrap_servers in addresses(services["kafka"], "KAFKA_ADVERTISED_LISTENERS").values()
    )
    command = typer.main.get_command(app)
    for word in service["command"]:
        command = command.commands[word]  # type: ignore[attr-defined]


def test_the_daemon_starts_when_the_broker_is_up_and_the_topics_are_made(services: Services) -> None:
    assert services["topics"]["depends_on"] == {"kafka": {"condition": "service_healthy"}}
    assert services["relearnd"]["depends_on"] == {"topics": {"condition": "service_completed_successfully"}}


def test_the_image_is_built_from_a_dockerfile_that_is_there(services: Services, deploy: Path) -> None:
    build = services["relearnd"]["build"]
    context = (deploy / "docker" / build["context"]).resolve()
    assert context == deploy.parent.resolve()
    assert (context / build["dockerfile"]).is_file()
