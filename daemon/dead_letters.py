"""`relearnd dead-letters`: what was set aside and why, and sending it back to where it came from.

A dead letter is sent back once, however often that is asked for. Letters of one reason and one origin are a *pile*, and
a replay commits how far it has come in each pile in the same atomic step as what it sends. So replaying one pile says
nothing of the others, and a replay that is killed goes on where it stopped.
"""

import base64
import json
from collections import Counter, defaultdict, deque
from itertools import chain
from typing import NamedTuple

from pydantic import ValidationError
from rich.console import Console
from rich.table import Table
from rich.text import Text

from connectors.topic import Message, Outgoing, Partition
from daemon.config import Config
from daemon.connect import open_connector
from daemon.errors import RelearndError
from daemon.pipes import up_to_now
from daemon.records import DeadLetter, Reason

#: The consumer group of all replays: a second one at the same time takes over from the first.
GROUP = "relearnd-replay"


class DeadLettersError(RelearndError):
    """What was asked for cannot be found or done; the message says what there is."""


class Filter(NamedTuple):
    """Which letters: of one reason, from one topic (as it is called at the connector), or of any."""

    reason: Reason | None = None
    origin: str | None = None

    @classmethod
    def of(cls, reason: str | None, origin: str | None) -> "Filter":
        """Raises DeadLettersError for a reason that there is not."""
        if reason is not None and reason not in set(Reason):
            raise DeadLettersError(f"--reason {reason}: there are {', '.join(Reason)}")
        return cls(None if reason is None else Reason(reason), origin)

    def takes(self, letter: DeadLetter) -> bool:
        return self.reason in (None, letter.reason) and self.origin in (None, letter.topic)


class Filed(NamedTuple):
    """A letter in its topic."""

    letter: DeadLetter
    partition: int
    offset: int

    @property
    def pile(self) -> Partition:
        """The made-up partition under which a replay commits how far it has come in this letter's pile."""
        return Partition(f"replay-{self.letter.topic}-{self.letter.reason}", self.partition)

    @property
    def is_whole(self) -> bool:
        """Whether the letter holds all of the message: what is too large was cut when it was set aside."""
        return self.letter.reason is not Reason.TOO_LARGE


class Replay(NamedTuple):
    """How many letters were sent back, by topic, and how many could not be because they are not whole."""

    sent: Counter[str]
    cut: int


def replay(config: Config, wanted: Filter, *, dry_run: bool) -> Replay:
    """Send the messages of the letters that `wanted` takes back to the topics they came from, as they were.

    Ends where the topic now ends, so that messages which are set aside again do not go round and round.

    Raises:
        FencedError: another replay has begun; what this one has sent, that one does not send again.
    """
    sent: Counter[str] = Counter()
    cut = 0
    connector = open_connector(config)
    # The reader first: from then on, nobody else commits for its group.
    with (
        connector.reader([config.topics.dead_letters], group=None if dry_run else GROUP) as reader,
        connector.writer() as writer,
    ):
        done = connector.committed(GROUP)
        for messages in up_to_now(reader):
            letters = [one for one in _filed(messages) if wanted.takes(one.letter) and not _is_done(one, done)]
            whole = [one for one in letters if one.is_whole]
            cut += len(letters) - len(whole)
            sent.update(one.letter.topic for one in whole)
            if whole and not dry_run:
                positions = {one.pile: one.offset + 1 for one in whole}
                writer.write([_message(one.letter) for one in whole], reader=reader, positions=positions)
    connector.close()
    return Replay(sent, cut)


def print_letters(config: Config, wanted: Filter, count: int, console: Console, *, as_json: bool) -> None:
    """Print the last `count` letters that `wanted` takes (0: all), the newest last."""
    kept: defaultdict[int, deque[Filed]] = defaultdict(lambda: deque(maxlen=count or None))
    reasons: Counter[str] = Counter()
    others = 0
    connector = open_connector(config)
    with connector.reader([config.topics.dead_letters]) as reader:
        done = connector.committed(GROUP)
        for messages in up_to_now(reader):
            letters = _filed(messages)
            others += len(messages) - len(letters)
            taken = [one for one in letters if wanted.takes(one.letter)]
            for one in taken:
                kept[one.partition].append(one)
            reasons.update(one.letter.reason.value for one in taken)
    connector.close()
    newest_last = sorted(chain.from_iterable(kept.values()), key=lambda one: one.letter.at)[-count:]
    if as_json:
        rows = [one.letter.model_dump(mode="json") | {"replayed": _is_done(one, done)} for one in newest_last]
        console.print_json(json.dumps(rows))
        return
    console.print(_table(newest_last, done))
    shares = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())
    console.print(f"{len(newest_last)} of {reasons.total()} dead letters shown" + (f": {shares}" if shares else ""))
    if others:
        console.print(f"{others} messages of {config.topics.dead_letters} are no dead letters", markup=False)


def _table(letters: list[Filed], done: dict[Partition, int]) -> Table:
    table = Table("set aside", "reason", "origin", "replayed", "detail")
    for one in letters:
        letter = one.letter
        origin = Text(f"{letter.topic}/{letter.partition}/{letter.offset}")
        replayed = "yes" if _is_done(one, done) else ""
        table.add_row(f"{letter.at:%Y-%m-%d %H:%M:%S}", letter.reason, origin, replayed, Text(letter.detail))
    return table


def _filed(messages: list[Message]) -> list[Filed]:
    """The letters among `messages`; anyone may write other things to a topic."""
    letters = []
    for message in messages:
        try:
            letter = DeadLetter.model_validate_json(message.value)
        except ValidationError:
            continue
        letters.append(Filed(letter, message.partition, message.offset))
    return letters


def _is_done(filed: Filed, done: dict[Partition, int]) -> bool:
    return filed.offset < done.get(filed.pile, 0)


def _message(letter: DeadLetter) -> Outgoing:
    key = None if letter.key is None else base64.b64decode(letter.key)
    return Outgoing(letter.topic, base64.b64decode(letter.value), key)
