"""Which labels are learned from: votes counted, doubts set aside, sudden runs held, and what people decide of them."""

import json
import math
import sqlite3
from collections.abc import Mapping
from typing import Any

import structlog

from daemon.champion import Champion
from daemon.config import Config
from daemon.doubts import Cause, Doubts
from daemon.holding import CONFIDENT, Begun, Ended, Holding, Told
from daemon.label_errors import likely_errors
from daemon.memory import Labelled, Memory
from daemon.metrics import Metrics
from daemon.records import Alert, Label, utc
from daemon.state import Blobs, Decisions
from daemon.votes import Votes
from daemon.waiting import Answer, Joined, Scored, Waiting

log = structlog.get_logger(__name__)

#: Examples that an alert shows.
SHOWN = 5

#: What a probability of 0 is taken for, so that its loss is a number.
SURE_NOT = 1e-6

#: Champions that only followed the label mix whose odds are kept: their scores' labels come late. A day has a few.
MAX_FOLLOWERS = 100


class Review:
    """Stands between labels and memory, within the controller's step."""

    def __init__(
        self, db: sqlite3.Connection, config: Config, metrics: Metrics, memory: Memory, waiting: Waiting
    ) -> None:
        self._config = config.labels
        self._seed = config.seed
        self._metrics = metrics
        self._memory = memory
        self._waiting = waiting
        self._blobs = Blobs(db)
        self._decisions = Decisions(db)
        self.votes = Votes(db, config.labels)
        self.doubts = Doubts(db)
        saved: dict[str, Any] = self._blobs.get_json("holding", {"sources": [], "moved": None})
        self.holding = Holding(saved["sources"])
        #: By version: how much likelier a champion that follows the label mix takes each label to be than it learned.
        self._odds: dict[str, dict[str, float]] = saved.get("odds", {})
        #: When the inputs last moved: labels of older texts say nothing of how right the model is now.
        self._moved: float | None = saved["moved"]

    def save(self) -> None:
        self._blobs.put_json("holding", {"sources": self.holding.state(), "moved": self._moved, "odds": self._odds})

    def cast(self, label: Label, now: float) -> tuple[Answer, bool]:
        """Count a label with those before it: what its text is by now, and whether that has settled a doubt."""
        verdict, annotator = self.votes.cast(label, now), label.annotator or ""
        answer, doubted = Answer(label.id, verdict.label, verdict.weight, now), self.doubts.cause(label.id)
        if verdict.disagreement is not None:
            when = label.timestamp.timestamp() if label.timestamp else now
            example = Labelled(label.id, label.text or "", verdict.label, None, None, when, verdict.weight)
            known = self._waiting.find([label.id]).get(label.id)
            self._set_aside(_example(known, answer) if known else example, verdict.disagreement, annotator, now)
            return answer, False
        # Somebody has changed the label, or somebody else has given the same.
        decided = doubted is not None and (verdict.votes > 1 or verdict.label != doubted[1])
        settled = decided and doubted is not None and doubted[0] != "held"
        if settled:
            self.doubts.settle(label.id)
        return answer, settled

    def learn(self, example: Labelled) -> bool:
        """Remember `example`, unless it is set aside."""
        if self.doubts.withholds(example):
            return False
        self._memory.add([example])
        return True

    def hear(self, joined: Joined, now: float) -> tuple[bool, list[Alert]]:
        """Learn from a score's truth or hold it; whether it may be judged by, and what people are to know."""
        scored = joined.scored
        example = _example(scored, Answer(scored.id, joined.truth, joined.weight, now))
        if not self._config.hold:
            self.learn(example)
            return True, []
        annotator = self.votes.annotator(scored.id)
        held = self.holding.holds(scored.source, annotator)
        if held:
            self._hold(example, annotator, now, "labels of this source are held since a run of contradictions began")
        else:
            self.learn(example)
        learned = self._learned(scored)
        confident = max(learned.values(), default=0.0) >= CONFIDENT
        confident &= self._moved is None or scored.timestamp >= self._moved
        wrong = bool(learned) and max(learned, key=learned.__getitem__) != joined.truth
        told = Told(scored.id, scored.source, annotator, confident, wrong)
        change = self.holding.observe(told, now)
        if isinstance(change, Begun):
            return not held, [self._begin(change, scored.model, now)]
        if isinstance(change, Ended):
            return not held, [self._end(change, scored.model, now)]
        return not held, []

    def moved(self, moment: float) -> None:
        """The texts have changed at `moment`: how right the model is has to be shown anew, on texts since then."""
        self._moved = moment
        self.holding.start_anew()

    def rebase(self, champion: Champion) -> None:
        """Another champion scores, and of texts without a source nobody can say which it has learned."""
        if champion.odds:
            known = {**self._odds, champion.version: champion.odds}
            self._odds = dict(list(known.items())[-MAX_FOLLOWERS:])
        if None not in self.holding.held():
            self.holding.forget(None)

    def _learned(self, scored: Scored) -> dict[str, float]:
        """What the scoring model learned to say of the text, apart from the label mix that it follows.

        That one label is common by now makes it sure of most texts, and wrong about them as soon as the mix turns back:
        this is no knowledge that a label could contradict.
        """
        said, odds = _probabilities(scored), self._odds.get(scored.model, {})
        apart = {label: share / odds.get(label, 1.0) for label, share in said.items()}
        total = sum(apart.values()) or 1.0
        return {label: share / total for label, share in apart.items()}

    def screen(self, champion: Champion, now: float) -> int:
        """Set aside what is likely wrong among the examples to learn; returns how many that were."""
        if not self._config.error_below:
            return 0
        new = self._memory.new(champion.newest_example)
        accepted, scores = self.doubts.accepted([one.id for one in new]), self._waiting.find([one.id for one in new])
        judged = [
            (one, scored)
            for one in new
            if one.id not in accepted
            and (scored := scores.get(one.id)) is not None
            and scored.sketched_by == champion.version
            and scored.probabilities is not None
        ]
        given = [one.label for one, _ in judged]
        below, seed = self._config.error_below, self._seed
        found = likely_errors(given, [scored for _, scored in judged], below=below, seed=seed)
        for at, (label, chance) in found.items():
            one, _ = judged[at]
            because = f"{one.label} is {chance:.1%} likely by a cross-check with its like; {label} is likelier"
            for example in self._memory.take_out([one.id]):
                self._set_aside(example, because, self.votes.annotator(one.id), now, "likely error")
        return len(found)

    def decide(self, arguments: Mapping[str, str], model: str, now: float, *, accept: bool) -> tuple[str, list[Alert]]:
        """A person has looked: `arguments` may name an `id` or a `cause`. Raises ValueError when nothing is meant."""
        doubts = self.doubts.open(arguments.get("cause"), arguments.get("id"))
        if not doubts:
            raise ValueError("no label that is set aside fits; `relearnd labels doubtful` lists them")
        self.doubts.close(doubts, "accepted" if accept else "dropped")
        if accept:
            # One without a text has no score yet; it is learned from when that comes.
            self._memory.add([doubt.example for doubt in doubts if doubt.example.text])
        done = f"{len(doubts)} {'labels are' if len(doubts) > 1 else 'label is'} {'accepted' if accept else 'dropped'}"
        self._decisions.add(now, "labels accepted" if accept else "labels dropped", f"{done} by a person", {})
        return done, self._release(model, now)

    def expire(self, model: str, now: float) -> list[Alert]:
        """Let go of what is older than the horizon."""
        self.votes.expire(now)
        self.doubts.expire(now, self._config.horizon)
        for cause, count in self.doubts.counts().items():
            self._metrics.labels_doubtful.labels(cause).set(count)
        return self._release(model, now)

    def _release(self, model: str, now: float) -> list[Alert]:
        """End the holds of whose labels none is left to be decided."""
        waiting = {doubt.example.source for doubt in self.doubts.open("held")}
        over = {source: since for source, since in self.holding.held().items() if source not in waiting}
        for source in over:
            self.holding.forget(source)
        return [_alert("resolved", source, model, since, now) for source, since in over.items()]

    def _begin(self, begun: Begun, model: str, now: float) -> Alert:
        whose = f" of {begun.annotator}" if begun.annotator else ""
        because = (
            f"labels{whose} on {_named(begun.source)} began to contradict confident scores: {begun.share:.0%} of the "
            f"last ones, usually {begun.usual:.0%}. They are held until somebody has looked: `relearnd labels doubtful`"
        )
        taken = self._memory.take_out(begun.ids)
        for example in taken:
            self._hold(example, self.votes.annotator(example.id), now, because)
        details = {"source": begun.source, "annotator": begun.annotator, "labels": len(taken)}
        self._decisions.add(now, "labels held", because, details)
        log.warning("labels held", because=because)
        found = _alert("firing", begun.source, model, self.holding.held()[begun.source], now)
        shown = [example.id for example in taken[-SHOWN:]]
        shares = {"value": begun.share, "baseline": begun.usual, "examples": shown, "because": because}
        return found.model_copy(update=shares)

    def _end(self, ended: Ended, model: str, now: float) -> Alert:
        # What began the return was held for want of knowing better.
        for id in ended.ids:
            for doubt in self.doubts.open("held", id):
                self.doubts.settle(id)
                self._memory.add([doubt.example])
        because = f"labels on {_named(ended.source)} agree with the model again; those held before still wait"
        self._decisions.add(now, "labels held no more", because, {"source": ended.source})
        found = _alert("resolved", ended.source, model, ended.since, now)
        return found.model_copy(update={"baseline": ended.usual, "because": because})

    def _hold(self, example: Labelled, annotator: str, now: float, because: str) -> None:
        self._set_aside(example, because, annotator, now, "held")

    def _set_aside(
        self, example: Labelled, because: str, annotator: str, now: float, cause: Cause = "disagreement"
    ) -> None:
        self._memory.take_out([example.id])
        self.doubts.add(example, cause, because, annotator, now)
        self._metrics.labels_set_aside.labels(cause).inc()


def _example(scored: Scored, answer: Answer) -> Labelled:
    given = _probabilities(scored).get(answer.label)
    loss = None if given is None else -math.log(max(given, SURE_NOT))
    when = scored.timestamp
    return Labelled(scored.id, scored.text, answer.label, scored.source, scored.key, when, answer.weight, loss)


def _probabilities(scored: Scored) -> dict[str, float]:
    return json.loads(scored.probabilities) if scored.probabilities else {}


def _named(source: str | None) -> str:
    return "texts without a source" if source is None else f"texts of {source}"


def _alert(status: Any, source: str | None, model: str, since: float, now: float) -> Alert:
    return Alert(
        status=status,
        name="labels-held",
        key=source or "",
        severity="critical",
        value=0,
        baseline=0,
        starts_at=utc(since),
        ends_at=utc(now) if status == "resolved" else None,
        model=model,
    )
