"""Making Kafka topics, and comparing those there are with what is wanted. What is there is never changed."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from kafka import errors
from kafka.admin import ConfigResource, ConfigResourceType

from connectors.kafka.client import Admin, Clients
from connectors.kafka.errors import explained
from connectors.kafka.settings import KafkaSettings, KafkaTopicsSettings
from connectors.seconds import format_seconds
from connectors.topic import ConnectorError

#: With so many copies or more, a write is there when two brokers have it: one of them may be lost, one may be down.
COPIES_FOR_TWO = 3

#: The settings of a topic that are compared.
COMPARED = ["cleanup.policy", "retention.ms", "min.insync.replicas"]


class WantedTopic(NamedTuple):
    """A topic that should be there, with so many partitions at least; exactly one when `compacted`.

    What a compacted topic holds is the latest message of each key, and it is read in one order.
    """

    name: str
    partitions: int = 1
    compacted: bool = False


class TopicReport(NamedTuple):
    """What is there of a wanted topic: in words, and in which ways it is not as wanted."""

    name: str
    missing: bool
    summary: str
    problems: tuple[str, ...]


class TopicAdmin:
    """Makes topics, and looks at them.

    Raises:
        ConnectorError: no broker can be reached, or this user may not do that.
    """

    def __init__(self, settings: KafkaSettings) -> None:
        self._settings = settings
        self._clients = Clients(settings)

    def check(self, wanted: Sequence[WantedTopic]) -> list[TopicReport]:
        """What is there of each topic. More partitions, copies or days than wanted are no problem."""
        names = [topic.name for topic in wanted]
        with self._admin("look up topics") as admin:
            described = {topic["name"]: topic for topic in admin.describe_topics(names)}
            there = [name for name in names if _exists(described[name])]
            configs = _configs(admin, there) if there else {}
        return [
            _report(topic, described[topic.name], configs[topic.name], self._settings.topics)
            if topic.name in configs
            else TopicReport(topic.name, True, "", ("is not there; `relearnd topics create` makes it",))
            for topic in wanted
        ]

    def create(self, wanted: Sequence[WantedTopic]) -> list[str]:
        """Make the topics that are missing; returns their names.

        Raises:
            ConnectorError: one of them cannot be made; the message says which are.
        """
        missing = {report.name for report in self.check(wanted) if report.missing}
        new = {topic.name: self._new(topic) for topic in wanted if topic.name in missing}
        if not new:
            return []
        made = []
        with self._admin("make topics") as admin:
            for answer in admin.create_topics(new, raise_errors=False)["topics"]:
                error = errors.for_code(answer["error_code"])
                if error is errors.NoError:
                    made.append(answer["name"])
                elif error is not errors.TopicAlreadyExistsError:  # someone else was quicker
                    raise self._not_made(answer["name"], error(answer["error_message"]), made)
            admin.wait_for_topics(made)
        return made

    @property
    def _where(self) -> str:
        return self._settings.bootstrap_servers

    def _not_made(self, name: str, error: Exception, made: Sequence[str]) -> ConnectorError:
        doing = f"make the topic {name!r} at {self._where}" + (f" ({', '.join(made)} made)" if made else "")
        if isinstance(error, errors.AuthorizationError):
            return ConnectorError(f"cannot {doing}: this user may not; let an administrator allow Create, or make it")
        return explained(error, doing)

    @contextmanager
    def _admin(self, doing: str) -> Iterator[Admin]:
        try:
            admin = self._clients.admin()
        except errors.KafkaTimeoutError as error:
            reason = self._clients.diagnosis()
            raise ConnectorError(f"no Kafka broker can be reached at {self._where}: {reason}") from error
        except errors.KafkaError as error:
            raise explained(error, f"connect to Kafka at {self._where}") from error
        try:
            yield admin
        except errors.KafkaError as error:
            raise explained(error, f"{doing} at {self._where}") from error
        finally:
            admin.close()

    def _new(self, topic: WantedTopic) -> dict[str, Any]:
        topics = self._settings.topics
        configs = {"cleanup.policy": "compact"} if topic.compacted else {"retention.ms": str(_retention_ms(topics))}
        if topics.replication >= COPIES_FOR_TWO:
            configs["min.insync.replicas"] = "2"
        # -1 leaves it to the brokers' default.replication.factor (KIP-464).
        return {
            "num_partitions": topic.partitions,
            "replication_factor": topics.replication or -1,
            "configs": configs,
        }


def _exists(described: Mapping[str, Any]) -> bool:
    error = errors.for_code(described["error_code"])
    if error is errors.NoError:
        return True
    if issubclass(error, errors.UnknownTopicOrPartitionError):
        return False
    raise error(f"topic {described['name']!r}")


def _configs(admin: Admin, names: Iterable[str]) -> dict[str, dict[str, str]]:
    """The compared settings of each topic; none of those that this user may not see."""
    resources = [ConfigResource(ConfigResourceType.TOPIC, name, COMPARED) for name in names]
    found = admin.describe_configs(resources, config_filter="all")["topic"]
    return {name: {key: config["value"] for key, config in configs.items()} for name, configs in found.items()}


def _report(
    topic: WantedTopic, described: Mapping[str, Any], config: Mapping[str, str], settings: KafkaTopicsSettings
) -> TopicReport:
    partitions = len(described["partitions"])
    copies = min(len(partition["replica_nodes"]) for partition in described["partitions"])
    problems = [*_wrong_size(topic, partitions, copies, settings), *_wrong_config(topic, config, settings)]
    summary = f"{_count(partitions, 'partition')}, {_count(copies, 'copy', 'copies')}"
    if not config:
        summary += "; this user may not see its settings (DescribeConfigs)"
    elif topic.compacted:
        summary += ", compacted"
    else:
        summary += f", kept {_kept(int(config['retention.ms']))}"
    return TopicReport(topic.name, False, summary, tuple(problems))


def _wrong_size(topic: WantedTopic, partitions: int, copies: int, settings: KafkaTopicsSettings) -> Iterator[str]:
    if topic.compacted and partitions != 1:
        yield f"has {partitions} partitions; it must have one, so delete it and let `relearnd topics create` make it"
    if partitions < topic.partitions:
        yield f"has {_count(partitions, 'partition')}, fewer than the {topic.partitions} of connector.kafka.topics"
    if copies < settings.replication:
        yield f"is kept in {_count(copies, 'copy', 'copies')}, fewer than the {settings.replication} wanted"


def _wrong_config(topic: WantedTopic, config: Mapping[str, str], settings: KafkaTopicsSettings) -> Iterator[str]:
    if not config:
        return
    policy = config["cleanup.policy"]
    if policy != "compact" and topic.compacted:
        yield f"has cleanup.policy {policy}, not compact: what it holds would be deleted in time"
    if "compact" in policy and not topic.compacted:
        yield f"has cleanup.policy {policy}, not delete: only the last message of each key would stay"
    kept, wanted = int(config["retention.ms"]), _retention_ms(settings)
    if not topic.compacted and kept != -1 and (kept < wanted or wanted == -1):
        wish = f"connector.kafka.topics.retention is {_kept(wanted)}"
        yield f"is kept {_kept(kept)} (retention.ms {kept}), and {wish}"
    if settings.replication >= COPIES_FOR_TWO and int(config["min.insync.replicas"]) < 2:
        yield "has min.insync.replicas 1, not 2: one broker that is lost could take messages with it"


def _retention_ms(settings: KafkaTopicsSettings) -> int:
    return round(settings.retention * 1000) or -1


def _kept(milliseconds: int) -> str:
    return "for ever" if milliseconds == -1 else format_seconds(milliseconds / 1000)


def _count(number: int, one: str, more: str = "") -> str:
    return f"{number} {one if number == 1 else more or one + 's'}"
