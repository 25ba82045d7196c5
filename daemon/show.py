"""What the commands that look at a daemon print."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from daemon.config import Config
from daemon.records import utc
from daemon.registry import Manifest, Registry
from daemon.show_verdict import print_audit, print_verdict
from daemon.state import StateError
from daemon.status import doubtful, judged, status
from daemon.training import Job


def print_versions(config: Config, console: Console, *, as_json: bool) -> None:
    manifests = Registry(config.home / "models").manifests()
    champion = _champion(config)
    if as_json:
        console.print_json(
            json.dumps([{**_brief(one), "champion": one.version == champion} for one in manifests], default=str)
        )
        return
    table = Table("version", "", "parent", "made", "trigger", "method", "why")
    for one in manifests:
        mark = "champion" if one.version == champion else ""
        because = Text(str(one.decision.get("because", "")))
        made = f"{one.created_at:%Y-%m-%d %H:%M}"
        table.add_row(one.version, mark, one.parent or "", made, one.trigger, one.method, because)
    console.print(table)


def _brief(manifest: Manifest) -> dict[str, Any]:
    return manifest.model_dump(mode="json", include={"version", "parent", "created_at", "trigger", "method", "sha256"})


def _champion(config: Config) -> str | None:
    try:
        found = status(config)["champion"]
    except StateError:
        # Models without a state: fitted elsewhere, and never run here.
        return None
    return found["version"] if found else None


def print_version(config: Config, version: str, console: Console, *, as_json: bool) -> None:
    """Where a version came from and why it went live; of a candidate that did not, why not.

    Raises:
        RegistryError: there was never such a version.
    """
    registry = Registry(config.home / "models")
    jobs = judged(config, version)
    if jobs and not registry.has(version):
        _print_turned_away(jobs, console, as_json=as_json)
        return
    manifest = registry.manifest(version)
    if as_json:
        console.print_json(manifest.model_dump_json())
        return
    decision = manifest.decision
    console.print(f"{manifest.version}, from {manifest.parent or 'nothing'}, made {manifest.created_at:%Y-%m-%d %H:%M}")
    _print_challenger(manifest.challenger, console)
    console.print(f"trigger {manifest.trigger}, method {manifest.method}, seed {manifest.seed}, job {manifest.job}")
    console.print(f"labels  {', '.join(manifest.labels)}", markup=False)
    console.print(f"model   sha256 {manifest.sha256}")
    console.print(f"data    sha256 {manifest.data_sha256}")
    console.print(f"why     {decision.get('because', 'the first model')}", markup=False)
    _print_judgements(jobs, console)
    if "slices" in decision:
        print_verdict(decision, console)
    if "audit" in decision:
        print_audit(decision["audit"], console)


def _print_turned_away(jobs: Sequence[Job], console: Console, *, as_json: bool) -> None:
    made, last = jobs[0], jobs[-1]
    decision = last.decision or {}
    if as_json:
        story = {"version": made.version, "parent": last.parent, "challenger": made.challenger, "trigger": made.trigger}
        judgements = [{"job": job.name, "because": _because(job)} for job in jobs]
        more = {"state": last.state, "job": made.name, "judgements": judgements, "decision": decision}
        console.print_json(json.dumps({**story, **more}))
        return
    console.print(f"{made.version}, from {last.parent}, never live: {last.state} ({made.name}, trigger {made.trigger})")
    _print_challenger(made.challenger, console)
    if report := (made.decision or {}).get("report"):
        console.print(f"data    sha256 {report['data_sha256']}, method {report['method']}, seed {report['seed']}")
    console.print(f"why     {_because(last)}", markup=False)
    _print_judgements(jobs, console)
    if gate := decision.get("gate"):
        print_verdict(gate, console)


def _print_judgements(jobs: Sequence[Job], console: Console) -> None:
    """What was said before, of one that was judged again; the last one is told at length."""
    for job in jobs[:-1]:
        console.print(f"before  {_because(job)} ({job.name})", markup=False)


def _because(job: Job) -> str:
    return str((job.decision or {}).get("because", ""))


def _print_challenger(challenger: str | None, console: Console) -> None:
    if challenger:
        console.print(f"went on from {challenger}, which lacked nothing but proof of being better")


def print_doubts(config: Config, cause: str | None, console: Console, *, as_json: bool) -> None:
    """Labels that were set aside.

    Raises:
        StateError: no daemon's state is there.
    """
    doubts = [doubt.as_dict() for doubt in doubtful(config, cause)]
    if as_json:
        console.print_json(json.dumps(doubts))
        return
    if not doubts:
        console.print("no label waits for a decision")
        return
    table = Table("id", "label", "by", "cause", "why", "text")
    for one in doubts:
        table.add_row(*(Text(one[name]) for name in ("id", "label", "annotator", "cause", "because", "text")))
    console.print(table)


def print_status(config: Config, console: Console, *, as_json: bool) -> None:
    found = status(config)
    if as_json:
        console.print_json(json.dumps(found, default=str))
        return
    champion, live, learning = found["champion"], found["live"], found["learning"]
    since = f" since {utc(champion['since']):%Y-%m-%d %H:%M}" if champion else ""
    console.print(f"champion  {champion['version'] if champion else 'none'}{since}")
    console.print(f"live      {found['texts']} texts, {live['labels']} labels, {_accuracy(live)}")
    if (estimated := live["estimated_accuracy"]) is not None:
        between = f"{estimated['lower']:.3f} to {estimated['upper']:.3f}"
        console.print(f"estimated accuracy {estimated['accuracy']:.3f} ({between}), from the champion's confidence")
    console.print("memory    " + ", ".join(f"{part} {count}" for part, count in found["memory"].items()))
    if learning:
        version, progress = learning["version"], learning["progress"]
        busy = f"judging   {version} again" if progress is None else f"learning  {version}, {progress:.0%}"
        console.print(f"{busy}: {learning['because']}", markup=False)
    for decision in found["decisions"]:
        moment = f"{utc(decision['at']):%Y-%m-%d %H:%M:%S}"
        console.print(f"{moment}  {decision['kind']:15} {decision['because']}", markup=False)


def _accuracy(live: Mapping[str, Any]) -> str:
    if live["accuracy"] is None:
        return "none judged yet"
    recent = f", lately {live['recent_accuracy']:.3f}" if live["recent_accuracy"] is not None else ""
    return f"accuracy {live['accuracy']:.3f}{recent}, macro-F1 {live['macro_f1']:.3f}"
