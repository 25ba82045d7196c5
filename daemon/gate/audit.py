"""A promotion checked afterwards, on the audit share: examples that neither learning nor the gate has used."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from daemon.config import GateConfig
from daemon.gate.answers import Answers
from daemon.gate.chance import holm
from daemon.gate.mix import in_mix_of_past
from daemon.gate.slices import Comparison, judge_slices, worst
from learners.job import Judged


@dataclass(frozen=True)
class Audit:
    """The gate's slice judgement on other examples. `fell` names the slices that lost more than the tolerance."""

    examples: int
    because: str
    slices: list[Comparison]
    fell: list[str]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Audits:
    """Those of many promotions. `flagged` are the versions of which a slice `fell`, each audited by itself.

    Chance alone flags up to `by_chance` of them. `fell` are those that are flagged even when all are counted together.
    """

    promotions: int
    flagged: list[str]
    by_chance: float
    fell: list[str]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def together(audits: Mapping[str, Mapping[str, Any]], config: GateConfig) -> Audits:
    """`audits` are what `Audit.as_dict` gave, by version.

    An audit flags a version that lowers nothing with a chance of up to `gate.alpha`; of ten, one. So the least p-value
    that each flagged version has is taken as one of as many as there are promotions (Holm).
    """
    flagged = [version for version, one in audits.items() if one["fell"]]
    least = [
        min((each["p_worse"] for each in one["slices"] if each["name"] in one["fell"]), default=1.0)
        for one in audits.values()
    ]
    fell = [version for version, p in zip(audits, holm(least), strict=True) if p <= config.alpha]
    return Audits(len(audits), flagged, config.alpha * len(audits), fell)


def audit(
    judged: Sequence[Judged], labels: Sequence[str], config: GateConfig, seed: int, *, apart_from_mix: bool = False
) -> Audit:
    """Judge every slice of the old audit examples, and the fresh ones but by their labels.

    `apart_from_mix` is as of `verdict.judge`.
    """
    known = in_mix_of_past(judged, labels) if apart_from_mix else judged
    old = Answers.of([row for row in known if row.group == "old"], labels)
    fresh = Answers.of([row for row in judged if row.group == "fresh"], labels)
    slices = judge_slices(old, labels, config, seed, fresh=fresh)
    fell = [one.name for one in slices if not one.passed]
    return Audit(len(judged), _because(slices, fell, len(judged), config), slices, fell)


def _because(slices: Sequence[Comparison], fell: Sequence[str], examples: int, config: GateConfig) -> str:
    lowest = worst(slices)
    if lowest is None:
        return f"{examples} audit examples, too few for a slice of {config.slice_min}"
    low = worst([one for one in slices if not one.passed]) or lowest
    change = f"{low.name} {low.parent:.3f} → {low.candidate:.3f} on {low.examples}"
    if fell:
        return f"{len(fell)} of {len(slices)} slices fell on {examples} audit examples; worst {change}"
    return f"{len(slices)} slices kept on {examples} audit examples; worst {change}"
