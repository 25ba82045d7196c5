"""The records that pass through the topics, and what becomes of bytes that are not one of them."""

import base64
import threading
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any, Generic, Literal, TypeVar

import numpy as np
import numpy.typing as npt
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from connectors.topic import Message
from daemon.config import RecordsConfig
from daemon.formats.errors import NotInFormatError, UnknownSchemaError
from daemon.formats.mapping import mapped
from daemon.formats.schema_registry import SchemaRegistry, patiently
from daemon.formats.settings import AlertsShape, LabelsShape, ScoresShape, TextsShape
from daemon.formats.values import SchemaReader, SchemaWriter

#: An id or key longer than this is a mistake in the producer, and would only bloat every index that holds it.
MAX_NAME = 512

#: A timestamp may be earlier than this by its offset from UTC, and then nobody can say when it was in UTC.
EARLIEST = datetime.min.replace(tzinfo=UTC)

Share = Annotated[float, Field(ge=0, le=1)]
Name = Annotated[str, StringConstraints(min_length=1, max_length=MAX_NAME)]


class _Record(BaseModel):
    # Unknown fields are dropped rather than refused: producers add fields of their own.
    model_config = ConfigDict(extra="ignore", frozen=True)


class Text(_Record):
    """What the user sends to be scored."""

    id: Name
    text: str = Field(min_length=1)
    timestamp: AwareDatetime
    key: Name | None = None
    source: Name | None = None
    meta: dict[str, Any] | None = None


class Score(Text):
    """The text's fields and what the model `model` made of it.

    `sketch` is a fixed random projection of the embedding (`learners.scoring.sketch`): float16, base64 (see
    `encode_sketch`).
    """

    label: str
    probabilities: dict[str, Share] = Field(min_length=1)
    model: str
    scored_at: AwareDatetime
    sketch: str | None = None


class Label(_Record):
    """What a text truly was, said later by a person or by the market."""

    id: Name
    label: Name
    timestamp: AwareDatetime | None = None
    text: str | None = None
    weight: float = Field(default=1.0, gt=0, le=1000)
    annotator: str | None = None


class Alert(_Record):
    """Something that wants a person: sent when it starts (`firing`) and when it ends (`resolved`).

    `name` says what it is, and `key` of what; `value` is what was measured and `baseline` what is usual. `model` is
    the version that scored, empty when none did; `because` is a sentence, where the figures do not say it all.

    | name | key | value | baseline |
    | --- | --- | --- | --- |
    | LABEL`-spike` | the texts' key | the label's share in the window, 0 to 1 | the key's own usual share |
    | `messages-lost` | the topic | messages removed before they were read | 0; it is never resolved |
    | `labels-held` | the texts' source, empty for none | share of labels that contradict confident scores | its usual |
    | `model-not-loaded` | the version | 1 while a scorer cannot load it, else 0 | 0 |
    """

    status: Literal["firing", "resolved"]
    name: str
    key: str
    severity: Literal["warning", "critical"]
    value: float
    baseline: float
    starts_at: AwareDatetime
    ends_at: AwareDatetime | None = None
    examples: list[str] = []
    model: str
    because: str | None = None


class LabelRequest(_Record):
    """A text whose label would help most, and why."""

    id: Name
    text: str
    reason: str


class ModelAnnouncement(_Record):
    """Which model version is live. The last `champion` announced is the one that scores."""

    version: str
    uri: str
    sha256: str
    parent: str | None = None
    state: Literal["champion", "retired"]


class Reason(StrEnum):
    """Why a message was set aside: the bounded set that metrics are labelled with."""

    TOO_LARGE = "too_large"
    NOT_UTF8 = "not_utf8"
    NOT_JSON = "not_json"
    NOT_IN_FORMAT = "not_in_format"
    UNKNOWN_SCHEMA = "unknown_schema"
    INVALID = "invalid"
    TEXT_EMPTY = "text_empty"
    TEXT_TOO_LONG = "text_too_long"
    FROM_THE_FUTURE = "from_the_future"
    UNKNOWN_LABEL = "unknown_label"


class DeadLetter(_Record):
    """A message set aside: its bytes and key (base64), why, and where it came from.

    `value` is cut to `records.max_record_bytes`, which only shortens what is too large.
    """

    reason: Reason
    detail: str
    topic: str
    partition: int
    offset: int
    at: AwareDatetime
    value: str
    key: str | None = None


R = TypeVar("R", Text, Label, Score)
W = TypeVar("W", Score, Alert)


class Decoder(Generic[R]):
    """Turns messages of one topic into records, or into the dead letters that say why they are none.

    Raises:
        FormatError: the topic's format cannot be used.
    """

    def __init__(self, kind: type[R], limits: RecordsConfig) -> None:
        shapes: dict[type, TextsShape | LabelsShape | ScoresShape] = {
            Text: limits.texts,
            Label: limits.labels,
            Score: limits.scores,
        }
        shape = shapes[kind]
        self._kind: type[R] = kind
        self._limits = limits
        self._paths: dict[str, str] = {}
        self._values: SchemaReader | None = None
        if not isinstance(shape, ScoresShape) and shape != type(shape)():
            self._paths = shape.fields.model_dump()
            self._kind = mapped(kind, self._paths)
        if shape.format != "json":
            self._values = SchemaReader(SchemaRegistry(limits.registry, shape.format))

    def fetch(
        self, messages: Iterable[Message], stop: threading.Event, waiting: Callable[[], None] | None = None
    ) -> bool:
        """Ask the schema registry for what decoding `messages` takes, until it answers (see `patiently`).

        False when `stop` was set first. Raises FormatError when waiting does not help.
        """
        if self._values is None:
            return True
        reader, values = self._values, [message.value for message in messages]
        return patiently(lambda: reader.fetch(values), stop, waiting)

    def decode(self, message: Message, now: datetime) -> R | DeadLetter:
        """The record, or why it is none. Of a message that was not fetched, raises what `SchemaReader.json` does."""
        if len(message.value) > self._limits.max_record_bytes:
            detail = f"{len(message.value)} bytes; records.max_record_bytes is {self._limits.max_record_bytes}"
            return self.refuse(message, now, Reason.TOO_LARGE, detail)
        value = message.value
        try:
            if self._values is not None:
                value = self._values.json(value)
            record = self._kind.model_validate_json(value, context=message)
        except ValidationError as error:
            return self.refuse(message, now, *self._why(value, error))
        except NotInFormatError as error:
            return self.refuse(message, now, Reason.NOT_IN_FORMAT, str(error))
        except UnknownSchemaError as error:
            return self.refuse(message, now, Reason.UNKNOWN_SCHEMA, str(error))
        return self._refuse_unusable(record, message, now) or record

    def refuse(self, message: Message, now: datetime, reason: Reason, detail: str) -> DeadLetter:
        kept = message.value[: self._limits.max_record_bytes]
        return DeadLetter(
            reason=reason,
            detail=detail,
            topic=message.topic,
            partition=message.partition,
            offset=message.offset,
            at=now,
            value=base64.b64encode(kept).decode("ascii"),
            key=None if message.key is None else base64.b64encode(message.key).decode("ascii"),
        )

    def _refuse_unusable(self, record: Text | Label, message: Message, now: datetime) -> DeadLetter | None:
        text, timestamp = record.text, record.timestamp
        if text is not None and not text.strip():
            return self.refuse(message, now, Reason.TEXT_EMPTY, "the text is only white space")
        if text is not None and len(text) > self._limits.max_text_chars:
            detail = f"{len(text)} characters; records.max_text_chars is {self._limits.max_text_chars}"
            return self.refuse(message, now, Reason.TEXT_TOO_LONG, detail)
        if timestamp is not None and timestamp < EARLIEST:
            return self.refuse(message, now, Reason.INVALID, f"timestamp: {timestamp.isoformat()} is before year 1")
        if timestamp is not None and (timestamp - now).total_seconds() > self._limits.max_future:
            detail = f"{timestamp.isoformat()} is more than records.max_future past {now.isoformat()}"
            return self.refuse(message, now, Reason.FROM_THE_FUTURE, detail)
        return None

    def _why(self, value: bytes, error: ValidationError) -> tuple[Reason, str]:
        try:
            value.decode("utf-8")
        except UnicodeDecodeError as bad:
            return Reason.NOT_UTF8, f"invalid UTF-8 at byte {bad.start}"
        first = error.errors(include_url=False, include_input=False)[0]
        if first["type"] == "json_invalid":
            return Reason.NOT_JSON, first["msg"]
        where = ".".join(str(part) for part in first["loc"]) or "the record"
        path = self._paths.get(where, "")
        if where == "text" and first["type"] == "string_too_short":
            return Reason.TEXT_EMPTY, "the text is empty"
        at = "" if path in {"", f"$.{where}"} else f" at {path}"
        return Reason.INVALID, f"{where}{at}: {first['msg']}"


def encode(record: _Record) -> bytes:
    """The record as one JSON object; fields without a value are left out."""
    return record.model_dump_json(exclude_none=True).encode("utf-8")


class Encoder(Generic[W]):
    """Turns records into values for `topic`, in its format. `open` it before the first.

    Raises:
        FormatError: the topic's format cannot be used.
    """

    def __init__(self, kind: type[W], topic: str, limits: RecordsConfig) -> None:
        shapes: dict[type, ScoresShape | AlertsShape] = {Score: limits.scores, Alert: limits.alerts}
        shape = shapes[kind]
        self._values: SchemaWriter | None = None
        if shape.format != "json":
            self._values = SchemaWriter(SchemaRegistry(limits.registry, shape.format), kind, topic)

    def open(self, stop: threading.Event, waiting: Callable[[], None] | None = None) -> bool:
        """Have our schema registered, asking the registry until it answers (see `patiently`).

        False when `stop` was set first. Raises FormatError when waiting does not help.
        """
        return self._values is None or patiently(self._values.open, stop, waiting)

    def encode(self, record: W) -> bytes:
        return encode(record) if self._values is None else self._values.value(record)


def encode_sketch(sketch: npt.NDArray[np.float32]) -> str:
    """`[dimensions]` float32 as base64 of little-endian float16."""
    return base64.b64encode(sketch.astype("<f2").tobytes()).decode("ascii")


def decode_sketch(sketch: str) -> npt.NDArray[np.float32]:
    """What `encode_sketch` wrote. Raises ValueError when it did not."""
    return np.frombuffer(base64.b64decode(sketch, validate=True), dtype="<f2").astype(np.float32)


def utc(timestamp: float) -> datetime:
    """Seconds since the epoch as an aware datetime."""
    return datetime.fromtimestamp(timestamp, UTC)
