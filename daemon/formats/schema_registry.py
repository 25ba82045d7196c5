"""A schema registry that speaks Confluent's protocol, through confluent-kafka's client.

Every failure is one of three: it will pass (`UnreachableError`), it will not (`FormatError`), or it is the message's
(`UnknownSchemaError`). Nothing here is called for every message: whoever asks keeps the answer.
"""

import os
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

import structlog

from daemon.backoff import Backoff
from daemon.formats.errors import FormatError, UnknownSchemaError, UnreachableError
from daemon.formats.settings import Format, SchemaRegistrySettings

if TYPE_CHECKING:
    from confluent_kafka.schema_registry import Schema, SchemaRegistryClient

log = structlog.get_logger(__name__)

#: How long an answer may take, in seconds.
TIMEOUT = 10.0

#: Pauses between tries, in seconds: doubled each time, from the first to the longest. A controller that waits must show
#: that it is alive more often than every two minutes.
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0

#: The registry's codes for "no such subject", "no such version", "no such schema":
#: docs.confluent.io/platform/current/schema-registry/develop/api.html
_NOT_FOUND = frozenset({40401, 40402, 40403})

#: HTTP statuses that a new try does not change: not allowed; and of a schema to register, incompatible or invalid.
_REFUSED = frozenset({401, 403, 409, 422})

#: Bytes before a value's payload, as Confluent's clients write it: a zero, and the schema's id in four.
#: docs.confluent.io/platform/current/schema-registry/fundamentals/serdes-develop/#wire-format
FRAME = 5

TYPES: dict[Format, str] = {"avro": "AVRO", "protobuf": "PROTOBUF", "json-schema": "JSON"}


class Definition(NamedTuple):
    """A schema's text (of Protobuf, its file descriptor in base64) under the name that others refer to it by."""

    name: str
    text: str


class SchemaRegistry:
    """The registry, asked for schemas of one format.

    Raises:
        FormatError: the libraries, the password or the certificates are not there.
    """

    def __init__(self, settings: SchemaRegistrySettings, kind: Format) -> None:
        try:
            import confluent_kafka.schema_registry  # noqa: F401
        except ImportError as error:
            raise FormatError(
                f"the format {kind} needs libraries that are not installed ({error.name}): "
                "pip install 'relearnd[schemas]'"
            ) from error
        self._settings = settings
        self.format: Format = kind
        self._conf: dict[str, object] = {"url": settings.url, "timeout": TIMEOUT, "max.retries": 0}
        if settings.username:
            self._conf["basic.auth.user.info"] = f"{settings.username}:{_password(settings)}"
        if settings.ca_file is not None:
            self._conf["ssl.ca.location"] = str(settings.ca_file)
        with self._client():
            pass

    def check(self) -> None:
        """Ask what it is asked for in any case, and change nothing.

        Raises:
            FormatError, UnreachableError: as they say.
        """
        with self._client() as client, self._asking("the types of schemas"):
            types = client.get_schema_types()
        if TYPES[self.format] not in types:
            raise FormatError(f"the schema registry at {self._settings.url} knows no {TYPES[self.format]}")

    def definitions(self, id: int) -> list[Definition]:
        """The schema `id`, last, after all that it refers to, each after what it refers to itself.

        Raises:
            UnknownSchemaError: there is none of this format.
            UnreachableError, FormatError: as they say.
        """
        layout = "serialized" if self.format == "protobuf" else None
        with self._client() as client, self._asking(f"schema {id}"):
            schema = client.get_schema(id, fmt=layout)
            if schema.schema_type != TYPES[self.format]:
                raise UnknownSchemaError(f"schema {id} is {schema.schema_type}, not {TYPES[self.format]}")
            found: dict[str, str] = {}
            self._follow(client, schema, layout, found)
            return [*map(Definition._make, found.items()), Definition("", schema.schema_str or "")]

    def _follow(
        self, client: "SchemaRegistryClient", schema: "Schema", layout: str | None, found: dict[str, str]
    ) -> None:
        for reference in schema.references or []:
            if reference.name is not None and reference.name not in found and reference.subject and reference.version:
                # Taken before it is followed, or two that refer to each other never end.
                found[reference.name] = ""
                inner = client.get_version(reference.subject, reference.version, deleted=True, fmt=layout).schema
                self._follow(client, inner, layout, found)
                # Behind what it refers to.
                del found[reference.name]
                found[reference.name] = inner.schema_str or ""

    def id_of(self, topic: str, text: str) -> int:
        """The id of our schema under the subject `TOPIC-value`, registered if it may be.

        Raises:
            FormatError: it is not there, or cannot be.
            UnreachableError: as it says.
        """
        from confluent_kafka.schema_registry import Schema

        subject, schema = f"{topic}-value", Schema(text, TYPES[self.format])
        try:
            with self._client() as client, self._asking(f"the schema of {subject}"):
                if self._settings.register_schemas:
                    return client.register_schema(subject, schema)
                return int(client.lookup_schema(subject, schema).schema_id or 0)
        except UnknownSchemaError as error:
            raise FormatError(
                f"{error}; register it, or set records.registry.register_schemas. It is:\n{text}"
            ) from error

    @contextmanager
    def _client(self) -> "Iterator[SchemaRegistryClient]":
        """A connection that lasts as long as the question: schemas are rarely asked for."""
        from confluent_kafka.schema_registry import SchemaRegistryClient

        try:
            client = SchemaRegistryClient(self._conf)
        except (OSError, ValueError) as error:
            # Of what is set, only the certificates are read here; the client's message may show the rest.
            kind = (
                f"records.registry.ca_file {self._settings.ca_file}" if self._settings.ca_file else "records.registry"
            )
            raise FormatError(f"{kind} cannot be used: {type(error).__name__}") from None
        with client:
            yield client

    @contextmanager
    def _asking(self, what: str) -> Iterator[None]:
        """Tells the failures of a question apart."""
        from confluent_kafka.schema_registry import SchemaRegistryError

        try:
            yield
        except UnknownSchemaError:
            raise
        except SchemaRegistryError as error:
            said = f"the schema registry at {self._settings.url} says of {what}: {error}"
            if error.error_code in _NOT_FOUND:
                raise UnknownSchemaError(said) from error
            if error.http_status_code in {401, 403}:
                raise FormatError(f"{said}; see records.registry.username and password_file") from error
            raise (FormatError if error.http_status_code in _REFUSED else UnreachableError)(said) from error
        except Exception as error:
            # The client lets its HTTP library's errors through, and which library that is depends on what is installed.
            if _caused_by(error, ssl.SSLCertVerificationError):
                said = f"the schema registry at {self._settings.url} shows a certificate that is not trusted"
                raise FormatError(f"{said} ({error}); see records.registry.ca_file") from error
            why = str(error) or type(error).__name__
            raise UnreachableError(f"the schema registry at {self._settings.url} does not answer: {why}") from error


def patiently(ask: Callable[[], None], stop: threading.Event, waiting: Callable[[], None] | None = None) -> bool:
    """Ask until the registry answers, with growing pauses; False when `stop` was set first.

    `waiting` is called before each pause, so that a caller can show that it is alive.
    """
    backoff = Backoff(first=FIRST_PAUSE, last=LONGEST_PAUSE)
    while not stop.is_set():
        try:
            ask()
        except UnreachableError as error:
            pause = backoff.failed()
            log.warning("schema registry unreachable", again_in=pause, because=str(error))
            if waiting is not None:
                waiting()
            stop.wait(pause)
        else:
            return True
    return False


def _password(settings: SchemaRegistrySettings) -> str:
    if settings.password_file is not None:
        try:
            return settings.password_file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "not UTF-8"
            raise FormatError(f"records.registry.password_file {settings.password_file}: {reason}") from None
    password = os.environ.get(settings.password_variable, "")
    if not password:
        raise FormatError(
            f"records.registry.username is set, but neither password_file nor the environment variable "
            f"{settings.password_variable}"
        )
    return password


def _caused_by(error: BaseException | None, kind: type[BaseException]) -> bool:
    while error is not None and not isinstance(error, kind):
        error = error.__cause__ or error.__context__
    return error is not None
