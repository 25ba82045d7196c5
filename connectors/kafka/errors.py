"""What went wrong with Kafka, in words; and whether waiting helps."""

import re
import threading
import time
from collections.abc import Callable
from typing import TypeVar

import structlog
from kafka import errors

from connectors.topic import ConnectorError, FencedError, StaleError

log = structlog.get_logger(__name__)

T = TypeVar("T")

#: The waits between two tries, in seconds: each is twice the one before, between these.
FIRST_WAIT, LONGEST_WAIT = 0.05, 2.0

#: How often a wait that goes on is logged, in seconds.
LOG_EVERY = 10.0

#: What waiting does not mend, and what does. `{what}` is what Kafka said about it.
REMEDIES: dict[type[Exception], str] = {
    errors.SaslAuthenticationFailedError: "the login was refused; check connector.kafka.username and the password",
    errors.UnsupportedSaslMechanismError: "the brokers have another login; check connector.kafka.sasl_mechanism",
    errors.IllegalSaslStateError: "the brokers expect no such login here; check connector.kafka.security_protocol",
    errors.TopicAuthorizationFailedError: (
        "this user may not use the topic; let an administrator allow Read, Write and Describe"
    ),
    errors.GroupAuthorizationFailedError: (
        "this user may not use the consumer group; let an administrator allow Read for it and its `-owner`"
    ),
    errors.TransactionalIdAuthorizationFailedError: (
        "this user may not write transactions; let an administrator allow Write and Describe for transactional ids "
        "that begin with the group's name and with `relearnd`, or set connector.kafka.delivery to at-least-once"
    ),
    errors.ClusterAuthorizationFailedError: (
        "this user may not write idempotently; let an administrator allow IdempotentWrite for the cluster"
    ),
    errors.AuthorizationError: "this user may not do that; let an administrator allow it",
    errors.MessageSizeTooLargeError: (
        "a message is larger than the broker takes; raise max.message.bytes of the topic, or send less"
    ),
    errors.RecordListTooLargeError: "the messages are more than the broker takes at once; raise max.message.bytes",
    errors.InvalidTransactionTimeoutError: (
        "connector.kafka.transaction_timeout is longer than the broker's transaction.max.timeout.ms"
    ),
    errors.InvalidSessionTimeoutError: (
        "connector.kafka.session_timeout is outside of the broker's group.min.session.timeout.ms and "
        "group.max.session.timeout.ms"
    ),
    errors.InconsistentGroupProtocolError: (
        "the group's other members are no relearnd of this version; stop them, or use another group"
    ),
    errors.InvalidGroupIdError: "Kafka does not take this name of a group",
    errors.GroupMaxSizeReachedError: "the group is full (the broker's group.max.size)",
    errors.InvalidTopicError: "Kafka does not take this name of a topic",
    errors.PolicyViolationError: "the broker's policy refuses it",
    errors.InvalidRecordError: "the broker refuses a message; a compacted topic needs keys",
    errors.InvalidTimestampError: "the broker refuses the clock of this machine; set it right",
    errors.UnsupportedVersionError: "the broker is older than Apache Kafka 3.0",
    errors.UnsupportedForMessageFormatError: "the topic is kept in a format from before Apache Kafka 0.11",
    errors.UnsupportedCompressionTypeError: "the broker does not take this connector.kafka.compression",
    errors.SecurityDisabledError: "the broker has no authorizer",
    errors.OffsetMetadataTooLargeError: "the broker's offset.metadata.max.bytes is under its default of 4096",
    errors.CorruptRecordError: "a message is damaged; restore the broker's disk, or seek past it",
    errors.UnsupportedCodecError: "a message is compressed in a way that is not installed here",
    errors.LogTruncationError: (
        "messages that were read are gone: the brokers lost them (an unclean election); what is there now may differ "
        "from what was read; start again to go on with it"
    ),
    errors.KafkaConfigurationError: "the settings do not fit together",
}

_NAMES = re.compile(r"\b(" + "|".join(kind.__name__ for kind in REMEDIES) + r")\b")


def remedy(error: BaseException) -> str | None:
    """What to do about `error`; None where waiting helps."""
    for kind in type(error).__mro__:
        if kind in REMEDIES:
            return REMEDIES[kind]
    # kafka-python wraps what it does not expect in a plain KafkaError, whose text names it.
    if type(error) is errors.KafkaError and (named := _NAMES.search(str(error))):
        return REMEDIES[getattr(errors, named.group())]
    return None


def explained(error: BaseException, doing: str) -> ConnectorError:
    """`error` for a person: what could not be done, why, and what to do."""
    advice = remedy(error)
    return ConnectorError(f"cannot {doing}: {advice or said(error)}" + (f" ({said(error)})" if advice else ""))


def said(error: BaseException) -> str:
    """What Kafka said, on one line of moderate length."""
    text = " ".join(str(error).split())
    return text if len(text) <= 300 else text[:299] + "…"


def raise_refusal(error: BaseException) -> None:
    """Raise what it means when a group refuses a commit; return when `error` is something else.

    Raises:
        FencedError: another process has taken this member's place.
        StaleError: the partitions were dealt anew.
    """
    if isinstance(error, errors.CommitFailedError | errors.RebalanceInProgressError):
        raise stale() from error
    if isinstance(error, errors.FencedInstanceIdError):
        raise FencedError(
            "another process has joined the group with the same connector.kafka.instance_id. "
            "Stop one of them, or give it a name of its own"
        ) from error


def stale() -> StaleError:
    return StaleError("the group's partitions were dealt anew since these messages were polled; they come again")


class Patience:
    """Tries again what time will mend: broker down, election, coordinator moving. `closed` ends it.

    Args:
        closed: Set when nobody waits for the outcome any more.
        where: The brokers, for the log and for errors.
    """

    def __init__(self, closed: threading.Event, where: str) -> None:
        self.closed = closed
        self.where = where

    def __call__(self, work: Callable[[], T], doing: str) -> T:
        """What `work` returns, as soon as it succeeds.

        Raises:
            ConnectorError: waiting does not help, or `closed` was set.
        """
        delays = Delays(self, doing)
        while True:
            try:
                return work()
            except (errors.KafkaError, OSError) as error:
                delays.wait(error)


class Delays:
    """The waits between the tries of one thing."""

    def __init__(self, patience: Patience, doing: str) -> None:
        self._patience = patience
        self._doing = doing
        self._delay = FIRST_WAIT
        self._begun = self._logged = time.monotonic()

    def wait(self, error: BaseException) -> None:
        """Wait a while because of `error`, or raise what it means."""
        where = self._patience.where
        if remedy(error) is not None:
            raise explained(error, f"{self._doing} at {where}") from error
        now = time.monotonic()
        if now - self._logged > LOG_EVERY:
            self._logged = now
            log.warning(f"still trying to {self._doing}", brokers=where, because=said(error), since=now - self._begun)
        if self._patience.closed.wait(self._delay):
            raise ConnectorError(f"closed while trying to {self._doing} at {where}: {said(error)}") from error
        self._delay = min(2 * self._delay, LONGEST_WAIT)
