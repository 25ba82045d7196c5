"""A continual-learning daemon for streaming text: score, notice drift, learn, prove, swap."""

# What needs torch is imported by the command that needs it: `relearnd --help` should not take seconds.

import json
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from connectors.topic import ConnectorError
from daemon import __version__
from daemon.config import Config
from daemon.errors import RelearndError
from daemon.settings import commented_yaml, load
from learners.errors import LearnerError

app = typer.Typer(no_args_is_help=True, add_completion=False, help=__doc__, pretty_exceptions_enable=False)
models = typer.Typer(no_args_is_help=True, help="Look at the model versions, and steer which one is live.")
app.add_typer(models, name="models")
topics = typer.Typer(no_args_is_help=True, help="Make the topics that the connector needs, and look them over.")
app.add_typer(topics, name="topics")
dead_letters = typer.Typer(no_args_is_help=True, help="Look at what could not be read, and send it back.")
app.add_typer(dead_letters, name="dead-letters")

labels = typer.Typer(no_args_is_help=True, help="Look at labels that are not trusted, and decide about them.")
app.add_typer(labels, name="labels")

ConfigPath = Annotated[Path | None, typer.Option("--config", "-c", help="YAML file; without it, the defaults.")]
Overrides = Annotated[
    list[str], typer.Option("--set", metavar="KEY.PATH=VALUE", help="Over the file and the environment; may repeat.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
OfReason = Annotated[str | None, typer.Option(metavar="REASON", help="Only those of this reason.")]
OfCause = Annotated[
    str | None, typer.Option(metavar="CAUSE", help="Only those set aside as `disagreement`, `likely error` or `held`.")
]
DoubtfulId = Annotated[str | None, typer.Argument(metavar="[ID]", help="The text's id.")]
EveryDoubt = Annotated[bool, typer.Option("--all", help="All that are set aside.")]
OfOrigin = Annotated[str | None, typer.Option(metavar="TOPIC", help="Only those from this topic.")]

out = Console(soft_wrap=True, highlight=False)
err = Console(stderr=True, soft_wrap=True, highlight=False)

#: How long a command that steers waits for its answer, in seconds.
STEER_WAIT = 5.0

CONFIG_NAME = "relearnd.yaml"


def main() -> None:
    """Run the command. What a person can mend is one sentence and exit status 1; anything else shows where it broke."""
    # The scorer's and the learner's threads share the cores. OpenMP's default is to spin while it waits, which slows
    # both down four to five times (measured on 2 cores); it is read when torch is first imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        app()
    except RelearndError as error:
        _fail(error)
    except (ConnectorError, LearnerError) as error:
        _fail(error)


def _fail(error: Exception) -> None:
    err.print("[red]relearnd:[/red]", end=" ")
    err.print(str(error), markup=False)
    raise SystemExit(1)


def _load(path: Path | None, overrides: list[str]) -> Config:
    return load(path, environment=os.environ, overrides=overrides)


def _version(asked: bool) -> None:
    if asked:
        out.print(f"relearnd {__version__}")
        raise typer.Exit


@app.callback()
def root(
    _asked: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    """A continual-learning daemon for streaming text: score, notice drift, learn, prove, swap."""


@app.command()
def init(directory: Annotated[Path, typer.Argument(help="Where to write it.")] = Path()) -> None:
    """Write a commented config and say what comes next."""
    path = directory / CONFIG_NAME
    if path.exists():
        raise RelearndError(f"{path} exists already; remove it first, or name another directory")
    directory.mkdir(parents=True, exist_ok=True)
    path.write_text(commented_yaml(), encoding="utf-8")
    out.print(f"Wrote {path}. Next:")
    out.print(f"  relearnd check {path}                                look over what it would do")
    out.print(f"  relearnd fit --config {path} --data LABELLED.jsonl   train version 1 from {{text, label}} rows")
    out.print(f"  relearnd run --config {path}                         score the stream")


@app.command()
def check(
    config: Annotated[Path, typer.Argument(help="The YAML file.")],
    set_: Overrides = [],  # noqa: B006 (typer copies it)
) -> None:
    """Validate the config, connect to what it names, and say what would happen."""
    from daemon.check import findings

    _print_findings(findings(_load(config, set_)))


def _print_findings(found: Iterable[tuple[bool, str]]) -> None:
    failed = False
    for ok, sentence in found:
        failed = failed or not ok
        out.print("[green]ok  [/green]" if ok else "[red]fail[/red]", end=" ")
        out.print(sentence, markup=False)
    if failed:
        raise typer.Exit(1)


@app.command()
def run(
    config: ConfigPath = None,
    role: Annotated[str, typer.Option(help="all, scorer or controller.")] = "all",
    set_: Overrides = [],  # noqa: B006
) -> None:
    """Run the daemon until SIGTERM or Ctrl-C. SIGUSR1 asks it to learn now."""
    from daemon import logs
    from daemon.service import Service

    settings = _load(config, set_)
    logs.set_up(settings.logging, sys.stderr)
    if role not in ("all", "scorer", "controller"):
        raise RelearndError(f"--role {role}: there are all, scorer and controller")
    Service(settings, role).run()  # type: ignore[arg-type]  # checked just above


@app.command()
def fit(
    data: Annotated[Path, typer.Option(help="Rows {text, label}, JSON lines, plain or gzipped.")],
    config: ConfigPath = None,
    home: Annotated[Path | None, typer.Option("--out", help="The home to write to; the config's when empty.")] = None,
    set_: Overrides = [],  # noqa: B006
) -> None:
    """Train version 1 from labelled rows."""
    from daemon import rows
    from daemon.fit import fit as train
    from daemon.progress import FitBar, bars
    from daemon.state import open_state

    settings = _load(config, set_)
    if home is not None:
        settings = settings.model_copy(update={"home": home})
    examples = rows.labelled(data)
    db = open_state(settings.home / "state.db")
    with bars(err) as progress:
        manifest = train(examples, db, settings, show=FitBar(progress).show)
    quality = manifest.decision["report"]["candidate"]
    out.print(
        f"{manifest.version} is in {settings.home / 'models' / manifest.version}: "
        f"accuracy {quality['accuracy']:.3f}, macro-F1 {quality['macro_f1']:.3f} on held-out rows"
    )


@app.command()
def backtest(
    texts: Annotated[Path, typer.Option(help="The stream: rows {id, text, timestamp, …} in order of arrival.")],
    labels: Annotated[Path, typer.Option(help="What they were: rows {id, label, timestamp}.")],
    base: Annotated[Path | None, typer.Option(help="Rows {text, label} to fit version 1 on first.")] = None,
    holdout: Annotated[Path | None, typer.Option(help="Rows {text, label, domain}, never in the stream.")] = None,
    to: Annotated[Path, typer.Option("--out", help="Where report.json and report.html go.")] = Path("out/backtest"),
    config: ConfigPath = None,
    set_: Overrides = [],  # noqa: B006
) -> None:
    """Run the daemon's own code on a recorded stream, on the stream's own clock."""
    from daemon import logs, rows
    from daemon.backtest import Backtest
    from daemon.progress import BacktestBars, bars, print_report

    settings = _load(config, set_)
    with bars(err) as progress:
        # Log lines go through the progress display, so that neither cuts the other up.
        logs.set_up(settings.logging, sys.stderr)
        watcher = BacktestBars(progress, rows.count(texts))
        report = Backtest(settings, to, watcher).run(texts=texts, labels=labels, base=base, holdout=holdout)
    print_report(report, out)
    out.print(f"\nThe page is {to / 'report.html'}; the figures are in {to / 'report.json'}")


@app.command()
def send(
    topic: Annotated[str, typer.Argument(help="The topic to write to, as it is called at the connector.")],
    file: Annotated[
        Path | None, typer.Argument(help="JSON lines, plain or gzipped; standard input when empty.")
    ] = None,
    rate: Annotated[float, typer.Option(help="Records a second; 0 for as fast as it goes.", min=0)] = 0.0,
    config: ConfigPath = None,
    set_: Overrides = [],  # noqa: B006
) -> None:
    """Write records to a topic."""
    from daemon.pipes import send_lines

    sent = send_lines(_load(config, set_), topic, file, rate)
    err.print(f"sent {sent} to {topic}")


@app.command()
def tail(
    topic: Annotated[str, typer.Argument(help="The topic to read from.")],
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Wait for more.")] = False,
    count: Annotated[int, typer.Option("--count", "-n", help="The last N; 0 for all.", min=0)] = 10,
    config: ConfigPath = None,
    set_: Overrides = [],  # noqa: B006
) -> None:
    """Print the records of a topic, one JSON object a line."""
    from daemon.pipes import tail_lines

    try:
        for line in tail_lines(_load(config, set_), topic, count, follow):
            sys.stdout.write(line + "\n")
            sys.stdout.flush()
    except (KeyboardInterrupt, BrokenPipeError):
        raise typer.Exit from None


@models.command("list")
def models_list(config: ConfigPath = None, as_json: AsJson = False, set_: Overrides = []) -> None:  # noqa: B006
    """All versions, oldest first; the champion is marked."""
    from daemon.show import print_versions

    print_versions(_load(config, set_), out, as_json=as_json)


@models.command("show")
def models_show(
    version: str,
    config: ConfigPath = None,
    as_json: AsJson = False,
    set_: Overrides = [],  # noqa: B006
) -> None:
    """One version: where it came from, and the decision that made it live."""
    from daemon.show import print_version

    print_version(_load(config, set_), version, out, as_json=as_json)


@models.command("promote")
def models_promote(version: str, config: ConfigPath = None, set_: Overrides = []) -> None:  # noqa: B006
    """Make a version of the registry live, whatever the gate would say."""
    _steer(_load(config, set_), "promote", {"version": version})


@models.command("rollback")
def models_rollback(config: ConfigPath = None, set_: Overrides = []) -> None:  # noqa: B006
    """Go back to the champion's parent."""
    _steer(_load(config, set_), "rollback", {})


@topics.command("create")
def topics_create(config: ConfigPath = None, set_: Overrides = []) -> None:  # noqa: B006
    """Make the topics that are missing. Those there are stay as they are."""
    from daemon.topics import create, needs_none

    settings = _load(config, set_)
    if (because := needs_none(settings)) is not None:
        out.print(because)
        return
    made = create(settings)
    out.print(f"made {', '.join(made)}" if made else "every topic is there", markup=False)


@topics.command("check")
def topics_check(config: ConfigPath = None, set_: Overrides = []) -> None:  # noqa: B006
    """Compare the topics there are with what the config asks of them; exit status 1 when they fall short."""
    from daemon.topics import needs_none, reports, sentences

    settings = _load(config, set_)
    if (because := needs_none(settings)) is not None:
        out.print(because)
        return
    _print_findings(sentences(reports(settings)))


@dead_letters.command("list")
def dead_letters_list(
    reason: OfReason = None,
    origin: OfOrigin = None,
    count: Annotated[int, typer.Option("--count", "-n", help="The last N; 0 for all.", min=0)] = 20,
    config: ConfigPath = None,
    as_json: AsJson = False,
    set_: Overrides = [],  # noqa: B006
) -> None:
    """What was set aside and why, the newest last."""
    from daemon.dead_letters import Filter, print_letters

    print_letters(_load(config, set_), Filter.of(reason, origin), count, out, as_json=as_json)


@dead_letters.command("replay")
def dead_letters_replay(
    reason: OfReason = None,
    origin: OfOrigin = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say how many it would be.")] = False,
    config: ConfigPath = None,
    set_: Overrides = [],  # noqa: B006
) -> None:
    """Send the messages back to the topics they came from, each once however often this is run."""
    from daemon.dead_letters import Filter, replay

    done = replay(_load(config, set_), Filter.of(reason, origin), dry_run=dry_run)
    for topic, sent in done.sent.items():
        out.print(f"{sent} {'would go' if dry_run else 'sent'} back to {topic}", markup=False)
    if not done.sent:
        out.print("nothing to send that has not been sent before")
    if done.cut:
        out.print(f"{done.cut} too_large were cut when they were set aside; send them again from where they came from")


@labels.command("doubtful")
def labels_doubtful(
    cause: OfCause = None,
    config: ConfigPath = None,
    as_json: AsJson = False,
    set_: Overrides = [],  # noqa: B006
) -> None:
    """Labels that were set aside and why, the newest last."""
    from daemon.show import print_doubts

    print_doubts(_load(config, set_), cause, out, as_json=as_json)


@labels.command("accept")
def labels_accept(
    id: DoubtfulId = None,
    cause: OfCause = None,
    all_: EveryDoubt = False,
    config: ConfigPath = None,
    set_: Overrides = [],  # noqa: B006
) -> None:
    """Learn from labels that were set aside: one, all of a cause, or all."""
    _steer(_load(config, set_), "labels accept", _meant(id, cause, everything=all_))


@labels.command("drop")
def labels_drop(
    id: DoubtfulId = None,
    cause: OfCause = None,
    all_: EveryDoubt = False,
    config: ConfigPath = None,
    set_: Overrides = [],  # noqa: B006
) -> None:
    """Never learn from labels that were set aside: one, all of a cause, or all."""
    _steer(_load(config, set_), "labels drop", _meant(id, cause, everything=all_))


def _meant(id: str | None, cause: str | None, *, everything: bool) -> dict[str, str]:
    if sum([id is not None, cause is not None, everything]) != 1:
        raise RelearndError("say which labels: an ID, --cause CAUSE or --all, and one of them only")
    return {name: value for name, value in (("id", id), ("cause", cause)) if value is not None}


@app.command()
def learn(config: ConfigPath = None, set_: Overrides = []) -> None:  # noqa: B006
    """Ask the running daemon to learn now, whatever the cooldown and the budget say."""
    _steer(_load(config, set_), "learn", {})


def _steer(config: Config, name: str, arguments: dict[str, str]) -> None:
    from daemon.steering import REFUSED, steer

    outcome = steer(config, name, {"by": "the command line", **arguments}, wait=STEER_WAIT)
    if outcome.startswith(REFUSED):
        raise RelearndError(outcome)
    out.print(outcome, markup=False)


@app.command()
def status(config: ConfigPath = None, as_json: AsJson = False, set_: Overrides = []) -> None:  # noqa: B006
    """What a daemon is doing: champion, live accuracy, learning, latest decisions."""
    from daemon.show import print_status

    print_status(_load(config, set_), out, as_json=as_json)


@app.command()
def demo(
    to: Annotated[Path, typer.Option("--out", help="Where its home, log and report go.")] = Path("out/demo"),
    rate: Annotated[float, typer.Option(help="Texts a second.", min=1.0)] = 9.0,
    set_: Overrides = [],  # noqa: B006
) -> None:
    """The whole loop, live, on a made-up stream: no broker, no data, no network."""
    from daemon.demo.run import Demo

    Demo(_load(None, set_), to, rate, out).run()


@app.command()
def bench(
    texts: Annotated[int, typer.Option(help="How many texts to score.", min=1)] = 2_000,
    config: ConfigPath = None,
    as_json: AsJson = False,
    set_: Overrides = [],  # noqa: B006
) -> None:
    """How fast this machine scores, beside a plain transformers loop over the same texts."""
    from daemon.bench import measure

    measured = measure(_load(config, set_), texts)
    if as_json:
        out.print_json(json.dumps(measured))
        return
    for name, figures in measured.items():
        out.print(f"{name:24} {figures['texts_per_second']:8.0f} texts/s  {figures['seconds']:.2f} s")


if __name__ == "__main__":
    main()
