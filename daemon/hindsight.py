"""A run's versions, seen from its end: what each knew of every source, what was forgotten, and what helped what.

Judged on labelled texts of the audit share, which neither learning nor the gate has used. `forgot` is the fall from the
best version to the last one (Chaudhry et al. 2018, "Riemannian Walk"); `backward` transfer the last version against the
one that was live when half of the source's labelled texts had come, `forward` transfer the one that was live when its
first came against the first of all (Lopez-Paz & Ranzato 2017, "Gradient Episodic Memory"). All are macro-F1.

Versions are those that learned. One that only follows the label mix knows what the one does whose weights it has, and
has forgotten nothing that its next move would not bring back: while it was live, that one counts as live.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any, NamedTuple

from daemon.config import MemoryConfig
from daemon.engine import Engine
from daemon.memory import share_of
from daemon.prequential import Confusion

#: Sources with fewer texts in the audit share are left out: their figures would be chance.
LEAST = 20

Known = Mapping[str, float]


class Lead(NamedTuple):
    """From text number `since` of the stream on, `version` was live."""

    since: int
    version: str


class Seen(NamedTuple):
    """A labelled text and its place in the stream."""

    text_index: int
    id: str
    text: str
    source: str | None
    truth: str


def look_back(
    seen: Iterable[Seen], leads: Sequence[Lead], load: Callable[[str], Engine], memory: MemoryConfig
) -> dict[str, Any] | None:
    """What a report says of it; None when no source has enough texts in the audit share.

    `leads` are in order, the first one from text 0 on; `load` is called once for each version.
    """
    by_source: dict[str, list[Seen]] = {}
    for one in sorted(seen):
        by_source.setdefault(one.source or "no source", []).append(one)
    audited = {
        source: [one for one in all_ if share_of(one.id, memory) == "audit"] for source, all_ in by_source.items()
    }
    audited = {source: rows for source, rows in sorted(audited.items()) if len(rows) >= LEAST}
    if not audited:
        return None
    known: dict[str, Known] = {}
    for lead in leads:
        if lead.version not in known:
            known[lead.version] = _knowledge(load(lead.version), audited)
    sources = {
        source: {"texts": len(rows), **_transfer(source, [one.text_index for one in by_source[source]], leads, known)}
        for source, rows in audited.items()
    }
    means = {name: fmean(one[name] for one in sources.values()) for name in ("forgot", "backward", "forward")}
    versions = [
        {"version": version, "mean": fmean(one.values()), "worst": min(one, key=lambda name: one[name]), "known": one}
        for version, one in known.items()
    ]
    return {**means, "sources": sources, "versions": versions, "leads": [lead._asdict() for lead in leads]}


def _knowledge(engine: Engine, audited: Mapping[str, Sequence[Seen]]) -> Known:
    return {source: _macro_f1(engine, rows) for source, rows in audited.items()}


def _macro_f1(engine: Engine, rows: Sequence[Seen]) -> float:
    said = engine.best([one.text for one in rows])
    return Confusion((one.truth, label, 1) for one, label in zip(rows, said, strict=True)).macro_f1 or 0.0


def _transfer(source: str, came: Sequence[int], leads: Sequence[Lead], known: Mapping[str, Known]) -> dict[str, float]:
    """What became of one source, whose labelled texts had the places `came` in the stream."""
    base, last = known[leads[0].version][source], known[leads[-1].version][source]
    met, taught = (known[_live_at(leads, came[at])][source] for at in (0, len(came) // 2))
    best = max(one[source] for one in known.values())
    return {
        "base": base,
        "best": best,
        "final": last,
        "forgot": best - last,
        "backward": last - taught,
        "forward": met - base,
    }


def _live_at(leads: Sequence[Lead], text_index: int) -> str:
    return leads[max(0, bisect_right([lead.since for lead in leads], text_index) - 1)].version
