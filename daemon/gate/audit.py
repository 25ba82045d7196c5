"""A promotion checked afterwards, on the audit share: examples that neither learning nor the gate has used."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from daemon.config import GateConfig
from daemon.gate.answers import Answers
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


def audit(judged: Sequence[Judged], labels: Sequence[str], config: GateConfig, seed: int) -> Audit:
    """Judge every slice of the old audit examples, and the fresh ones as one slice."""
    old = Answers.of([row for row in judged if row.group == "old"], labels)
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
