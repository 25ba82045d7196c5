"""What can be set about the shape of messages."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from daemon.formats.mapping import checked

Format = Literal["json", "avro", "protobuf", "json-schema"]
FieldPath = Annotated[str, AfterValidator(checked)]
OptionalFieldPath = Annotated[str, AfterValidator(lambda path: path and checked(path))]

_FORMAT = "`json`, or with a schema registry and the extra `schemas`: `avro`, `protobuf`, `json-schema`."


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


class TextFields(_Section):
    """Where a text's fields are in your messages.

    `$.article.body`, `$.symbols[0]` and `$['a name']` are in the value; `message.key`, `message.timestamp` and
    `message.position` (TOPIC-PARTITION-OFFSET) beside it. Empty: not read at all.
    """

    id: FieldPath = Field("$.id", description="What names the text; its label comes with the same.")
    text: FieldPath = Field("$.text", description="The text itself.")
    timestamp: FieldPath = Field(
        "$.timestamp",
        description="When it was written: RFC 3339 with a time zone, or seconds (to 2e10) or milliseconds since 1970.",
    )
    key: OptionalFieldPath = Field("$.key", description="What alerts group by: a ticker, an issuer.")
    source: OptionalFieldPath = Field("$.source", description="Where the text is from.")
    meta: OptionalFieldPath = Field("$.meta", description="An object that comes back with the score.")


class LabelFields(_Section):
    """Where a label's fields are in your messages; paths as for texts."""

    id: FieldPath = Field("$.id", description="The id of the text that it is the label of.")
    label: FieldPath = Field("$.label", description="What the text truly was.")
    timestamp: OptionalFieldPath = Field("$.timestamp", description="When that was said.")
    text: OptionalFieldPath = Field("$.text", description="The text, for labels whose text was never scored.")
    weight: OptionalFieldPath = Field("$.weight", description="How much it counts in learning; 1 where it is absent.")
    annotator: OptionalFieldPath = Field("$.annotator", description="Who said so.")


class TextsShape(_Section):
    """What messages of the texts topic look like."""

    format: Format = Field("json", description=_FORMAT)
    fields: TextFields = TextFields()


class LabelsShape(_Section):
    """What messages of the labels topic look like."""

    format: Format = Field("json", description=_FORMAT)
    fields: LabelFields = LabelFields()


class ScoresShape(_Section):
    """How scores are written, and read by the controller."""

    format: Format = Field("json", description=_FORMAT)


class AlertsShape(_Section):
    """How alerts are written."""

    format: Format = Field("json", description=_FORMAT)


class SchemaRegistrySettings(_Section):
    """The schema registry, for every format but `json`: any that speaks Confluent's protocol."""

    url: str = Field("", description="Where it is: `https://registry:8081`.")
    username: str = Field("", description="Who logs in, where it asks for that (HTTP basic authentication).")
    password_file: Path | None = Field(
        None, description="File with the password; empty: the variable that `password_variable` names."
    )
    password_variable: str = Field("SCHEMA_REGISTRY_PASSWORD", description="Environment variable with the password.")
    ca_file: Path | None = Field(
        None, description="Certificates of the authorities to trust, in PEM; empty: those of Mozilla (certifi)."
    )
    register_schemas: bool = Field(
        True, description="Register the schemas of what is written; `false`: they must be there, as `TOPIC-value`."
    )

    @model_validator(mode="after")
    def _the_url_is_one_without_secrets(self) -> "SchemaRegistrySettings":
        if "@" in self.url:
            raise ValueError("there is a user or password in url; they belong in username and password_file")
        if self.url and not self.url.startswith(("http://", "https://")):
            raise ValueError("url must begin with http:// or https://")
        return self
