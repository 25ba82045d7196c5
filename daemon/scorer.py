"""Texts in, scores out: decode and tokenise, forward, encode and write, as three overlapping stages.

The stages are plain functions over a batch; a backtest calls them one after the other, the daemon runs each in a
thread with bounded queues between them. Scores, dead letters and the positions they were read from are written in
one atomic step, so every text that was read has exactly one answer.
"""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import numpy.typing as npt

from connectors.topic import Connector, Message, Outgoing, Partition, Positions
from daemon.config import Config
from daemon.engine import Engine
from daemon.hashing import unit_hash
from daemon.metrics import Metrics
from daemon.pipe import Pipe
from daemon.records import DeadLetter, Decoder, Score, Text, encode, encode_sketch
from daemon.swap import Swapper
from learners.model import Tokens
from learners.scoring import Scored

#: The consumer group of all scorers.
GROUP = "relearnd-scorer"

#: How long a stage waits before it looks whether it should stop, in seconds.
WAIT = 0.2


@dataclass(frozen=True)
class Prepared:
    """Texts of one read, tokenised for `engine`; `keys` are their messages' keys."""

    engine: Engine
    texts: list[Text]
    keys: list[bytes | None]
    tokens: list[Tokens]
    dead: list[DeadLetter]
    positions: dict[Partition, int]
    read_at: float


@dataclass(frozen=True)
class Forwarded:
    prepared: Prepared
    scored: Scored


def prepare(
    messages: Sequence[Message],
    engine: Engine,
    decoder: Decoder[Text],
    positions: dict[Partition, int],
    now: datetime,
    read_at: float,
) -> Prepared:
    """Decode and tokenise; what does not decode becomes a dead letter."""
    texts, keys, dead = [], [], []
    for message in messages:
        decoded = decoder.decode(message, now)
        if isinstance(decoded, DeadLetter):
            dead.append(decoded)
        else:
            texts.append(decoded)
            keys.append(message.key)
    tokens = engine.tokenise([text.text for text in texts])
    return Prepared(engine, texts, keys, tokens, dead, positions, read_at)


def forward(prepared: Prepared) -> Forwarded:
    return Forwarded(prepared, prepared.engine.score(prepared.tokens))


def answers(forwarded: Forwarded, config: Config, now: datetime) -> list[Outgoing]:
    """The scores and dead letters of a batch, as messages: one for each text read."""
    prepared, topics = forwarded.prepared, config.topics
    labels = prepared.engine.labels
    messages = [
        Outgoing(
            topics.scores,
            encode(_score(text, row, sketch, labels, prepared.engine.version, now, config.scorer.sketch_share)),
            key,
        )
        for text, key, row, sketch in zip(
            prepared.texts, prepared.keys, forwarded.scored.probabilities, forwarded.scored.sketches, strict=True
        )
    ]
    return messages + [dead_letter(letter, topics.dead_letters) for letter in prepared.dead]


def dead_letter(letter: DeadLetter, topic: str) -> Outgoing:
    headers = {"reason": letter.reason.value, "origin": f"{letter.topic}/{letter.partition}/{letter.offset}"}
    return Outgoing(topic, encode(letter), None, headers)


def _score(
    text: Text,
    probabilities: npt.NDArray[np.float32],
    sketch: npt.NDArray[np.float32],
    labels: list[str],
    version: str,
    now: datetime,
    sketch_share: float,
) -> Score:
    # model_construct: every value was validated when the text was read, or comes from the model.
    return Score.model_construct(
        **dict(text),
        label=labels[int(probabilities.argmax())],
        probabilities={label: round(float(p), 4) for label, p in zip(labels, probabilities, strict=True)},
        model=version,
        scored_at=now,
        sketch=encode_sketch(sketch) if unit_hash("sketch", text.id) < sketch_share else None,
    )


class Scorer:
    """The scoring service: `run` returns when asked to stop, or raises what stopped it."""

    def __init__(
        self,
        connector: Connector,
        swapper: Swapper,
        config: Config,
        metrics: Metrics,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._reader = connector.reader([config.topics.texts], group=GROUP)
        self._writer = connector.writer()
        self._swapper = swapper
        self._config = config
        self._metrics = metrics
        self._clock = clock
        self._prepared: Pipe[Prepared] = Pipe(config.scorer.queue)
        self._forwarded: Pipe[Forwarded] = Pipe(config.scorer.queue)
        self._failure: BaseException | None = None

    def run(self, stop: threading.Event) -> None:
        """Score until `stop` is set, then finish what was read. What is not written is read again by the next run."""
        later = [threading.Thread(target=self._guard, args=(stage,)) for stage in (self._forward, self._write)]
        for thread in later:
            thread.start()
        self._guard(lambda: self._prepare(stop))
        for thread in later:
            thread.join()
        self._writer.close()
        self._reader.close()
        if self._failure is not None:
            raise self._failure

    def _prepare(self, stop: threading.Event) -> None:
        decoder = Decoder(Text, self._config.records)
        while not stop.is_set() and self._failure is None:
            if self._swapper.wait(WAIT) is None:
                self._measure_lag(self._reader.positions())
                continue
            messages = self._reader.poll(self._config.scorer.max_texts, WAIT)
            # Taken after the poll: a swap may have come while it waited.
            engine = self._swapper.current
            if not messages or engine is None:
                self._measure_lag(self._reader.positions())
                continue
            positions, read_at = self._reader.positions(), time.perf_counter()
            self._prepared.put(prepare(messages, engine, decoder, positions, self._now(), read_at))
        self._prepared.finish()

    def _forward(self) -> None:
        while (batch := self._prepared.get()) is not None:
            started = time.perf_counter()
            forwarded = forward(batch)
            self._metrics.forward_seconds.observe(time.perf_counter() - started)
            self._forwarded.put(forwarded)
        self._forwarded.finish()

    def _write(self) -> None:
        while (batch := self._forwarded.get()) is not None:
            positions = batch.prepared.positions
            self._writer.write(answers(batch, self._config, self._now()), reader=self._reader, positions=positions)
            self._measure(batch.prepared)

    def _measure(self, batch: Prepared) -> None:
        self._metrics.texts_scored.inc(len(batch.texts))
        self._metrics.tokens_scored.inc(sum(len(tokens) for tokens in batch.tokens))
        self._metrics.batch_texts.observe(len(batch.texts))
        self._metrics.score_seconds.observe(time.perf_counter() - batch.read_at)
        for letter in batch.dead:
            self._metrics.dead_letters.labels("texts", letter.reason.value).inc()
        self._measure_lag(batch.positions)

    def _measure_lag(self, positions: Positions) -> None:
        """How many texts are not read, or read and not written."""
        lag = sum(end - positions.get(partition, 0) for partition, end in self._reader.end().items())
        self._metrics.lag.labels("texts").set(lag)

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._clock(), UTC)

    def _guard(self, stage: Callable[[], None]) -> None:
        """Run a stage; what breaks it ends the others too, and is raised by `run`."""
        try:
            stage()
        except BaseException as error:  # noqa: BLE001 (kept, and raised by run)
            self._failure = self._failure or error
            self._prepared.break_off()
            self._forwarded.break_off()
