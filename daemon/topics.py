"""`relearnd topics`: what the topics should be like at the connector, and making what is missing."""

from collections.abc import Iterator

from connectors.kafka.admin import TopicAdmin, TopicReport, WantedTopic
from daemon.config import Config


def wanted(config: Config) -> list[WantedTopic]:
    """The topics that the config names, as Kafka should have them."""
    names, many = config.topics, config.connector.kafka.topics.partitions
    return [
        WantedTopic(names.texts, many),
        WantedTopic(names.scores, many),
        WantedTopic(names.labels),
        WantedTopic(names.alerts),
        WantedTopic(names.label_requests),
        WantedTopic(names.dead_letters),
        WantedTopic(names.models, compacted=True),
    ]


def needs_none(config: Config) -> str | None:
    """For a connector whose topics come by themselves, a sentence that says so."""
    if config.connector.kind == "kafka":
        return None
    return f"the {config.connector.kind} connector makes a topic when it is first written to; there is nothing to make"


def reports(config: Config) -> list[TopicReport]:
    """What Kafka has of each topic. Raises ConnectorError."""
    return TopicAdmin(config.connector.kafka).check(wanted(config))


def create(config: Config) -> list[str]:
    """Make the topics that Kafka does not have; returns their names. Raises ConnectorError."""
    return TopicAdmin(config.connector.kafka).create(wanted(config))


def sentences(reports: list[TopicReport]) -> Iterator[tuple[bool, str]]:
    """Of each topic, whether it is as wanted, and a sentence."""
    for report in reports:
        problems = "; ".join(report.problems)
        yield not problems, f"topic {report.name}: {problems or report.summary}"
