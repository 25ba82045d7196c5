"""The connector that the config names."""

from connectors.jsonl import JsonlConnector
from connectors.kafka.connector import KafkaConnector
from connectors.local import LocalConnector
from connectors.topic import Connector
from daemon.config import Config


def open_connector(config: Config) -> Connector:
    """Raises connectors.topic.ConnectorError when it cannot be opened."""
    settings = config.connector
    if settings.kind == "jsonl":
        return JsonlConnector(settings.jsonl.directory or config.home / "topics", follow=settings.jsonl.follow)
    if settings.kind == "kafka":
        return KafkaConnector(settings.kafka)
    return LocalConnector(
        settings.local.path or config.home / "topics.db",
        retention=settings.local.retention,
        keep=frozenset({config.topics.models}),
    )
