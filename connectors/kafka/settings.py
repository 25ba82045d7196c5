"""What can be set about Kafka."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from connectors.seconds import UNITS, Seconds


def _joined(value: object) -> object:
    return ",".join(str(server) for server in value) if isinstance(value, list) else value


class KafkaTopicsSettings(BaseModel):
    """How `relearnd topics create` makes topics, and what `relearnd topics check` asks of them at least."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)

    partitions: int = Field(
        6, gt=0, description="Partitions of `texts` and `scores`: so many scorers can work at once. Others have one."
    )
    replication: int = Field(
        0, ge=0, description="Copies of each message, on as many brokers; 0: as many as the brokers make by default."
    )
    retention: Seconds = Field(
        7 * UNITS["d"], description="How long messages are kept, read or not; 0: for ever. `models` is compacted."
    )


class KafkaSettings(BaseModel):
    """Topics in Apache Kafka."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)

    bootstrap_servers: Annotated[str, BeforeValidator(_joined)] = Field(
        "localhost:9092",
        min_length=1,
        description="Brokers to ask for the others: `host:port`, more of them separated by commas.",
    )
    delivery: Literal["exactly-once", "at-least-once"] = Field(
        "exactly-once",
        description="`exactly-once`: what is written and how far was read are one Kafka transaction. `at-least-once`: "
        "no transactions; after a crash, what was written last is written again.",
    )
    instance_id: str = Field(
        "",
        pattern=r"^[A-Za-z0-9._-]{0,249}$",
        description="This process's own name in its consumer group (static membership): a restart within "
        "`session_timeout` gets its partitions back without a rebalance. No two processes share one; empty for none.",
    )
    session_timeout: Seconds = Field(
        30.0, gt=0, description="A scorer that is silent for this long loses its partitions to the others."
    )
    max_poll_interval: Seconds = Field(
        30.0, gt=0, description="How long the group waits for its members when partitions are dealt anew."
    )
    transaction_timeout: Seconds = Field(
        15.0,
        gt=0,
        description="The broker takes back what a process that died in the middle of a write left behind after this "
        "long; until then readers wait there.",
    )
    connect_timeout: Seconds = Field(
        30.0, gt=0, description="How long to try for a first connection before giving up with the reason."
    )
    compression: Literal["none", "gzip", "lz4", "zstd"] = Field("lz4", description="Of what is written.")
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        "PLAINTEXT", description="As the brokers' listener has it."
    )
    ca_file: Path | None = Field(
        None,
        description="Certificates of the authorities that the brokers' are signed by, in PEM; empty: the system's.",
    )
    cert_file: Path | None = Field(
        None, description="This client's own certificate, in PEM, where the brokers ask for one; with `key_file`."
    )
    key_file: Path | None = Field(None, description="The private key of `cert_file`, in PEM.")
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = Field(
        "SCRAM-SHA-512", description="How `username` logs in, with a `security_protocol` of SASL_*."
    )
    username: str = Field("", description="Who logs in.")
    password_file: Path | None = Field(
        None, description="File with the password; empty: the variable that `password_variable` names."
    )
    password_variable: str = Field("KAFKA_PASSWORD", description="Environment variable with the password.")

    topics: KafkaTopicsSettings = KafkaTopicsSettings()

    @model_validator(mode="after")
    def _settings_fit(self) -> "KafkaSettings":
        if self.security_protocol.startswith("SASL") and not self.username:
            raise ValueError(f"security_protocol {self.security_protocol} needs a username")
        if (self.cert_file is None) != (self.key_file is None):
            raise ValueError("cert_file and key_file belong together; one of them is missing")
        if self.transaction_timeout >= self.max_poll_interval:
            # A member waits for the transactions of those before it, and must not be thrown out meanwhile.
            raise ValueError("transaction_timeout must be shorter than max_poll_interval")
        return self
