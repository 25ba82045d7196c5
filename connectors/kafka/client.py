"""kafka-python's clients, made from our settings."""

import os
import socket
import ssl
from typing import Any

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer
from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor
from kafka.net.compat import KafkaNetClient
from pydantic import SecretStr

from connectors.kafka.connections import network
from connectors.kafka.settings import KafkaSettings
from connectors.topic import ConnectorError

#: A broker that has not answered for this long is taken for dead, in seconds. Kafka's own default of 30 keeps clients
#: waiting for a machine that hangs long after the others have taken over from it.
REQUEST_TIMEOUT = 10.0

#: Between two heartbeats, in seconds: so late a member hears that it shall join anew, twice when partitions move.
HEARTBEAT = 1.0

#: New partitions and moved leaders are noticed after this long at most, in seconds.
METADATA_AGE = 30.0

#: Waits between two tries to reach a broker grow up to this, in seconds.
RECONNECT_MOST = 2.0

#: A transaction that comes right after another is refused until the first one's end is written, which takes a few
#: milliseconds; so short is the wait before it is tried again, in milliseconds.
PRODUCER_RETRY_MS = 10

#: How soon a consumer looks again for what it does not know yet, such as its partitions' leaders, in milliseconds.
CONSUMER_RETRY_MS = 50

#: How long a batch waits for more messages, in milliseconds; a write that has been handed over whole waits no longer.
LINGER_MS = 500

#: Bytes of messages in one batch, at most: one batch is under way for each partition, so they are large; a broker takes
#: 1 MiB (message.max.bytes) unless told otherwise.
BATCH_BYTES = 512 * 1024

#: Bytes of one request, and so of one message before compression; whether it is too large, the broker decides.
MOST_BYTES = 64 * 1024 * 1024

#: Messages that one poll of the consumer hands over, at most.
POLL_MESSAGES = 2_000


class Admin(KafkaAdminClient):  # type: ignore[misc]  # it has no types
    """Asks for committed offsets as a reader must: where a transaction under way may change them, for an error."""

    def _list_group_offsets_requests(self, group_specs: Any) -> Any:
        for group, request in super()._list_group_offsets_requests(group_specs):
            request.require_stable = True
            yield group, request


class Clients:
    """Makes clients; checks what the settings name first.

    Raises:
        ConnectorError: a file or variable that the settings name cannot be used.
    """

    def __init__(self, settings: KafkaSettings) -> None:
        self.settings = settings
        self.servers = [server.strip() for server in settings.bootstrap_servers.split(",") if server.strip()]
        self._tls = _tls(settings) if settings.security_protocol.endswith("SSL") else None
        self._password = _password(settings) if settings.security_protocol.startswith("SASL") else None

    def admin(self) -> "Admin":
        admin: Admin = self._made(Admin, {})
        return admin

    def consumer(self, group: str | None) -> KafkaConsumer:
        """Reads what is committed; a member of `group`, once it subscribes, when one is given."""
        settings = self.settings
        membership: dict[str, Any] = {}
        if group is not None:
            membership = {
                "group_id": group,
                "group_instance_id": settings.instance_id or None,
                "session_timeout_ms": _ms(settings.session_timeout),
                "heartbeat_interval_ms": _ms(min(settings.session_timeout / 5, HEARTBEAT)),
                "max_poll_interval_ms": _ms(settings.max_poll_interval),
                "partition_assignment_strategy": [CooperativeStickyAssignor],
            }
        return self._made(
            KafkaConsumer,
            {
                "isolation_level": "read_committed",
                "auto_offset_reset": "none",
                "enable_auto_commit": False,
                "allow_auto_create_topics": False,
                "max_poll_records": POLL_MESSAGES,
                "retry_backoff_ms": CONSUMER_RETRY_MS,
                "metrics_enabled": False,
                **membership,
            },
        )

    def producer(self, transactional_id: str | None) -> KafkaProducer:
        """Idempotent; transactional too when it has an id for that."""
        settings = self.settings
        own: dict[str, Any] = {}
        if transactional_id is not None:
            own = {
                "transactional_id": transactional_id,
                "transaction_timeout_ms": _ms(settings.transaction_timeout),
                "retry_backoff_ms": PRODUCER_RETRY_MS,
            }
        return self._made(
            KafkaProducer,
            {
                "compression_type": None if settings.compression == "none" else settings.compression,
                "batch_size": BATCH_BYTES,
                "max_request_size": MOST_BYTES,
                "linger_ms": LINGER_MS,
                "delivery_timeout_ms": _ms(3 * REQUEST_TIMEOUT),
                "max_block_ms": _ms(REQUEST_TIMEOUT),
                "allow_auto_create_topics": False,
                "metrics_enabled": False,
                **own,
            },
        )

    def _made(self, kind: Any, options: dict[str, Any]) -> Any:
        settings = self.settings
        shared = {
            "bootstrap_servers": self.servers,
            "client_id": "relearnd",
            "bootstrap_timeout_ms": _ms(settings.connect_timeout),
            "request_timeout_ms": _ms(REQUEST_TIMEOUT),
            "metadata_max_age_ms": _ms(METADATA_AGE),
            "reconnect_backoff_max_ms": _ms(RECONNECT_MOST),
            "security_protocol": settings.security_protocol,
        }
        if self._tls is not None:
            shared["ssl_context"] = self._tls
        if self._password is not None:
            shared |= {
                "sasl_mechanism": settings.sasl_mechanism,
                "sasl_plain_username": settings.username,
                "sasl_plain_password": self._password.get_secret_value(),
            }
        opened: list[KafkaNetClient] = []

        def opening(**configs: Any) -> KafkaNetClient:
            opened.append(network(**configs))
            return opened[-1]

        try:
            return kind(**shared, **options, kafka_client=opening)
        except BaseException:
            # A client that cannot reach a broker leaves its thread and its sockets behind.
            for client in opened:
                client._net.stop()
                client.close()
            raise

    def diagnosis(self) -> str:
        """Why no broker could be asked, as far as a connection to each shows it."""
        return "; ".join(self._diagnose(server) for server in self.servers)

    def _diagnose(self, server: str) -> str:
        host, _, port = server.rpartition(":")
        try:
            with socket.create_connection((host.strip("[]"), int(port)), timeout=2) as plain:
                plain.settimeout(2)
                return f"{server} {self._diagnose_open(plain, host.strip('[]'))}"
        except TimeoutError:
            return f"{server} does not answer"
        except (OSError, ValueError) as error:
            return f"{server}: {error}"

    def _diagnose_open(self, plain: socket.socket, host: str) -> str:
        """What is wrong with a server that accepts connections."""
        speaks = f"does not speak {self.settings.security_protocol} (connector.kafka.security_protocol)"
        if self._tls is None:
            return f"accepts connections, but {speaks}"
        greeted = False
        try:
            with self._tls.wrap_socket(plain, server_hostname=host) as secured:
                greeted = True
                # With TLS 1.3 a broker refuses this client's certificate only now; otherwise it waits for us.
                secured.recv(1)
        except ssl.SSLCertVerificationError as error:
            return f"has a certificate that is not trusted: {error.verify_message} (connector.kafka.ca_file)"
        except TimeoutError:
            return f"accepts TLS, but {speaks}" if greeted else "does not answer"
        except ssl.SSLError as error:
            if error.reason and ("CERTIFICATE" in error.reason or "UNKNOWN_CA" in error.reason):
                return f"refuses this client's certificate: {error.reason} (connector.kafka.cert_file)"
            return f"{speaks}: {error.reason or error}"
        except ConnectionError as error:
            return f"{speaks}: {error}"
        return "closed the connection"


def _ms(seconds: float) -> int:
    return round(seconds * 1000)


def _tls(settings: KafkaSettings) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=settings.ca_file)
    except (OSError, ssl.SSLError) as error:
        raise ConnectorError(f"connector.kafka.ca_file: {settings.ca_file} cannot be used: {_reason(error)}") from error
    if settings.cert_file is not None:
        try:
            context.load_cert_chain(settings.cert_file, settings.key_file)
        except (OSError, ssl.SSLError) as error:
            files = f"{settings.cert_file} with key_file {settings.key_file}"
            raise ConnectorError(f"connector.kafka.cert_file: {files} cannot be used: {_reason(error)}") from error
    return context


def _reason(error: OSError) -> str:
    if isinstance(error, ssl.SSLError):
        return error.reason or "not in PEM"
    return error.strerror or str(error)


def _password(settings: KafkaSettings) -> SecretStr:
    file, variable = settings.password_file, settings.password_variable
    if file is not None:
        where = f"connector.kafka.password_file: {file}"
        try:
            password = file.read_text(encoding="utf-8").rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            raise ConnectorError(f"{where} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    else:
        where = f"connector.kafka.password_variable: the environment variable {variable}"
        password = os.environ.get(variable, "")
    if not password:
        raise ConnectorError(f"{where} holds no password for {settings.username!r}")
    return SecretStr(password)
