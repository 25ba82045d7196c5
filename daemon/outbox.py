"""Records on their way from the controller's transaction to their topics.

A step of the controller stores what it has to say beside what it learned; only then is it published. A connector's
write carries the outbox position as a committed position of the controller's group, so that a crash between
publishing and forgetting says nothing twice.
"""

import json
import sqlite3
import uuid

from connectors.topic import Outgoing, Partition, Reader, Writer
from daemon.state import Blobs

#: Messages of one published batch: large enough to be rare, small enough for one transaction of any connector.
BATCH = 1_000


class Outbox:
    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    @property
    def partition(self) -> Partition:
        """The made-up partition under which this outbox's position is committed with what was published.

        It names the state, so that a new state beside old topics does not take the old one's word for its own.
        """
        blobs = Blobs(self._db)
        name = blobs.get("outbox")
        if name is None:
            name = f"outbox-{uuid.uuid4().hex}".encode()
            blobs.put("outbox", name)
        return Partition(name.decode())

    def put(self, message: Outgoing) -> None:
        """Store `message` within the step's transaction."""
        self._db.execute(
            "INSERT INTO outbox (topic, key, value, headers) VALUES (?, ?, ?, ?)",
            (message.topic, message.key, message.value, json.dumps(dict(message.headers))),
        )

    def waiting(self) -> list[tuple[int, Outgoing]]:
        rows = self._db.execute("SELECT seq, topic, value, key, headers FROM outbox ORDER BY seq LIMIT ?", (BATCH,))
        return [(seq, Outgoing(topic, value, key, json.loads(headers))) for seq, topic, value, key, headers in rows]

    def forget(self, before: int) -> None:
        """Drop what was published: every message with a sequence number below `before`."""
        self._db.execute("DELETE FROM outbox WHERE seq < ?", (before,))

    def publish(self, writer: Writer, reader: Reader) -> int:
        """Publish what waits, on behalf of `reader`'s group; returns how many messages went out.

        Raises:
            FencedError: another controller has taken over.
        """
        published, partition = 0, self.partition
        while batch := self.waiting():
            after = batch[-1][0] + 1
            writer.write([message for _, message in batch], reader=reader, positions={partition: after})
            self.forget(after)
            published += len(batch)
        return published
