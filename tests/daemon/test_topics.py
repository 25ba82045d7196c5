import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import yaml
from kafka import KafkaAdminClient

from connectors.kafka.admin import TopicReport
from connectors.topic import ConnectorError
from daemon import topics
from daemon.check import findings
from daemon.config import Config
from tests.kafka import Cluster, free_port


@pytest.fixture
def config(kafka: Cluster, tmp_path: Path) -> Config:
    """Topics that no other test names."""
    return configured(kafka, tmp_path)


def configured(cluster: Cluster, home: Path, **wishes: Any) -> Config:
    own = uuid4().hex[:8]
    names = dict.fromkeys(["texts", "scores", "labels", "alerts", "label_requests", "dead_letters", "models"])
    kafka = {"bootstrap_servers": cluster.bootstrap, "topics": wishes}
    return Config.model_validate(
        {
            "home": home,
            "topics": {name: f"{name}-{own}" for name in names},
            "connector": {"kind": "kafka", "kafka": kafka},
        }
    )


def admin(config: Config) -> KafkaAdminClient:
    return KafkaAdminClient(bootstrap_servers=config.connector.kafka.bootstrap_servers)


def report(config: Config, topic: str) -> TopicReport:
    """As a broker sees it; a topic just made may be known to one and not yet to another, so wait till it is there."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        with suppress(ConnectorError):
            (found,) = (one for one in topics.reports(config) if one.name == topic)
            if not found.missing:
                return found
    pytest.fail(f"{topic} is not there")


@pytest.mark.kafka
def test_what_is_missing_is_made_as_the_config_wants_it(config: Config) -> None:
    assert all(one.missing for one in topics.reports(config))
    assert set(topics.create(config)) == set(config.topics.model_dump().values())
    assert [one for one in topics.reports(config) if one.problems] == []
    assert report(config, config.topics.texts).summary == "6 partitions, 1 copy, kept 7d"
    assert report(config, config.topics.scores).summary == "6 partitions, 1 copy, kept 7d"
    assert report(config, config.topics.alerts).summary == "1 partition, 1 copy, kept 7d"
    assert report(config, config.topics.models).summary == "1 partition, 1 copy, compacted"


@pytest.mark.kafka
def test_what_is_there_is_left_as_it_is_and_what_falls_short_is_said(config: Config) -> None:
    names = config.topics
    with admin(config) as client:
        client.create_topics(
            {
                names.texts: {"num_partitions": 2, "configs": {"retention.ms": "3600000"}},
                names.scores: {"num_partitions": 6, "configs": {"cleanup.policy": "compact"}},
                names.models: {"num_partitions": 3},
            },
            wait_for_metadata=True,
        )
    before = topics.reports(config)
    assert set(topics.create(config)) == {names.labels, names.alerts, names.label_requests, names.dead_letters}
    assert {one for one in before if not one.missing} <= set(topics.reports(config))
    assert report(config, names.texts).problems == (
        "has 2 partitions, fewer than the 6 of connector.kafka.topics",
        "is kept 1h (retention.ms 3600000), and connector.kafka.topics.retention is 7d",
    )
    assert report(config, names.scores).problems == (
        "has cleanup.policy compact, not delete: only the last message of each key would stay",
    )
    assert report(config, names.models).problems == (
        "has 3 partitions; it must have one, so delete it and let `relearnd topics create` make it",
        "has cleanup.policy delete, not compact: what it holds would be deleted in time",
    )


@pytest.mark.kafka
def test_more_than_was_wanted_is_no_problem(config: Config) -> None:
    with admin(config) as client:
        wishes = {"num_partitions": 8, "configs": {"retention.ms": "-1"}}
        client.create_topics({config.topics.texts: wishes}, wait_for_metadata=True)
    assert report(config, config.topics.texts) == TopicReport(
        config.topics.texts, False, "8 partitions, 1 copy, kept for ever", ()
    )


@pytest.mark.kafka
def test_messages_can_be_kept_for_ever(kafka: Cluster, tmp_path: Path) -> None:
    config = configured(kafka, tmp_path, retention=0, partitions=1)
    topics.create(config)
    assert report(config, config.topics.texts).summary == "1 partition, 1 copy, kept for ever"
    shorter = configured(kafka, tmp_path, retention=0, partitions=1)
    with admin(shorter) as client:
        client.create_topics({shorter.topics.texts: {}}, wait_for_metadata=True)
    assert report(shorter, shorter.topics.texts).problems == (
        "is kept 7d (retention.ms 604800000), and connector.kafka.topics.retention is for ever",
    )


@pytest.mark.kafka
def test_more_copies_than_brokers_cannot_be_made_and_the_reason_is_said(kafka: Cluster, tmp_path: Path) -> None:
    config = configured(kafka, tmp_path, replication=3)
    with pytest.raises(ConnectorError, match=r"cannot make the topic .* at 127\.0\.0\.1.*replication"):
        topics.create(config)


@pytest.mark.kafka
def test_three_copies_come_with_two_that_must_acknowledge(start_kafka: Callable[..., Cluster], tmp_path: Path) -> None:
    with start_kafka(3, properties={"min.insync.replicas": "1"}) as cluster:
        config = configured(cluster, tmp_path, replication=3)
        with admin(config) as client:
            client.create_topics(
                {config.topics.labels: {"replication_factor": 2}, config.topics.alerts: {"replication_factor": 3}},
                wait_for_metadata=True,
            )
        topics.create(config)
        assert report(config, config.topics.texts) == TopicReport(
            config.topics.texts, False, "6 partitions, 3 copies, kept 7d", ()
        )
        assert report(config, config.topics.labels).problems[0] == "is kept in 2 copies, fewer than the 3 wanted"
        assert report(config, config.topics.alerts).problems == (
            "has min.insync.replicas 1, not 2: one broker that is lost could take messages with it",
        )
        assert report(config, config.topics.models) == TopicReport(
            config.topics.models, False, "1 partition, 3 copies, compacted", ()
        )


@pytest.mark.kafka
def test_the_commands_make_the_topics_and_tell_what_differs(
    config: Config, relearnd: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    path = tmp_path / "relearnd.yaml"
    path.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    status, said = relearnd("topics", "check", "--config", path)
    assert status == 1
    assert f"topic {config.topics.texts}: is not there; `relearnd topics create` makes it" in said
    status, said = relearnd("topics", "create", "--config", path)
    assert status == 0
    assert config.topics.texts in said
    assert "every topic is there" in relearnd("topics", "create", "--config", path)[1]
    status, said = relearnd("topics", "check", "--config", path)
    assert status == 0, said
    assert f"topic {config.topics.texts}: 6 partitions, 1 copy, kept 7d" in said
    status, said = relearnd("topics", "check", "--config", path, "--set", "connector.kafka.topics.partitions=7")
    assert status == 1
    assert "has 6 partitions, fewer than the 7" in said


@pytest.mark.kafka
def test_check_names_every_topic_that_is_missing_and_then_says_where_each_is(config: Config) -> None:
    def said() -> list[tuple[bool, str]]:
        return [(ok, sentence) for ok, sentence in findings(config) if sentence.startswith("topic")]

    missing = said()
    assert len(missing) == 7
    assert not any(ok for ok, _ in missing)
    topics.create(config)
    assert all(ok for ok, _ in said())
    assert f"topics: reads {config.topics.texts} (at 0) and {config.topics.labels} (at 0)" in said()[-1][1]


def test_check_says_once_that_no_broker_is_there(tmp_path: Path) -> None:
    kafka = {"bootstrap_servers": f"127.0.0.1:{free_port()}", "connect_timeout": 0.5}
    config = Config.model_validate({"home": tmp_path, "connector": {"kind": "kafka", "kafka": kafka}})
    (finding,) = (one for one in findings(config) if "Kafka" in one.sentence)
    assert not finding.ok
    assert "no Kafka broker can be reached" in finding.sentence


@pytest.mark.parametrize("kind", ["local", "jsonl"])
def test_other_connectors_need_no_topics_and_say_so(relearnd: Callable[..., tuple[int, str]], kind: str) -> None:
    for command in ("create", "check"):
        status, said = relearnd("topics", command, "--set", f"connector.kind={kind}")
        assert status == 0
        assert f"the {kind} connector makes a topic when it is first written to" in said


def test_no_broker_to_be_reached_is_said_with_its_address(tmp_path: Path) -> None:
    config = Config.model_validate(
        {"connector": {"kind": "kafka", "kafka": {"bootstrap_servers": "127.0.0.1:9", "connect_timeout": 1}}}
    )
    with pytest.raises(ConnectorError, match=r"no Kafka broker can be reached at 127\.0\.0\.1:9"):
        topics.create(config)
