"""Drift detection on streams whose changes are known: false alarms, delays, kinds, speed, beside other detectors.

    python -m benchmarks.drift --data FOLDER                       a quarter of an hour on 2 cores after the scoring
    python -m benchmarks.drift --data FOLDER --full                more of every stream, for about two hours
    python -m benchmarks.drift --data FOLDER --only false-alarms   ours alone; or delays, crash, speed

FOLDER holds domains.*, crash2020.* and gold.*. Version 1 is fitted on domains.base, as the daemon fits it, and scores
every text once: both are kept in `--out`, as is every finished part, so the table can be stopped and gone on with.

**False alarms**: a still stream is a permutation of one domain, or of all six: 1,500 texts of reference window, then
the rest, each text once, so that it is exchangeable to its end. A run ends with its first alarm or with its texts;
texts over alarms is then at least nominal if the guarantee holds, however short the runs. `evidence alone` is fed
with uniform p-values and starts again after each alarm.

**Delays**: 250 texts of one domain, then the change. Between the six domains: at once, mixed in at 30 % and 10 %, and
growing over 500 texts; label mixes that move by 20 points from one label to another; and labels whose negative and
positive change places. Texts repeat in another order when a domain is used up. What is not found within 1,500 texts
counts as 1,500. On crash2020, three days on which the mood of 2020 turned.

**Others** are River's, the daemon's own two-sample tests, frouros' and alibi-detect's (which get an environment of
their own in `--out`, of 6 GB, unless `--no-peers`), an alarm every so many texts, and none ever. Each gets the same
signals, all of them the daemon's, and its main parameter is tuned until it alarms on still streams as often as ours
does on the long ones of all six, where it alarms oftenest: its sums begin at nothing, and short streams end early.
"""

import argparse
import math
import multiprocessing
import os
import re
import shutil
import subprocess
import sys
import venv
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import NamedTuple, Self

from rich.console import Console

from benchmarks import drift_report
from benchmarks.drift_matching import Judged, Rate, judge
from benchmarks.drift_ours import Ours, kinds, recorded, simulated, soon, speeds
from benchmarks.drift_peers import peers
from benchmarks.drift_report import Change, Quiet, Results
from benchmarks.drift_rivals import rivals
from benchmarks.drift_scores import CODE, CRASH, DETECTION, GOLD, SIGNALS, digest, pool, views
from benchmarks.drift_streams import HOME, HORIZON, MIXED, STILL, Pool, View, changes, read, save, still, turns
from benchmarks.stretches import DOMAINS, TURNS
from daemon.config import DriftConfig

#: What the daemon alarms at unless told, and what the others are matched to; and the other one that is measured.
DEFAULT, SENSITIVE = 10_000, 1_000

#: Simulated, for no domain has the texts; on so many p-values at a time.
RARE, CHUNK = 100_000, 500_000

ALONE = "evidence alone"

#: Texts from an alarm to the next change, and how many more the next alarm is waited for.
LEADS, SOON = (100, 200, 400), 500

#: Both old enough to need a NumPy before 2, so not in our own environment.
PEERS = ("frouros==0.9.0", "alibi-detect==0.13.0", "torch==2.11.0")

PARTS = ("false-alarms", "delays", "crash", "speed")


class Size(NamedTuple):
    """Still streams of each domain, and of all mixed, that detectors are matched on; and those that ours is held to.

    Then seeds of every change, and chunks of the simulation.
    """

    still: int
    mixed: int
    held: int
    held_mixed: int
    seeds: int
    chunks: int


SHORT = Size(still=35, mixed=8, held=60, held_mixed=50, seeds=2, chunks=20)
FULL = Size(still=100, mixed=30, held=300, held_mixed=150, seeds=6, chunks=80)


class Place(NamedTuple):
    """Where everything is, and how much is done: `kept` is of these scores and signals, `own` of our detectors too."""

    data: Path
    out: Path
    size: Size
    kept: Path
    own: Path

    @classmethod
    def of(cls, data: Path, out: Path, size: Size) -> Self:
        """The code is looked at here, once: who edits it meanwhile gets the figures of what was running."""
        kept = out / digest(CODE) / f"{'full' if size == FULL else 'short'}-{digest(SIGNALS)}"
        own = kept / f"ours-{digest(DETECTION)}"
        own.mkdir(parents=True, exist_ok=True)
        return cls(data, out, size, kept, own)


@cache
def _pool(place: Place) -> Pool:
    return pool(place.data, place.out, Console())


@cache
def _views(place: Place) -> list[View]:
    return read(place.kept)


def make_streams(place: Place) -> None:
    """Streams and their signals, for every process and every interpreter to read."""
    if (place.kept / "streams.json").exists():
        return
    texts, domains = _pool(place), list(DOMAINS.values())
    streams = still(texts, domains, place.size.still, place.size.mixed)
    streams += changes(texts, domains, place.size.seeds)
    moments = [(f"{day:%-d %B}", day.timestamp()) for day in map(_day, TURNS)]
    streams += turns(texts, CRASH, moments)
    save(views(texts, streams, DriftConfig().neighbours), texts.sketches, place.kept)


def _day(day: str) -> datetime:
    return datetime.fromisoformat(day).replace(tzinfo=UTC)


def quiet(place: Place, stream: str, labelled: bool, nominal: int) -> Quiet:
    """Ours on the still streams of one domain, or of all."""
    file = place.own / f"quiet-{stream}-{labelled}-{nominal}.json"
    if not file.exists():
        texts, domains = _pool(place), list(DOMAINS.values())
        runs, mixed = (0, place.size.held_mixed) if stream == MIXED else (place.size.held, 0)
        streams = [one for one in still(texts, domains, runs, mixed) if one.name == stream]
        detector = Ours.of(texts, labelled)
        firsts = [detector.first(nominal, View(one, {}, {})) for one in streams]
        Rate.of(firsts, [len(one.texts) for one in streams]).write(file)
    return Quiet(stream, labelled, nominal, Rate.read(file))


def alone(place: Place, chunk: int) -> Rate:
    file = place.own / f"alone-{chunk}.json"
    if not file.exists():
        done, alarms = simulated(_pool(place), RARE, CHUNK, chunk)
        Rate(done, alarms, 1).write(file)
    return Rate.read(file)


def judge_ours(place: Place, labelled: bool) -> Judged:
    file = place.own / f"ours-{labelled}.json"
    if not file.exists():
        judge(Ours.of(_pool(place), labelled), _views(place), DEFAULT, parameter=DEFAULT).write(file)
    return Judged.read(file)


def judge_rival(place: Place, number: int, target: float) -> Judged:
    contender = rivals()[number]
    file = place.kept / (re.sub(r"[^A-Za-z]+", "-", f"{contender.name} {contender.signal}").strip("-") + ".json")
    if not _matched(file, target):
        judge(contender, _views(place), target).write(file)
    return Judged.read(file)


def judge_peer(place: Place, name: str, target: float) -> Judged | str:
    """What the environment of `PEERS` makes of it, or why it makes nothing."""
    file = place.kept / f"{name}.json"
    if not _matched(file, target):
        command = [str(_python(place)), "-m", "benchmarks.drift_peers", str(place.kept.resolve()), str(target), name]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[1])
        if done.returncode:
            return f"{name} ({(done.stderr.strip().splitlines() or ['no reason given'])[-1]})"
    return Judged.read(file)


def _matched(file: Path, target: float) -> bool:
    """Whether it was judged already, at the same rate as nearly as rates are measured here."""
    return file.exists() and abs(math.log(Judged.read(file).target / target)) < math.log(1.2)


def _python(place: Place) -> Path:
    return place.out.resolve() / "peers-venv" / "bin" / "python"


def install_peers(place: Place, say: Console) -> str:
    """Make the environment of the peers, unless it is there; why it cannot be made, or nothing."""
    done = _python(place).parent.parent / "installed"
    if done.exists():
        return ""
    say.log(f"installing {', '.join(PEERS)}")
    shutil.rmtree(_python(place).parent.parent, ignore_errors=True)
    venv.create(_python(place).parent.parent, with_pip=True)
    command = [str(_python(place)), "-m", "pip", "install", "--quiet", *PEERS]
    pip = subprocess.run(command, capture_output=True, text=True, check=False)
    if pip.returncode:
        return f"frouros and alibi-detect do not install: {pip.stderr.strip().splitlines()[-1]}"
    done.touch()
    return ""


def false_alarms(place: Place, workers: ProcessPoolExecutor) -> list[Quiet]:
    streams = [*DOMAINS.values(), MIXED]
    wanted = [(one, labelled, every) for labelled in (False, True) for every in (SENSITIVE, DEFAULT) for one in streams]
    found = [one.result() for one in [workers.submit(quiet, place, *which) for which in wanted]]
    parts = [workers.submit(alone, place, chunk) for chunk in range(place.size.chunks)]
    together = []
    for labelled in (False, True):
        for nominal in (SENSITIVE, DEFAULT):
            rates = [one.rate for one in found if (one.labelled, one.nominal) == (labelled, nominal)]
            together.append(Quiet("all streams", labelled, nominal, Rate.sum(rates)))
    rare = Rate.sum([part.result() for part in parts])
    return [*found, *together, Quiet(ALONE, False, RARE, rare)]


def delays(
    place: Place, workers: ProcessPoolExecutor, with_peers: bool, say: Console
) -> tuple[list[Judged], list[str]]:
    """Ours, and all others at the rate that ours has on the same streams; and what did not run."""
    mine = [one.result() for one in [workers.submit(judge_ours, place, labelled) for labelled in (False, True)]]
    long = [workers.submit(quiet, place, MIXED, labelled, DEFAULT).result().rate for labelled in (False, True)]
    target = {"": long[0].mean, "error": long[1].mean}
    if not all(math.isfinite(mean) for mean in target.values()):
        sys.exit("ours gave no false alarm at all: there is no rate to match; use more streams (--full)")
    say.log(f"matching {target['']:,.0f} texts to a false alarm ({target['error']:,.0f} with labels)")
    why_not = install_peers(place, say) if with_peers else "frouros and alibi-detect (run with --peers)"
    jobs: list[Future[Judged] | Future[Judged | str]] = []
    if not why_not:
        for name, contender in peers().items():
            rate = target.get(contender.signal, target[""])
            jobs.append(workers.submit(judge_peer, place, name, rate))
    for number, contender in enumerate(rivals()):
        jobs.append(workers.submit(judge_rival, place, number, target.get(contender.signal, target[""])))
    judged, missing = list(mine), [why_not] if why_not else []
    for job in jobs:
        done = job.result()
        if isinstance(done, Judged):
            judged.append(done)
            say.log(f"{done.title}: {done.rate} texts to a false alarm, {done.seconds:.0f} s")
        else:
            missing.append(done)
    return judged, missing


def rows(place: Place, parts: Sequence[str]) -> tuple[list[Change], list[Change]]:
    """The kinds of change, and every pair of a kind for itself."""
    by_kind: dict[str, Change] = {}
    single: dict[tuple[str, str], Change] = {}
    for view in _views(place):
        stream = view.stream
        if stream.kind == STILL or ("crash" if stream.kind.startswith(CRASH) else "delays") not in parts:
            continue
        horizon = len(stream.texts) if stream.kind.startswith(CRASH) else HORIZON
        for change in (
            by_kind.setdefault(stream.kind, Change(stream.kind, [], [])),
            single.setdefault((stream.kind, stream.name), Change(stream.kind, [], [])),
        ):
            change.keys.append(stream.key)
            change.horizons.append(horizon)
    return sorted(by_kind.values(), key=_order), list(single.values())


def _order(change: Change) -> tuple[int, str]:
    """Home first among labels; days in the order of the year."""
    kind = change.kind
    known = (
        "abrupt",
        "30",
        "10",
        "gradual",
        f"label mix, {HOME}",
        "label",
        f"flipped labels, {HOME}",
        "flipped",
        CRASH,
    )
    return next(at for at, begins in enumerate(known) if kind.startswith(begins)), ""


def on_true_days(place: Place) -> dict[str, list[list[str]]]:
    """Ours on the two recorded streams."""
    found = {}
    for source in (CRASH, GOLD):
        texts = _pool(place)
        alarms = recorded(texts, source, DEFAULT)
        found[source] = [
            [f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d}", str(text), alarm.kind, f"{alarm.signal} {alarm.direction}"]
            for text, at, alarm in alarms
        ]
    return found


def days(place: Place) -> dict[str, list[float]]:
    """Of each turn of crash2020: the days from it to each text."""
    texts = _pool(place)
    found = {}
    for view in _views(place):
        if view.stream.kind.startswith(CRASH):
            moments = texts.moments[view.stream.texts]
            turn = next(_day(day).timestamp() for day in TURNS if f"{_day(day):%-d %B}" in view.stream.kind)
            found[view.stream.key] = ((moments - turn) / 86_400).tolist()
    return found


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--full", action="store_true", help="more streams")
    parser.add_argument("--peers", action=argparse.BooleanOptionalAction, default=True, help="frouros, alibi-detect")
    parser.add_argument("--workers", type=int, default=2, help="processes")
    parser.add_argument("--out", type=Path, default=Path("out/drift"))
    return parser.parse_args()


def main() -> None:
    arguments = _arguments()
    say = Console()
    place = Place.of(arguments.data, arguments.out, FULL if arguments.full else SHORT)
    make_streams(place)
    results = Results()
    # Here alone: other processes would take of its core.
    if "speed" in arguments.only:
        results.speeds = speeds(_pool(place))
    # A process has a core of its own: threads of a matrix product would wait for each other there.
    os.environ["OMP_NUM_THREADS"] = "1"
    with ProcessPoolExecutor(arguments.workers, multiprocessing.get_context("spawn")) as workers:
        if "false-alarms" in arguments.only:
            say.log("false alarms of ours")
            results.quiet = false_alarms(place, workers)
        if {"delays", "crash"} & set(arguments.only):
            results.judged, results.missing = delays(place, workers, arguments.peers, say)
            results.changes, results.single = rows(place, arguments.only)
    if "delays" in arguments.only:
        changed = [view for view in _views(place) if view.stream.kind != STILL and view.stream.seed == 0]
        results.kinds = kinds(_pool(place), changed, DEFAULT)
        domains = list(DOMAINS.values())
        results.soon = {lead: soon(_pool(place), domains, DEFAULT, lead, SOON) for lead in LEADS}
    if "crash" in arguments.only:
        results.recorded = on_true_days(place)
        results.days = days(place)
    drift_report.show(results, say)
    (place.kept / "table.md").write_text(drift_report.markdown(results))
    figures = drift_report.plots(results, place.kept)
    say.print(", ".join(map(str, [place.kept / "table.md", *figures])))


if __name__ == "__main__":
    main()
