"""What asking for labels is worth: the same stream with all labels, with some at random, and with those asked for.

`python -m benchmarks.asking --texts T.jsonl --labels L.jsonl --base B.jsonl` runs four backtests of the daemon's own
code and prints, for each, live and (with `--holdout`) held-out macro-F1, and which share of the gain of all labels over
none is kept. A label that was asked for is delivered when it was due anyway, or at once when it was due before.
Finished runs are kept in `--out` and not done again, so it can be stopped and gone on with; `--runs` does some now.
"""

import argparse
import json
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from connectors.topic import Message
from daemon.backtest import Annotator, Backtest
from daemon.config import Config
from daemon.controller import Controller
from daemon.recording import messages
from daemon.records import LabelRequest
from daemon.settings import load
from learners.job import Progress

DAY = 86_400.0

RUNS = ("no labels", "at random", "asked for", "all labels")


class Silent:
    """Shows nothing."""

    def learned(self, version: str, done: Progress) -> None: ...

    def moved(self, texts: int, controller: Controller) -> None: ...


class Answering:
    """Gives the labels that were asked for, and no others."""

    def __init__(self) -> None:
        self._due: dict[str, Message] = {}
        self._asked: set[str] = set()

    def __call__(self, due: Sequence[Message], asked: Sequence[LabelRequest]) -> list[Message]:
        self._asked.update(request.id for request in asked)
        self._due.update((json.loads(message.value)["id"], message) for message in due)
        given = sorted(self._asked & self._due.keys())
        return [self._due.pop(id) for id in given]


class Share:
    """Gives `share` of the labels, drawn with `seed`."""

    def __init__(self, share: float, seed: int) -> None:
        self._share = share
        self._random = random.Random(seed)

    def __call__(self, due: Sequence[Message], asked: Sequence[LabelRequest]) -> list[Message]:  # noqa: ARG002
        return [message for message in due if self._random.random() < self._share]


def budget(texts: Path, share: float) -> int:
    """Requests a day that ask for `share` of the texts of a recording."""
    times = [message.timestamp for message in messages(texts, "texts")]
    days = max((times[-1] - times[0]) / DAY, 1 / 24)
    return max(1, round(share * len(times) / days))


def compare(
    config: Config, files: Mapping[str, Path | None], share: float, out: Path, seed: int, names: Sequence[str] = RUNS
) -> dict[str, Any]:
    """The reports of these runs, by name; each keeps its own in a folder of `out`."""
    texts = files["texts"]
    assert texts is not None
    asking = config.model_copy(
        update={"asking": config.asking.model_copy(update={"daily_budget": budget(texts, share)})}
    )
    runs: dict[str, tuple[Config, Callable[[], Annotator | None]]] = {
        "no labels": (config, lambda: Share(0.0, seed)),
        "at random": (config, lambda: Share(share, seed)),
        "asked for": (asking, Answering),
        "all labels": (config, lambda: None),
    }
    return {name: _run(*runs[name], files, out / name.replace(" ", "-")) for name in names}


def _run(
    config: Config, annotator: Callable[[], Annotator | None], files: Mapping[str, Path | None], out: Path
) -> dict[str, Any]:
    """One run's report and how many labels were `given`, from `out` if it has been done."""
    done = out / "done.json"
    if not done.exists():
        given = Counted(annotator())
        report = Backtest(config, out, Silent(), given).run(**files)  # type: ignore[arg-type]
        done.write_text(json.dumps(report | {"given": given.count}))
    reread: dict[str, Any] = json.loads(done.read_text())
    return reread


class Counted:
    """An annotator whose labels are counted; without one, every label is given."""

    def __init__(self, annotator: Annotator | None) -> None:
        self._annotator = annotator
        self.count = 0

    def __call__(self, due: Sequence[Message], asked: Sequence[LabelRequest]) -> Sequence[Message]:
        given = due if self._annotator is None else self._annotator(due, asked)
        self.count += len(given)
        return given


def table(reports: Mapping[str, Any]) -> list[tuple[str, int, float, float | None, float | None]]:
    """Rows of name, labels given, live macro-F1, mean held-out macro-F1 and the share of the gain that is kept."""
    figures = {name: (report["prequential"]["macro_f1"], held_out(report)) for name, report in reports.items()}
    # Where there is a holdout it says more: live figures include what no label can help, the first texts of a domain.
    scores = {name: live if held is None else held for name, (live, held) in figures.items()}
    gain = scores["all labels"] - scores["no labels"]
    return [
        (name, reports[name]["given"], live, held, (scores[name] - scores["no labels"]) / gain if gain > 0 else None)
        for name, (live, held) in figures.items()
    ]


def held_out(report: Mapping[str, Any]) -> float | None:
    domains = report.get("holdout", {}).get("final")
    return sum(one["macro_f1"] for one in domains.values()) / len(domains) if domains else None


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    for name in ("texts", "labels"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    for name in ("base", "holdout", "config"):
        parser.add_argument(f"--{name}", type=Path)
    parser.add_argument("--share", type=float, default=0.1, help="share of the labels that may be asked for")
    parser.add_argument("--runs", nargs="+", choices=RUNS, default=RUNS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("out/asking"))
    parser.add_argument("--set", action="append", default=[], metavar="KEY.PATH=VALUE")
    given = parser.parse_args()
    config = load(given.config, environment={}, overrides=given.set)
    files = {name: getattr(given, name) for name in ("texts", "labels", "base", "holdout")}
    reports = compare(config, files, given.share, given.out, given.seed, given.runs)
    if len(reports) < len(RUNS):
        return
    print(f"{'labels':12} {'given':>7} {'live F1':>8} {'held out':>9} {'of gain':>8}")
    for name, labels, live, held, kept in table(reports):
        shown = [f"{value:.3f}" if value is not None else "-" for value in (live, held)]
        print(f"{name:12} {labels:7} {shown[0]:>8} {shown[1]:>9} {'-' if kept is None else f'{kept:.0%}':>8}")


if __name__ == "__main__":
    main()
