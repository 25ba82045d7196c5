"""Texts in, scores out: decode and tokenise, forward, encode and write, as three overlapping stages.

The stages are plain functions over a batch; a backtest calls them one after the other, the daemon runs each in a
thread with bounded queues between them. Scores, dead letters and the positions they were read from are written in
one atomic step, so every text that was read has exactly one answer. A batch whose partitions have gone to another
scorer meanwhile is dropped: its texts are scored there.
"""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import numpy.typing as npt
import structlog

from connectors.topic import Connector, Message, Outgoing, Partition, Positions, StaleError
from daemon.config import Config
from daemon.engine import Engine
from daemon.hashing import unit_hash
from daemon.losses import Losses
from daemon.metrics import Metrics
from daemon.pipe import Pipe
from daemon.records import Alert, DeadLetter, Decoder, Encoder, Score, Text, encode, encode_sketch
from daemon.swap import Swapper
from learners.model import Tokens
from learners.scoring import Scored

log = structlog.get_logger(__name__)

#: The consumer group of all scorers.
GROUP = "relearnd-scorer"

#: How long a stage waits before it looks whether it should stop, in seconds.
WAIT = 0.2

#: Lag is measured this often, in seconds: a broker has to be asked for it, and no batch should wait for that.
LAG_EVERY = 1.0


@dataclass(frozen=True)
class Prepared:
    """Texts of one read, tokenised for `engine`; `keys` are their messages' keys, `claim` is the reader's then."""

    engine: Engine
    texts: list[Text]
    keys: list[bytes | None]
    tokens: list[Tokens]
    dead: list[DeadLetter]
    positions: dict[Partition, int]
    read_at: float
    claim: int


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
    claim: int = 0,
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
    return Prepared(engine, texts, keys, tokens, dead, positions, read_at, claim)


def forward(prepared: Prepared) -> Forwarded:
    return Forwarded(prepared, prepared.engine.score(prepared.tokens))


def answers(
    forwarded: Forwarded, config: Config, now: datetime, encode_score: Callable[[Score], bytes] = encode
) -> list[Outgoing]:
    """The scores and dead letters of a batch, as messages: one for each text read."""
    prepared, topics = forwarded.prepared, config.topics
    labels = prepared.engine.labels
    messages = [
        Outgoing(
            topics.scores,
            encode_score(_score(text, row, sketch, labels, prepared.engine.version, now, config.scorer.sketch_share)),
            key,
        )
        for text, key, row, sketch in zip(
            prepared.texts, prepared.keys, forwarded.scored.probabilities, forwarded.scored.sketches, strict=True
        )
    ]
    return messages + [dead_letter(letter, topics.dead_letters) for letter in prepared.dead]


def dead_letter(letter: DeadLetter, topic: str) -> Outgoing:
    headers = {
        "reason": letter.reason.value,
        "origin": f"{letter.topic}/{letter.partition}/{letter.offset}",
        "time": letter.at.isoformat(),  # RFC 3339
    }
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
        self._reader = connector.reader([config.topics.texts], group=GROUP, shared=True)
        self._writer = connector.writer()
        self._swapper = swapper
        self._config = config
        self._metrics = metrics
        self._clock = clock
        self._losses = Losses(config.topics, metrics)
        self._texts = Decoder(Text, config.records)
        self._scores = Encoder(Score, config.topics.scores, config.records)
        self._alerts = Encoder(Alert, config.topics.alerts, config.records)
        self._writing = threading.Lock()
        self._lag_measured = float("-inf")
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
        opened = self._scores.open(stop) and self._alerts.open(stop)
        while opened and not stop.is_set() and self._failure is None:
            if self._swapper.wait(WAIT) is None:
                self._idle()
                continue
            messages = self._reader.poll(self._config.scorer.max_texts, WAIT)
            claim = self._reader.claim
            if not self._texts.fetch(messages, stop, self._idle):
                break
            # Taken after these: a swap may have come while they waited.
            engine = self._swapper.current
            self._notice_losses(engine)
            if not messages or engine is None:
                self._idle()
                continue
            positions, read_at = self._reader.positions(), time.perf_counter()
            self._prepared.put(prepare(messages, engine, self._texts, positions, self._now(), read_at, claim))
        self._prepared.finish()

    def _idle(self) -> None:
        """Nothing comes: say what would have gone out with the next scores."""
        self._measure_lag(self._reader.positions())
        if self._swapper.notices.waiting():
            self._send([], None)

    def _notice_losses(self, engine: Engine | None) -> None:
        alerts = self._losses.notice(self._reader.lost, self._clock(), engine.version if engine else "")
        self._swapper.notices.add(*alerts)

    def _forward(self) -> None:
        while (batch := self._prepared.get()) is not None:
            started = time.perf_counter()
            forwarded = forward(batch)
            self._metrics.forward_seconds.observe(time.perf_counter() - started)
            self._forwarded.put(forwarded)
        self._forwarded.finish()

    def _write(self) -> None:
        while (batch := self._forwarded.get()) is not None:
            try:
                self._send(answers(batch, self._config, self._now(), self._scores.encode), batch.prepared)
            except StaleError as error:
                self._metrics.stale_batches.inc()
                log.info("batch dropped", texts=len(batch.prepared.texts), because=str(error))
                continue
            self._measure(batch.prepared)

    def _send(self, messages: list[Outgoing], batch: Prepared | None) -> None:
        """Write `messages`, the alerts that wait, and how far `batch` was read: all of it or nothing."""
        with self._writing:
            alerts = self._swapper.notices.waiting()
            topic = self._config.topics.alerts
            messages = messages + [Outgoing(topic, self._alerts.encode(alert), alert.key.encode()) for alert in alerts]
            if batch is None:
                self._writer.write(messages)
            else:
                self._writer.write(messages, reader=self._reader, positions=batch.positions, claim=batch.claim)
            self._swapper.notices.sent(len(alerts))
        for alert in alerts:
            self._metrics.alerts.labels(alert.status).inc()

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
        if time.monotonic() - self._lag_measured >= LAG_EVERY:
            self._lag_measured = time.monotonic()
            self._metrics.measure_lag("texts", positions, self._reader.end())

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
