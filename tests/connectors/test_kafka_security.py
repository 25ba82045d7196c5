"""Brokers that ask who is there: with the right secrets everything works, with wrong ones a sentence says which."""

import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from kafka import KafkaAdminClient
from kafka.admin import (
    ACL,
    ACLOperation,
    ACLPermissionType,
    ACLResourcePatternType,
    ResourcePattern,
    ResourceType,
    UserScramCredentialUpsertion,
)

from connectors.kafka.admin import TopicAdmin, WantedTopic
from connectors.kafka.connector import KafkaConnector
from connectors.kafka.settings import KafkaSettings
from connectors.topic import ConnectorError, Outgoing
from tests.connectors.certificates import Authority
from tests.kafka import Cluster, free_port

pytestmark = pytest.mark.kafka

#: Seconds after which a test that waits for something has failed.
PATIENCE = 60.0

#: Where in Kafka every user's rights end and `relearnd`'s begin.
PREFIX = "ours-"

PASSWORD = "correct horse battery"  # noqa: S105
WRONG = "wrong horse battery"

#: For brokers that cannot be reached at all, which time might mend: it is only told when this is up.
SOON = {"connect_timeout": 2}

LOGINS = ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"]


@dataclass(frozen=True)
class Guarded:
    """A broker that asks for certificates at its listener `ssl` and for passwords, over TLS, at `sasl`."""

    cluster: Cluster
    directory: Path
    authority: Authority
    ssl: str
    sasl: str

    def certified(self, **options: Any) -> KafkaSettings:
        """`relearnd`, who shows a certificate."""
        certificate, key = self.directory / "relearnd.crt", self.directory / "relearnd.key"
        own = {"bootstrap_servers": self.ssl, "security_protocol": "SSL", "cert_file": certificate, "key_file": key}
        return self._settings({**own, **options})

    def login(self, mechanism: str = "SCRAM-SHA-512", **options: Any) -> KafkaSettings:
        """`relearnd`, who has a password."""
        own = {"bootstrap_servers": self.sasl, "security_protocol": "SASL_SSL", "sasl_mechanism": mechanism}
        return self._settings({**own, "username": "relearnd", "password_file": self.password(PASSWORD), **options})

    def password(self, text: str) -> Path:
        file = self.directory / f"password-{uuid4().hex[:8]}"
        file.write_text(text + "\n")
        return file

    def topic(self) -> str:
        """A new one, which `relearnd` may use."""
        name = f"{PREFIX}{uuid4().hex[:8]}"
        with self.admin() as admin:
            admin.create_topics({name: {}}, wait_for_metadata=True)
        return name

    def admin(self) -> KafkaAdminClient:
        return KafkaAdminClient(bootstrap_servers=self.cluster.bootstrap)

    def enrol(self, user: str) -> None:
        """Let `user` log in by either SCRAM, with the password that all have."""
        with self.admin() as admin:
            for mechanism in ("SCRAM_SHA_256", "SCRAM_SHA_512"):
                answer = admin.alter_user_scram_credentials([UserScramCredentialUpsertion(user, mechanism, PASSWORD)])
                assert answer == {user: None}

    def allow(self, user: str, kind: ResourceType, *operations: ACLOperation, name: str = PREFIX) -> None:
        pattern = ResourcePattern(kind, name, ACLResourcePatternType.PREFIXED)
        with self.admin() as admin:
            admin.create_acls(
                [ACL(f"User:{user}", "*", operation, ACLPermissionType.ALLOW, pattern) for operation in operations]
            )

    def _settings(self, options: dict[str, Any]) -> KafkaSettings:
        return KafkaSettings.model_validate({"ca_file": self.authority.file, "connect_timeout": 30, **options})


@pytest.fixture(scope="module")
def guarded(start_kafka: Callable[..., Cluster], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    directory = tmp_path_factory.mktemp("secrets")
    authority = Authority(directory, "authority")
    certificate, key = authority.sign("broker")
    authority.sign("relearnd")
    keys = directory / "broker.pem"
    keys.write_bytes(key.read_bytes() + certificate.read_bytes())
    ports = {"SSL": free_port(), "SASL_SSL": free_port()}
    with start_kafka(listeners=ports, properties=_guards(keys, authority.file)) as cluster:
        broker = Guarded(cluster, directory, authority, f"127.0.0.1:{ports['SSL']}", f"127.0.0.1:{ports['SASL_SSL']}")
        for user in ("relearnd", "stranger"):
            broker.enrol(user)
        every = (ACLOperation.READ, ACLOperation.WRITE, ACLOperation.DESCRIBE)
        broker.allow("relearnd", ResourceType.TOPIC, *every)
        broker.allow("relearnd", ResourceType.GROUP, ACLOperation.READ)
        for name in (PREFIX, "relearnd-writer-"):
            broker.allow(
                "relearnd",
                ResourceType.TRANSACTIONAL_ID,
                ACLOperation.WRITE,
                ACLOperation.DESCRIBE,
                name=name,
            )
        yield broker


def _guards(keys: Path, authority: Path) -> dict[str, str]:
    """Settings of the broker: everyone must show who they are, and may do what was allowed to them."""
    plain = f'org.apache.kafka.common.security.plain.PlainLoginModule required user_relearnd="{PASSWORD}"'
    scram = "org.apache.kafka.common.security.scram.ScramLoginModule required"
    return {
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": str(keys),
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": str(authority),
        "ssl.principal.mapping.rules": "RULE:^CN=([^,]+).*$/$1/",
        "listener.name.ssl.ssl.client.auth": "required",
        "sasl.enabled.mechanisms": ",".join(LOGINS),
        "listener.name.sasl_ssl.plain.sasl.jaas.config": f'{plain} user_stranger="{PASSWORD}";',
        "listener.name.sasl_ssl.scram-sha-256.sasl.jaas.config": f"{scram};",
        "listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config": f"{scram};",
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        # The tests themselves, and the broker to itself, on the listener that asks nothing.
        "super.users": "User:ANONYMOUS",
    }


def use(settings: KafkaSettings, topic: str) -> list[bytes]:
    """Read, process, write: everything that the daemon does; returns what came out."""
    connector = KafkaConnector(settings)
    try:
        with connector.writer() as writer, connector.reader([topic], group=f"{topic}-group") as reader:
            writer.write([Outgoing(topic, b"text")])
            (message,) = reader.poll(1, PATIENCE)
            positions = reader.positions()
            writer.write([Outgoing(topic, message.value + b" scored")], reader=reader, positions=positions)
            (answer,) = reader.poll(1, PATIENCE)
        assert connector.committed(f"{topic}-group") == positions
    finally:
        connector.close()
    return [message.value, answer.value]


def refusal(settings: KafkaSettings, topic: str) -> str:
    with pytest.raises(ConnectorError) as refused:
        use(settings, topic)
    return str(refused.value)


# With the right secrets


def test_a_certificate_opens_a_listener_that_asks_for_one(guarded: Guarded) -> None:
    assert use(guarded.certified(), guarded.topic()) == [b"text", b"text scored"]


@pytest.mark.parametrize("mechanism", LOGINS)
def test_a_password_from_a_file_logs_in(guarded: Guarded, mechanism: str) -> None:
    assert use(guarded.login(mechanism), guarded.topic()) == [b"text", b"text scored"]


@pytest.mark.parametrize("variable", ["KAFKA_PASSWORD", "OUR_SECRET"])
def test_a_password_from_the_environment_logs_in(
    guarded: Guarded, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, PASSWORD)
    settings = guarded.login(password_file=None, password_variable=variable)
    assert use(settings, guarded.topic()) == [b"text", b"text scored"]


def test_members_of_a_group_log_in_too(guarded: Guarded) -> None:
    topic = guarded.topic()
    connector = KafkaConnector(guarded.login())
    with connector.writer() as writer, connector.reader([topic], group=f"{topic}-members", shared=True) as reader:
        writer.write([Outgoing(topic, b"text")])
        (message,) = reader.poll(1, PATIENCE)
        writer.write([Outgoing(topic, message.value)], reader=reader, positions=reader.positions(), claim=reader.claim)
        assert connector.committed(f"{topic}-members") == reader.positions()
    connector.close()


def test_topics_are_made_by_a_user_who_may(guarded: Guarded) -> None:
    name = f"made-{uuid4().hex[:8]}"
    admin = TopicAdmin(guarded.certified())
    with pytest.raises(ConnectorError, match=f"this user may not use the topic.*{name}"):
        admin.create([WantedTopic(name)])
    guarded.allow("relearnd", ResourceType.TOPIC, ACLOperation.DESCRIBE, name="made-")
    with pytest.raises(ConnectorError, match=f"cannot make the topic '{name}'.*let an administrator allow Create"):
        admin.create([WantedTopic(name)])
    guarded.allow("relearnd", ResourceType.TOPIC, ACLOperation.CREATE, name="made-")
    assert admin.create([WantedTopic(name)]) == [name]
    (report,) = admin.check([WantedTopic(name)])
    assert report.summary == "1 partition, 1 copy; this user may not see its settings (DescribeConfigs)"
    guarded.allow("relearnd", ResourceType.TOPIC, ACLOperation.DESCRIBE_CONFIGS, name="made-")
    (report,) = admin.check([WantedTopic(name)])
    assert report.summary == "1 partition, 1 copy, kept 7d"


# With wrong ones


@pytest.mark.parametrize("mechanism", LOGINS)
def test_a_wrong_password_is_said_to_be_one(guarded: Guarded, mechanism: str) -> None:
    said = refusal(guarded.login(mechanism, password_file=guarded.password(WRONG)), "texts")
    assert f"cannot connect to Kafka at {guarded.sasl}: the login was refused" in said
    assert "check connector.kafka.username and the password" in said


def test_an_unknown_user_is_refused_like_a_wrong_password(guarded: Guarded) -> None:
    said = refusal(guarded.login(username="nobody"), "texts")
    assert "the login was refused; check connector.kafka.username and the password" in said


@pytest.mark.parametrize("listener", ["ssl", "sasl"])
def test_a_broker_signed_by_another_authority_is_not_trusted(guarded: Guarded, listener: str, tmp_path: Path) -> None:
    other = Authority(tmp_path, "another").file
    settings = guarded.certified(ca_file=other, **SOON) if listener == "ssl" else guarded.login(ca_file=other, **SOON)
    said = refusal(settings, "texts")
    assert f"{settings.bootstrap_servers} has a certificate that is not trusted" in said
    assert "connector.kafka.ca_file" in said


def test_a_broker_with_a_certificate_for_another_name_is_not_trusted(guarded: Guarded) -> None:
    server = guarded.sasl.replace("127.0.0.1", "localhost")
    said = refusal(guarded.login(bootstrap_servers=server, **SOON), "texts")
    assert f"{server} has a certificate that is not trusted" in said
    assert "not valid for 'localhost'" in said


def test_a_missing_certificate_of_the_client_is_named(guarded: Guarded) -> None:
    said = refusal(guarded.certified(cert_file=None, key_file=None, **SOON), "texts")
    assert f"no Kafka broker can be reached at {guarded.ssl}" in said
    assert "connector.kafka.cert_file" in said


def test_a_certificate_that_the_broker_does_not_trust_is_named(guarded: Guarded, tmp_path: Path) -> None:
    certificate, key = Authority(tmp_path, "another").sign("relearnd")
    said = refusal(guarded.certified(cert_file=certificate, key_file=key, **SOON), "texts")
    assert f"no Kafka broker can be reached at {guarded.ssl}" in said
    assert "connector.kafka.cert_file" in said


@pytest.mark.parametrize(
    ("protocol", "listener"), [("PLAINTEXT", "ssl"), ("PLAINTEXT", "sasl"), ("SSL", "plain"), ("SASL_SSL", "plain")]
)
def test_a_listener_that_speaks_otherwise_is_named(guarded: Guarded, protocol: str, listener: str) -> None:
    server = {"ssl": guarded.ssl, "sasl": guarded.sasl, "plain": guarded.cluster.bootstrap}[listener]
    said = refusal(guarded.login(bootstrap_servers=server, security_protocol=protocol, **SOON), "texts")
    assert f"no Kafka broker can be reached at {server}" in said
    assert "connector.kafka.security_protocol" in said


def test_a_password_where_the_listener_asks_for_none_is_named(guarded: Guarded) -> None:
    said = refusal(
        guarded.login(bootstrap_servers=guarded.cluster.bootstrap, security_protocol="SASL_PLAINTEXT"), "texts"
    )
    assert "connector.kafka.security_protocol" in said


def test_a_broker_that_is_not_there_is_named(guarded: Guarded) -> None:
    server = f"127.0.0.1:{free_port()}"
    said = refusal(guarded.login(bootstrap_servers=server, **SOON), "texts")
    assert f"no Kafka broker can be reached at {server}" in said
    assert "Connection refused" in said


# Without the rights


def test_a_topic_that_is_missing_is_named_with_what_makes_it(guarded: Guarded) -> None:
    name = f"{PREFIX}nowhere"
    said = refusal(guarded.login(), name)
    assert f"there is no topic '{name}' at {guarded.sasl}" in said
    assert "relearnd topics create" in said


def test_a_topic_that_may_not_be_used_is_named(guarded: Guarded) -> None:
    topic = guarded.topic()
    said = refusal(guarded.login(username="stranger"), topic)
    assert f"cannot use the topic '{topic}' at {guarded.sasl}: this user may not use the topic" in said
    assert "let an administrator allow Read, Write and Describe" in said


def test_a_topic_that_may_be_read_and_not_written_is_named(guarded: Guarded) -> None:
    topic = guarded.topic()
    user = _user(guarded, topic, group=True, transactions=True, topic_rights=[ACLOperation.READ, ACLOperation.DESCRIBE])
    said = refusal(guarded.login(username=user), topic)
    assert f"cannot write to '{topic}' at {guarded.sasl}: this user may not use the topic" in said


def test_a_topic_that_may_be_written_and_not_read_is_named(guarded: Guarded) -> None:
    topic = guarded.topic()
    rights = [ACLOperation.WRITE, ACLOperation.DESCRIBE]
    user = _user(guarded, topic, group=True, transactions=True, topic_rights=rights)
    said = refusal(guarded.login(username=user), topic)
    assert f"cannot commit positions in '{topic}' for the group '{topic}-group-owner' at {guarded.sasl}" in said
    assert "this user may not use the topic; let an administrator allow Read, Write and Describe" in said


def test_a_group_that_may_not_be_used_is_named(guarded: Guarded) -> None:
    topic = guarded.topic()
    said = refusal(guarded.login(username=_user(guarded, topic, group=False, transactions=True)), topic)
    assert f"{topic}-group" in said
    assert "this user may not use the consumer group; let an administrator allow Read" in said


def test_transactions_that_may_not_be_written_are_named_with_the_way_around(guarded: Guarded) -> None:
    topic = guarded.topic()
    user = _user(guarded, topic, group=True, transactions=False)
    said = refusal(guarded.login(username=user), topic)
    assert "this user may not write transactions; let an administrator allow Write and Describe" in said
    assert "or set connector.kafka.delivery to at-least-once" in said
    assert use(guarded.login(username=user, delivery="at-least-once"), topic) == [b"text", b"text scored"]


def _user(
    guarded: Guarded, topic: str, *, group: bool, transactions: bool, topic_rights: list[ACLOperation] | None = None
) -> str:
    """A new user with these rights."""
    user = f"user-{topic}"
    guarded.enrol(user)
    rights = topic_rights or [ACLOperation.READ, ACLOperation.WRITE, ACLOperation.DESCRIBE]
    guarded.allow(user, ResourceType.TOPIC, *rights, name=topic)
    if group:
        guarded.allow(user, ResourceType.GROUP, ACLOperation.READ, name=topic)
    if transactions:
        for name in (topic, "relearnd-writer-"):
            guarded.allow(user, ResourceType.TRANSACTIONAL_ID, ACLOperation.WRITE, ACLOperation.DESCRIBE, name=name)
    return user


# Files and variables


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"password_file": "missing"}, r"connector\.kafka\.password_file: .*missing cannot be read: No such file"),
        ({"password_file": "empty"}, r"connector\.kafka\.password_file: .*empty holds no password for 'relearnd'"),
        ({"password_file": "binary"}, r"connector\.kafka\.password_file: .*binary cannot be read"),
        ({"password_variable": "UNSET"}, r"the environment variable UNSET holds no password for 'relearnd'"),
        ({"ca_file": "missing"}, r"connector\.kafka\.ca_file: .*missing cannot be used: No such file"),
        ({"ca_file": "empty"}, r"connector\.kafka\.ca_file: .*empty cannot be used"),
        ({"cert_file": "missing", "key_file": "empty"}, r"connector\.kafka\.cert_file: .*missing with key_file"),
        ({"cert_file": "relearnd.crt", "key_file": "broker.key"}, r"connector\.kafka\.cert_file: .*cannot be used"),
    ],
)
def test_a_file_or_variable_that_cannot_be_used_is_named(
    guarded: Guarded, tmp_path: Path, options: dict[str, str], said: str
) -> None:
    (tmp_path / "empty").touch()
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    given: dict[str, Any] = {"password_file": None} if "password_variable" in options else {}
    for name, value in options.items():
        here = guarded.directory / value if (guarded.directory / value).exists() else tmp_path / value
        given[name] = here if name.endswith("_file") else value
    with pytest.raises(ConnectorError, match=said):
        KafkaConnector(guarded.login(**given))


# Secrets stay secret


@pytest.mark.parametrize("mechanism", LOGINS)
def test_no_secret_is_logged_or_shown(
    guarded: Guarded, mechanism: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("KAFKA_PASSWORD", PASSWORD)
    # What `logging.level: debug` shows at most: libraries are never heard below info.
    caplog.set_level(logging.INFO)
    caplog.set_level(logging.DEBUG, "connectors")
    settings = guarded.login(mechanism, password_file=None)
    use(settings, guarded.topic())
    monkeypatch.setenv("KAFKA_PASSWORD", WRONG)
    said = [refusal(settings, "texts"), repr(settings), str(settings), settings.model_dump_json(), caplog.text]
    shown = "".join(said)
    assert "SASL_SSL" in shown
    for secret in (PASSWORD, WRONG):
        assert secret not in shown
    assert os.environ["KAFKA_PASSWORD"] == WRONG
