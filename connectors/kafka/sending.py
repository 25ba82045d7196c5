"""Handing messages to a producer of kafka-python, and being rid of one."""

import time
from collections.abc import Callable, Sequence

from kafka import KafkaProducer, errors

from connectors.topic import Outgoing

#: Writes messages outside of any transaction.
Send = Callable[[Sequence[Outgoing]], None]

#: How often a wait for the brokers looks whether it should end, in seconds.
LOOK_EVERY = 0.5


def checked(messages: Sequence[Outgoing]) -> None:
    """Raises TypeError before anything is sent: to Kafka, a message without a value deletes those with its key."""
    for message in messages:
        if not isinstance(message.value, bytes):
            raise TypeError(f"a message's value is bytes, not {type(message.value).__name__} (topic {message.topic!r})")


def send(
    producer: KafkaProducer, messages: Sequence[Outgoing], look: Callable[[], None], timeout: float = float("inf")
) -> None:
    """Send `messages` and return when the brokers have them all; `look` is called meanwhile, and may end it by raising.

    Raises:
        KafkaError: some of them they do not have, or not within `timeout` seconds.
    """
    if not messages:
        return
    sent = [
        producer.send(topic, value, key, [(name, text.encode()) for name, text in headers.items()] if headers else None)
        for topic, value, key, headers in messages
    ]
    deadline = time.monotonic() + timeout
    while True:
        try:
            producer.flush(LOOK_EVERY)
        except errors.KafkaTimeoutError as error:
            look()
            if time.monotonic() > deadline:
                raise errors.KafkaTimeoutError(f"not written within {timeout:g} s") from error
        # Looked at between, as one failure may leave the others waiting. And looked at all of them: a transaction can
        # be committed even though a batch of it was given up, and a batch that was split needs one more flush.
        for future in sent:
            if future.exception is not None:
                raise future.exception
        if all(future.is_done for future in sent):
            return


def abandon(producer: KafkaProducer) -> None:
    """Close a producer at once, whatever it is doing."""
    producer._sender.force_close()
    producer._sender.join(LOOK_EVERY)
    try:
        producer.close(timeout=0)
    except errors.KafkaTimeoutError:
        # Its thread waits for a broker, and ends after that.
        producer._unregister_cleanup()
