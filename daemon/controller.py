"""The controller: what is read, learned from and decided in one step is committed in one transaction.

A step takes messages of the scores and labels topics, and leaves in the state: the positions it read to, the joined
and remembered examples, the detectors, the alert windows, the jobs and decisions, and what is to be published.
Whatever breaks a step ends the process: what is in memory is only a copy of the state, and is loaded again from it.
"""

import sqlite3
import time
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import structlog

from connectors.topic import FencedError, Message, Outgoing, Partition, Positions
from daemon.asking import Asking
from daemon.champion import CauseOfRollback, Champion, Reign
from daemon.config import Config
from daemon.intake import Intake
from daemon.memory import LAST, Memory
from daemon.metrics import Metrics
from daemon.outbox import Outbox
from daemon.publisher import Publisher
from daemon.records import Alert, encode
from daemon.registry import Registry, RegistryError
from daemon.state import Blobs, Commands, Decisions, ReadPositions, transaction
from daemon.steering import REFUSED
from daemon.store import open_store
from daemon.training import Job, Judgement, Training
from daemon.triggers import GRAVITY, LEARN, MAX_DOUBLINGS, Firing, Schedule, Situation, consequence, decide, rehearsing
from daemon.waiting import Waiting
from daemon.watch import Drift
from learners.job import Rescored
from learners.priors import LEAST_BEFORE

log = structlog.get_logger(__name__)

#: How often the bounds of memory and of what waits are enforced, in seconds of the stream's clock.
HOUSEKEEPING = 60.0

#: What a controller has noticed and not yet acted on, before it has noticed anything; `rehearsed` is the latest example
#: that was there when a run last went over all of them.
NOTHING_NOTICED: Mapping[str, Any] = {
    "drift": None,
    "mix": None,
    "manual": None,
    "best_accuracy": None,
    "schedule_seen": None,
    "held": None,
    "rehearsed": 0,
}


class Controller:
    """Owns the state `db` from the moment it is made; not for use by several threads at once."""

    def __init__(self, db: sqlite3.Connection, config: Config, registry: Registry, metrics: Metrics) -> None:
        self._db = db
        self._config = config
        self._registry = registry
        self._metrics = metrics
        self._blobs = Blobs(db)
        self._positions = ReadPositions(db)
        self._commands = Commands(db)
        self._schedule = Schedule(config.triggers.schedule)
        self._housekept = float("-inf")
        self._token = uuid.uuid4().bytes
        # Before anything is read: what another controller still did after that would be lost with its next step.
        with transaction(db):
            self._blobs.put("owner", self._token)
        self.decisions = Decisions(db)
        self.outbox = Outbox(db)
        self.memory = Memory(db, config.memory)
        self.waiting = Waiting(db, config.labels, keep=max(config.memory.rescored, config.drift.reference))
        store = open_store(config)
        self.reign = Reign(db, config, registry, Publisher(store, registry, metrics) if store else None)
        self.training = Training(db, config, registry, self.memory, self.waiting)
        self.intake = Intake(db, config, metrics, self.memory, self.waiting)
        self.asking = Asking(db, config.asking, self.waiting)
        #: What has been noticed and not yet acted on; stored with each step.
        self._noticed: dict[str, Any] = {**NOTHING_NOTICED, **self._blobs.get_json("noticed", {})}
        self._noticed_saved: dict[str, Any] = {}

    @property
    def champion(self) -> Champion | None:
        return self.reign.champion

    def begin(self, now: float) -> Champion | None:
        """Take up where the state left off; at the very start, make the registry's newest version champion."""
        with transaction(self._db):
            self._require_ownership()
            if self.reign.champion is None:
                champion = self.reign.begin(now, self.memory.newest())
                if champion is not None:
                    self._rebase(champion, [], now)
                    self._noticed["rehearsed"] = champion.newest_example
            self.reign.announce()
            self._save()
        self.training.supervise()
        return self.champion

    def positions(self) -> dict[Partition, int]:
        """Where to read on."""
        return self._positions.load()

    def step(self, messages: Sequence[Message], positions: Positions, now: float, alerts: Sequence[Alert] = ()) -> None:
        """Take `messages`, read up to `positions`, and act on what is known; `now` is the stream's clock.

        `alerts` are about the reading itself, and go out with what this step has to say.
        """
        started = time.perf_counter()
        with transaction(self._db):
            self._require_ownership()
            news = self.intake.take(messages, self.champion, now)
            for drift in news.drifts:
                self._note_drift(drift, now)
            if news.against_champion is not None:
                self._end_probation(news.against_champion, now)
            for seq, name, arguments in self._commands.waiting():
                self._commands.answer(seq, self._obey(name, arguments, now))
            judgement = self.training.judge(self.champion)
            if judgement is not None:
                self._conclude(judgement, now)
            self._consider(now)
            self._ask(now)
            self.reign.announce()
            for alert in alerts:
                self._metrics.alerts.labels(alert.status).inc()
                value = self.intake.alerts.encode(alert)
                self.outbox.put(Outgoing(self._config.topics.alerts, value, alert.key.encode()))
            if now - self._housekept >= HOUSEKEEPING:
                self._housekept = now
                self.intake.expire(now)
                self.asking.expire(now, self._config.labels.horizon)
            if messages or alerts:
                self._positions.save(positions)
            self._save()
        if judgement is not None:
            self.training.tidy()
        self.training.supervise()
        self._measure_training()
        self._metrics.controller_step_seconds.observe(time.perf_counter() - started)

    def _ask(self, now: float) -> None:
        if self.champion is None:
            return
        for request in self.asking.requests(self.champion, now):
            self._metrics.label_requests.inc()
            self.outbox.put(Outgoing(self._config.topics.label_requests, encode(request), request.id.encode()))

    def _require_ownership(self) -> None:
        """What is in memory is a copy of the state: once another controller writes there, it is worth nothing."""
        if self._blobs.get("owner") != self._token:
            raise FencedError("another controller has taken over this state; only one may run in a home")

    def _measure_training(self) -> None:
        learner = self.training.learner
        self._metrics.training_running.set(learner is not None)
        progress = learner.progress() if learner else None
        self._metrics.training_progress.set(progress.step / progress.steps if progress else float("nan"))

    def _save(self) -> None:
        self.intake.save()
        if self._noticed != self._noticed_saved:
            self._blobs.put_json("noticed", self._noticed)
            self._noticed_saved = dict(self._noticed)

    def _rebase(
        self, champion: Champion, rescored: Sequence[Rescored], now: float, mix_moved: float | None = None
    ) -> None:
        """Everything measured of the champion starts anew with another one."""
        self._noticed["best_accuracy"] = self._noticed["mix"] = None
        drift = self._noticed["drift"]
        # A model that learned while the stream was only beginning to drift has not learned the drift.
        if drift and self._labels_of(drift, up_to=champion.newest_example) >= self._config.triggers.drift_labels:
            self._noticed["drift"] = None
        drifting = self._noticed["drift"] is not None
        against = self.intake.rebase(champion, rescored, now, drifting=drifting, mix_moved=mix_moved)
        if against is not None:
            self._end_probation(against, now)

    def _labels_of(self, drift: Mapping[str, Any], *, since: int = 0, up_to: int | None = None) -> int:
        """Examples to learn whose texts came after an alarm."""
        return self.memory.count("learn", since=since, up_to=up_to, from_time=drift["moment"])

    def _note_drift(self, drift: Drift, now: float) -> None:
        """Record an alarm; the gravest kind that came first is kept until it has been learned from."""
        alarm = drift.alarm
        self._metrics.drift_alarms.labels(alarm.detector, alarm.kind).inc()
        before = self._before(drift.moment) if alarm.kind == "label mix" else 0
        action = consequence(
            alarm.kind, self._config.triggers, by_labels=alarm.by_labels, rose=alarm.rose, before=before
        )
        self.decisions.add(now, "drift", str(drift), {**drift.details(), "action": action})
        log.info("drift", because=str(drift), action=action)
        if alarm.kind == "label mix":
            if before >= LEAST_BEFORE:
                self._noticed["mix"] = {"reason": f"{alarm.kind} drift: {alarm}", "moment": drift.moment, "tries": 0}
            return
        if alarm.by_labels and not alarm.rose:
            return
        noticed = self._noticed["drift"]
        if noticed is None or GRAVITY[alarm.kind] > GRAVITY[noticed["kind"]] or not noticed["harm"]:
            self._noticed["drift"] = {
                "reason": f"{alarm.kind} drift: {alarm}",
                "kind": alarm.kind,
                "moment": drift.moment,
                "harm": alarm.by_labels,
            }

    def _before(self, moment: float) -> int:
        """Texts of before `moment` that a run which follows the label mix would have."""
        champion = self.champion
        return self.training.before(champion, moment) if champion else 0

    def _end_probation(self, against: str, now: float) -> None:
        """The champion has failed: bring its parent back, if that is still to be had."""
        try:
            self._roll_back(now, "probation", against)
        except (ValueError, RegistryError) as error:
            because = f"{against}; but the parent cannot be brought back: {error}"
            self.decisions.add(now, "not rolled back", because, {})
            log.error("not rolled back", because=because)

    def _roll_back(self, now: float, cause: CauseOfRollback, because: str) -> None:
        failed = self.champion.version if self.champion else None
        champion = self.reign.roll_back(now, cause=cause, because=because)
        self._metrics.rollbacks.labels(cause).inc()
        log.warning("rolled back", version=failed, to=champion.version, because=because)
        self._rebase(champion, [], now)

    def _obey(self, name: str, arguments: Mapping[str, str], now: float) -> str:
        """Do what a person asked for; the answer is a sentence."""
        by = arguments.get("by", "a person")
        try:
            if name == "learn":
                self._noticed["manual"] = by
                return "a training run is asked for"
            if name == "rollback":
                self._roll_back(now, "manual", f"asked for by {by}")
                return f"rolled back to {self.champion.version}" if self.champion else "rolled back"
            if name == "promote":
                return self._promote_by_hand(arguments.get("version", ""), by, now)
            if name in ("labels accept", "labels drop"):
                return self._review(arguments, now, accept=name == "labels accept")
        except (ValueError, RegistryError) as error:
            return f"{REFUSED}{error}"
        return f"{REFUSED}there is no command {name!r}"

    def _review(self, arguments: Mapping[str, str], now: float, *, accept: bool) -> str:
        model = self.champion.version if self.champion else ""
        done, alerts = self.intake.review.decide(arguments, model, now, accept=accept)
        self.intake.changed()
        for alert in alerts:
            self.intake.send(alert)
        return done

    def _promote_by_hand(self, version: str, by: str, now: float) -> str:
        self._registry.verify(version)
        if self.champion is not None and self.champion.version == version:
            return f"{version} is champion already"
        champion = self.reign.crown(self._registry.manifest(version), now, because=f"asked for by {by}")
        self._metrics.promotions.inc()
        log.warning("promoted by hand", version=version, by=by)
        self._rebase(champion, [], now)
        return f"promoted {version}"

    def _conclude(self, judgement: Judgement, now: float) -> None:
        """Promote what the gate let through, and say why for all else."""
        job = judgement.job
        self._metrics.training_runs.labels(judgement.outcome).inc()
        if judgement.seconds is not None:
            self._metrics.training_seconds.observe(judgement.seconds)
        story: dict[str, Any] = {"version": job.version, "parent": job.parent, "trigger": job.trigger}
        if judgement.manifest is None:
            self.decisions.add(now, judgement.outcome, judgement.because, story)
            log.warning(judgement.outcome, **story, because=judgement.because)
        else:
            because = judgement.because
            champion = self.reign.crown(judgement.manifest, now, because=because, newest_example=job.newest_example)
            self._metrics.promotions.inc()
            log.info("promoted", **story, because=because)
            audited = judgement.details["audit"]
            self.decisions.add(now, "audited", audited["because"], {"version": job.version, "fell": audited["fell"]})
            if audited["fell"]:
                log.warning("audit", version=job.version, because=audited["because"])
            self._rebase(champion, judgement.rescored, now, judgement.mix_moved)

    def _consider(self, now: float) -> None:
        """Start a training run if something calls for one and nothing holds it."""
        champion = self.champion
        if champion is None:
            return
        firing = decide(self._situation(champion, now), self._config.triggers)
        if firing is None:
            self._noticed["held"] = None
            return
        self._forget(firing.trigger, now)
        if firing.outcome == "fired":
            remembered, unrehearsed = (self.memory.count("learn", since=at) for at in (0, self._noticed["rehearsed"]))
            firing = rehearsing(firing, remembered, unrehearsed, self._config.triggers)
        # A trigger that stays held for the same reason is recorded once; a person is answered every time.
        held = [firing.trigger, firing.held_by] if firing.outcome == "held" else None
        if held is not None and held == self._noticed["held"] and firing.trigger != "manual":
            return
        self._noticed["held"] = held
        self._metrics.triggers.labels(firing.trigger, firing.outcome).inc()
        self.decisions.add(now, f"trigger {firing.outcome}", firing.reason, {"trigger": firing.trigger})
        if firing.outcome == "held":
            log.info("trigger held", trigger=firing.trigger, because=firing.reason)
            return
        if (doubted := self.intake.review.screen(champion, now)) > 0:
            log.info("labels set aside", labels=doubted)
        job = self._start(firing, champion, now)
        story = {"version": job.version, "parent": job.parent, "goes_on_from": job.challenger or job.parent}
        event = "judging again" if firing.trigger == "proof" else "learning"
        log.info(event, trigger=firing.trigger, because=firing.reason, **story)

    def _forget(self, trigger: str, now: float) -> None:
        """A request or a date is answered once, whatever the answer."""
        if trigger == "manual":
            self._noticed["manual"] = None
        if trigger == "schedule":
            self._noticed["schedule_seen"] = now

    def _start(self, firing: Firing, champion: Champion, now: float) -> Job:
        if firing.trigger == "proof" and (challenger := self.training.challenger(champion)) is not None:
            return self.training.look_again(firing, champion, challenger, now)
        if firing.trigger != "mix":
            if firing.rehearses:
                self._noticed["rehearsed"] = self.memory.newest()
            return self.training.start(firing, champion, now)
        moved = self._noticed["mix"]
        # It stays until a champion follows it: too few labels may have judged this run for it to show what it is worth.
        again = {**moved, "tries": moved["tries"] + 1}
        self._noticed["mix"] = again if again["tries"] <= MAX_DOUBLINGS else None
        return self.training.follow_mix(firing, champion, now, since=moved["moment"])

    def _calling(self, drift: dict[str, Any]) -> str | None:
        """Why a drift calls for a run; None while it has done no harm. Once it has, it calls until it is learned."""
        harm = None if drift["harm"] else self.intake.watch.harm
        if harm is not None:
            self._noticed["drift"] = {**drift, "harm": True, "reason": f"{drift['reason']}; {harm}"}
        return self._noticed["drift"]["reason"] if self._noticed["drift"]["harm"] else None

    def _situation(self, champion: Champion, now: float) -> Situation:
        last, drift, mix = self.training.jobs.last_learning(), self._noticed["drift"], self._noticed["mix"]
        tried = max(champion.newest_example, last.newest_example if last else 0)
        window = self.intake.prequential.recent
        full = window.total >= self._config.triggers.accuracy.window
        accuracy = window.accuracy if full else None
        if accuracy is not None:
            self._noticed["best_accuracy"] = max(accuracy, self._noticed["best_accuracy"] or 0.0)
        seen = self._noticed["schedule_seen"]
        if seen is None:
            seen = self._noticed["schedule_seen"] = now
        due = self._schedule.next_after(seen)
        running = self.training.jobs.running() is not None
        challenger = None if running else self.training.challenger(champion)
        since = challenger.newest_example if challenger else LAST
        return Situation(
            now=now,
            running=running,
            new_labels=self.memory.count("learn", since=tried),
            drift=self._calling(drift) if drift else None,
            labels_since_drift=self._labels_of(drift, since=tried) if drift else 0,
            accuracy=accuracy,
            best_accuracy=self._noticed["best_accuracy"],
            started=self.training.jobs.started(now, triggers=(*LEARN, "mix")),
            learned=self.training.jobs.started(now, triggers=LEARN),
            schedule_due=due is not None and due <= now,
            manual=self._noticed["manual"],
            rejections=self.training.jobs.rejections(),
            mix=mix["reason"] if mix else None,
            mix_tries=mix["tries"] if mix else 0,
            judging_mix=self.training.judging(champion, mix["moment"]) if mix else 0,
            needed_judging=self._config.gate.min_examples,
            unproved=challenger.version if challenger else None,
            labels_since_unproved=self.memory.count("learn", since=since) + self.memory.count("gate", since=since),
            looks=len(self.training.jobs.looks(challenger.version)) if challenger else 0,
        )
