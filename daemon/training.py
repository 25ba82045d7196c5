"""From a fired trigger to a judged candidate: the controller's training jobs.

A job is a row in the state and a directory. Either the row is not there and the directory is nothing, or the row says
`running` and the directory is whole: a controller that comes back starts the learner again or judges what it left.
"""

import json
import shutil
import sqlite3
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

import learners.job
from daemon.champion import Champion
from daemon.config import Config, GateConfig
from daemon.gate.audit import audit
from daemon.gate.verdict import judge
from daemon.hashing import unit_hash
from daemon.learning import Learner, Snapshot, finished, job_settings, make_job, outcome, replace_recent
from daemon.memory import Memory, share_of
from daemon.records import utc
from daemon.registry import Manifest, Registry
from daemon.triggers import DAY, LEARN, Firing, TriggerName
from daemon.waiting import Scored, Waiting
from learners.job import CANDIDATE, Example, Failure, Judged, Recent, Report, Rescored, read_rows
from learners.methods.names import AS_IS, PRIORS, starts_afresh
from learners.snapshot import JobError, read_job

#: How old the texts that a candidate scores again may be while the learner is at work, in seconds. Those that come
#: later are in no window of the new champion; the rows are written in some 20 ms.
REFRESH = 5.0


#: What a learner leaves of the examples that it was judged on, and of the recent texts.
JUDGED = ("judged", "audited", "rescored")


@dataclass(frozen=True)
class Job:
    """A training run as the state has it. `newest_example` is the last example that its snapshot knew of.

    `parent` is the champion that it is judged beside. It goes on from that too, or from the `challenger`: a candidate
    that lacked nothing but proof of being better. One of the trigger `proof` judges the candidate `version` again.
    """

    number: int
    version: str
    parent: str
    trigger: str
    reason: str
    state: str
    created_at: float
    newest_example: int
    decision: Mapping[str, Any] | None
    challenger: str | None = None

    @property
    def name(self) -> str:
        return f"job-{self.number:05d}"


@dataclass(frozen=True)
class Judgement:
    """What became of a job. `manifest` is the new version when the gate let it through; `seconds` its training time.

    `mix_moved` is when the label mix moved that the candidate follows; None of one that learned.
    """

    job: Job
    outcome: Literal["promoted", "rejected", "failed"]
    because: str
    details: Mapping[str, Any]
    seconds: float | None = None
    manifest: Manifest | None = None
    rescored: Sequence[Rescored] = ()
    mix_moved: float | None = None


#: Of `gate.alpha`: chance of promoting a candidate that is no better, at each further look.
FURTHER_LOOK = 0.5

#: Of the labels from after the mix moved that are not held out, the share that judges a run which follows it.
JUDGES_MIX = 0.25

_COLUMNS = "number, version, parent, trigger, reason, state, created_at, newest_example, decision, challenger"


class Jobs:
    """The table of jobs."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def add(
        self,
        *,
        version: str,
        parent: str,
        firing: Firing,
        created_at: float,
        newest_example: int,
        challenger: str | None = None,
    ) -> Job:
        row = self._db.execute(
            "INSERT INTO jobs (version, parent, challenger, trigger, reason, state, created_at, newest_example) "
            f"VALUES (?, ?, ?, ?, ?, 'running', ?, ?) RETURNING {_COLUMNS}",
            (version, parent, challenger, firing.trigger, firing.reason, created_at, newest_example),
        ).fetchone()
        return _job(row)

    def close(self, job: Job, state: str, decision: Mapping[str, Any]) -> None:
        self._db.execute(
            "UPDATE jobs SET state = ?, decision = ? WHERE number = ?", (state, json.dumps(decision), job.number)
        )

    def running(self) -> Job | None:
        row = self._db.execute(f"SELECT {_COLUMNS} FROM jobs WHERE state = 'running'").fetchone()
        return _job(row) if row else None

    def all(self) -> list[Job]:
        return [_job(row) for row in self._db.execute(f"SELECT {_COLUMNS} FROM jobs ORDER BY number")]

    def last_learning(self, *, but: str = "") -> Job | None:
        """The last one of those that learn, in any state `but` one."""
        row = self._db.execute(
            f"SELECT {_COLUMNS} FROM jobs WHERE trigger IN ({_listed(LEARN)}) AND state != ? "
            "ORDER BY number DESC LIMIT 1",
            (but,),
        ).fetchone()
        return _job(row) if row else None

    def that_made(self, version: str) -> Job:
        """The one whose candidate `version` is. Raises LookupError when there is none."""
        row = self._db.execute(
            f"SELECT {_COLUMNS} FROM jobs WHERE version = ? ORDER BY number LIMIT 1", (version,)
        ).fetchone()
        if row is None:
            raise LookupError(f"no job has made {version}")
        return _job(row)

    def looks(self, version: str) -> list[Job]:
        """Those that judged the candidate `version` again, oldest first."""
        rows = self._db.execute(
            f"SELECT {_COLUMNS} FROM jobs WHERE trigger = 'proof' AND version = ? ORDER BY number", (version,)
        )
        return [_job(row) for row in rows]

    def rejections(self) -> int:
        """Jobs in a row, up to the last one, whose candidate was turned away; one that was proved later is not."""
        rows = self._db.execute(
            f"SELECT state FROM jobs WHERE trigger IN ({_listed(LEARN)}) OR (trigger = 'proof' AND "
            "state = 'promoted') ORDER BY number DESC LIMIT 20"
        )
        return len(list(takewhile(lambda state: state == "rejected", [row[0] for row in rows])))

    def started(self, now: float, *, triggers: Iterable[TriggerName]) -> tuple[float, ...]:
        """When jobs of these `triggers` began, oldest first: those of the last 24 hours, and the last one."""
        rows = self._db.execute(
            f"WITH wanted AS (SELECT number, created_at FROM jobs WHERE trigger IN ({_listed(triggers)})) "
            "SELECT created_at FROM wanted WHERE created_at > ? OR number = (SELECT max(number) FROM wanted) "
            "ORDER BY number",
            (now - DAY,),
        )
        return tuple(row[0] for row in rows)


class Training:
    """Starts, supervises and judges jobs, one at a time."""

    def __init__(
        self, db: sqlite3.Connection, config: Config, registry: Registry, memory: Memory, waiting: Waiting
    ) -> None:
        self.jobs = Jobs(db)
        self._config = config
        self._registry = registry
        self._memory = memory
        self._waiting = waiting
        self._directory = config.home / "jobs"
        self.learner: Learner | None = None
        self._refreshed = 0.0

    def start(self, firing: Firing, champion: Champion, now: float) -> Job:
        """Record a job and write its directory; `supervise` starts the learner once the step is committed."""
        challenger = None if starts_afresh(self._config.learning.method) else self.challenger(champion)
        job = self.jobs.add(
            version=self._next_version(),
            parent=champion.version,
            challenger=challenger.version if challenger else None,
            firing=firing,
            created_at=now,
            newest_example=self._memory.newest(),
        )
        settings = self._settings(job, champion, challenger, rehearses=firing.rehearses)
        learned = challenger.newest_example if challenger else champion.newest_example
        snapshot = self._snapshot(champion, learned, settings.seed, rehearses=firing.rehearses)
        make_job(settings, snapshot, self._path(job))
        return job

    def follow_mix(self, firing: Firing, champion: Champion, now: float, *, since: float) -> Job:
        """The same for a job that follows the label mix, which moved at `since`. It learns no example."""
        job = self.jobs.add(
            version=self._next_version(),
            parent=champion.version,
            firing=firing,
            created_at=now,
            newest_example=champion.newest_example,
        )
        settings = self._settings(job, champion, method=PRIORS, since=since)
        snapshot = self._of_mix(self._snapshot(champion, champion.newest_example, settings.seed), since)
        make_job(settings, snapshot, self._path(job))
        return job

    def look_again(self, firing: Firing, champion: Champion, challenger: Job, now: float) -> Job:
        """The same for a job that judges the `challenger` again, on the labels that have come since it learned too.

        Neither it nor the champion has learned those, whatever their share: all of them tell which is better.
        """
        job = self.jobs.add(
            version=challenger.version,
            parent=champion.version,
            challenger=challenger.challenger,
            firing=firing,
            created_at=now,
            newest_example=challenger.newest_example,
        )
        settings = self._settings(job, champion, challenger, method=AS_IS)
        snapshot = self._snapshot(champion, challenger.newest_example, settings.seed)
        # Of texts without a label it may have learned what the champion said of them.
        since = challenger.created_at if settings.pseudo_labels else float("-inf")
        new = [example for example in snapshot.new if example.timestamp > since]
        make_job(settings, replace(snapshot, new=new, replay=(), unlabelled=()), self._path(job))
        return job

    def _settings(
        self,
        job: Job,
        champion: Champion,
        challenger: Job | None = None,
        *,
        method: Literal["priors", "as-is"] | None = None,
        since: float = 0.0,
        rehearses: bool = False,
    ) -> learners.job.Job:
        # A bias that follows the label mix would have to be learned away, at the rate of a weight, and would stay in
        # all that come of it.
        learned = self._registry.path(self._registry.learned(champion.version))
        parent = self._path(challenger) / CANDIDATE if challenger else learned
        live = self._registry.path(champion.version)
        return job_settings(
            self._config,
            id=job.name,
            labels=champion.labels,
            parent=parent,
            champion=None if parent == live else live,
            seed=self._seed(job),
            method=method,
            since=since,
            rehearses=rehearses,
        )

    def challenger(self, champion: Champion) -> Job | None:
        """The job whose candidate may still be proved, and is gone on from instead of learning all that it knew again.

        That is the last candidate, if the gate found nothing to say against it but that it was not proved to be better
        than this champion.
        """
        kept = self._kept()
        usable = (
            kept and kept.parent in self._registry.alike(champion.version) and (self._path(kept) / CANDIDATE).is_dir()
        )
        return kept if usable else None

    def _kept(self) -> Job | None:
        """The last job that learned and is done, if its candidate lacked nothing but proof whenever it was judged."""
        last = self.jobs.last_learning(but="running")
        if last is None:
            return None
        looks = [look.decision for look in self.jobs.looks(last.version) if "gate" in (look.decision or {})]
        return last if all(_unproved(decision or {}) for decision in (last.decision, *looks)) else None

    def _of_mix(self, snapshot: Snapshot, moved: float) -> Snapshot:
        """What was labelled before the mix moved says nothing of how well it is followed.

        As no weight is learned, what would be learned may judge: some of it does, and the rest says what the mix is.
        """
        judging = [row for row in snapshot.new if row.timestamp >= moved and judges_mix(row.id)]
        judged = {row.id for row in judging}
        return replace(
            snapshot,
            new=[row for row in snapshot.new if row.id not in judged],
            gate=[*_old_before(snapshot.gate, moved), *judging],
            audit=_old_before(snapshot.audit, moved),
            unlabelled=self._without_truth(),
        )

    def judging(self, champion: Champion, moved: float) -> int:
        """Labels that would judge a run which follows the label mix that moved at `moved`."""
        since = champion.newest_example
        to_learn = self._memory.ids("learn", since=since, from_time=moved)
        return self._memory.count("gate", since=since, from_time=moved) + sum(map(judges_mix, to_learn))

    def _snapshot(self, champion: Champion, learned: int, seed: int, *, rehearses: bool = False) -> Snapshot:
        """What came after the example `learned` is to be learned; what came after the champion's is to be judged on."""
        new, replay = (self._memory.everything(learned), []) if rehearses else self._drawn(learned, seed)
        held_out = self._memory.held_out(champion.newest_example)
        to_audit = self._memory.audit(champion.newest_example)
        return Snapshot(new, replay, held_out, self._recent(), self._unlabelled(), to_audit)

    def _drawn(self, learned: int, seed: int) -> tuple[list[Example], list[Example]]:
        """What came after the example `learned`, and what is replayed of the rest."""
        new = self._memory.new(learned)
        learning = self._config.learning
        # What starts afresh knows nothing yet, and needs all that is remembered.
        everything = starts_afresh(learning.method)
        count = learned if everything else round(len(new) * learning.replay_ratio)
        return new, self._memory.replay(learned, count, seed)

    def before(self, champion: Champion, moment: float) -> int:
        """Texts of before `moment` that a run which follows the label mix would know the old mix by."""
        labelled = sum(one.timestamp < moment for one in self._memory.new(champion.newest_example))
        return labelled + sum(one.timestamp < moment for one in self._without_truth())

    def _recent(self) -> list[Recent]:
        return [_without_label(text) for text in self._waiting.recent(self._config.memory.rescored)]

    def _unlabelled(self) -> list[Recent]:
        """What may be learned from without a label: what is to be held out is so from its first sight."""
        learning = self._config.learning
        if not (learning.pseudo_labels.enabled or learning.pretraining.enabled):
            return []
        return self._without_truth()

    def _without_truth(self) -> list[Recent]:
        texts = self._waiting.unlabelled(self._config.memory.unlabelled)
        return [_without_label(text) for text in texts if share_of(text.id, self._config.memory) == "learn"]

    def supervise(self) -> None:
        """See that the running job has a learner at work on it, and the stream's latest texts at hand.

        To be called after a commit, and after a restart.
        """
        job = self.jobs.running()
        path = self._path(job) if job else None
        if path is None or not path.is_dir() or finished(path):
            return
        if self.learner is None:
            learning = self._config.learning
            self.learner = Learner(path, niceness=learning.niceness, timeout=learning.timeout)
        if time.monotonic() - self._refreshed > REFRESH:
            replace_recent(path, self._recent())
            self._refreshed = time.monotonic()

    def judge(self, champion: Champion | None) -> Judgement | None:
        """Judge the job whose learner is done; None while there is none. A model let through is in the registry."""
        job = self.jobs.running()
        if job is None or (self.learner is not None and self.learner.running()):
            return None
        path = self._path(job)
        found_busy = self.learner is not None and self.learner.found_busy
        stopped, self.learner = self.learner is not None, None
        if found_busy or not (stopped or finished(path) or not path.is_dir()):
            # Nothing is at work on it: `supervise` starts a learner.
            return None
        judgement = self._judgement(job, champion)
        self.jobs.close(job, judgement.outcome, {"because": judgement.because, **judgement.details})
        return judgement

    def stop(self) -> None:
        """Stop the learner; the job is taken up again by the next `supervise`."""
        if self.learner is not None:
            self.learner.stop()
            self.learner = None

    def tidy(self) -> None:
        """Drop the large files of closed jobs; the small ones that tell their story stay, and the latest challenger."""
        kept = self._kept()
        for job in self.jobs.all():
            path = self._path(job)
            if job.state != "running" and (path / "job.json").exists():
                if job != kept:
                    shutil.rmtree(path / CANDIDATE, ignore_errors=True)
                for rows in ("new", "replay", "gate", "recent", "unlabelled", "audit", *JUDGED):
                    (path / f"{rows}.jsonl").unlink(missing_ok=True)
                # Of a run that failed or was stopped; one that is done has none.
                for checkpoint in path.glob("checkpoint.*"):
                    checkpoint.unlink()

    def _judgement(self, job: Job, champion: Champion | None) -> Judgement:
        left = outcome(self._path(job))
        if isinstance(left, Failure):
            return Judgement(job, "failed", f"{left.error}: {left.detail}", {})
        if champion is None or champion.version != job.parent:
            # What might be proved, would be proved against another champion.
            return Judgement(job, "rejected", f"the champion changed while it learned from {job.parent}", {})
        try:
            return self._judged(job, left)
        except (ValidationError, JobError) as error:
            return Judgement(job, "failed", f"what the learner left cannot be read: {error}", {})

    def _judged(self, job: Job, report: Report) -> Judgement:
        path = self._path(job)
        settings = read_job(path)
        moved = settings.since if settings.method == PRIORS else None
        champion = self._registry.manifest(job.parent)
        labels, apart = champion.labels, PRIORS in (settings.method, champion.method)
        slowdown = report.candidate.seconds / report.parent.seconds if report.parent else 1.0
        verdict = judge(
            list(read_rows(path / "judged.jsonl", Judged)),
            labels,
            slowdown=slowdown,
            config=self._thresholds(job),
            seed=self._seed(job),
            apart_from_mix=apart,
            rehearsed=settings.rehearses,
        )
        details = {"gate": verdict.as_dict(), "report": report.model_dump()}
        if not verdict.promoted:
            more = "; labels that come may prove it" if _unproved(details) else ""
            return Judgement(job, "rejected", f"{verdict.because}{more}", details, report.seconds)
        # The decision is made: what the audit says is only written down beside it.
        audited = list(read_rows(path / "audited.jsonl", Judged)) if (path / "audited.jsonl").exists() else []
        checked = audit(audited, labels, self._config.gate, self._seed(job), apart_from_mix=apart)
        details["audit"] = checked.as_dict()
        manifest = self._register(job, report, {**details["gate"], "audit": details["audit"]}, labels)
        rescored = list(read_rows(path / "rescored.jsonl", Rescored))
        return Judgement(job, "promoted", verdict.because, details, report.seconds, manifest, rescored, moved)

    def _thresholds(self, job: Job) -> GateConfig:
        """What the job's candidate must show: more, where it is given a further chance."""
        gate = self._config.gate
        return gate.model_copy(update={"alpha": gate.alpha * FURTHER_LOOK}) if job.trigger == "proof" else gate

    def _register(self, job: Job, report: Report, decision: dict[str, Any], labels: list[str]) -> Manifest:
        # One that was judged again was made by another job.
        made = self.jobs.that_made(job.version)
        told = report.model_dump() if made.number == job.number else (made.decision or {})["report"]
        return self._registry.add(
            self._path(job) / CANDIDATE,
            version=job.version,
            parent=job.parent,
            challenger=job.challenger,
            created_at=utc(made.created_at),
            job=made.name,
            trigger=made.trigger,
            method=told["method"],
            labels=labels,
            data_sha256=told["data_sha256"],
            seed=told["seed"],
            decision=decision,
            odds=told.get("odds"),
        )

    def _seed(self, job: Job) -> int:
        return self._config.seed + job.number

    def _path(self, job: Job) -> Path:
        return self._directory / job.name

    def _next_version(self) -> str:
        known = [manifest.version for manifest in self._registry.manifests()] + [job.version for job in self.jobs.all()]
        numbers = [int(version[1:]) for version in known if version[:1] == "v" and version[1:].isdecimal()]
        return f"v{1 + max(numbers, default=0)}"


def judges_mix(id: str) -> bool:
    """Whether an example from after the mix moved, which is to be learned later, judges before: a fixed hash."""
    return unit_hash("mix", id) < JUDGES_MIX


def _old_before(held_out: Sequence[Example], moved: float) -> list[Example]:
    """Held-out examples, of which those of texts from before `moved` are no longer fresh."""
    return [row if row.timestamp >= moved else row.model_copy(update={"group": "old"}) for row in held_out]


def _listed(triggers: Iterable[TriggerName]) -> str:
    """As SQL lists them."""
    return ", ".join(f"'{trigger}'" for trigger in triggers)


def _without_label(text: Scored) -> Recent:
    return Recent(id=text.id, text=text.text, key=text.key, source=text.source, timestamp=text.timestamp)


def _job(row: Sequence[Any]) -> Job:
    number, version, parent, trigger, reason, state, created_at, newest_example, decision, challenger = row
    loaded = None if decision is None else json.loads(decision)
    return Job(number, version, parent, trigger, reason, state, created_at, newest_example, loaded, challenger)


def _unproved(details: Mapping[str, Any]) -> bool:
    """Whether the judgement with these details leaves a candidate that learned, and lacked nothing but proof."""
    return bool(details.get("gate", {}).get("unproved")) and details["report"]["method"] != PRIORS
