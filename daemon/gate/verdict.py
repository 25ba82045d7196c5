"""The decision: each test in turn, and the sentence that says what decided."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from daemon.config import GateConfig
from daemon.gate.answers import Answers, brier, mean
from daemon.gate.calibration import judge_calibration
from daemon.gate.chance import p_greater, p_more_often
from daemon.gate.invariance import judge_invariance
from daemon.gate.mix import in_mix_of_past
from daemon.gate.slices import Comparison, judge_slices, worst
from learners.job import Judged


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The decision with its numbers. `p_better` is the paired test of the Brier scores on the fresh examples, and `old`
    ones with them where the candidate has gone over everything remembered; `p_worse` the smaller p-value of the same
    the other way round, and of accuracy that fell, both on the fresh ones alone.

    `unproved` is a candidate that was turned away only because the fresh examples were too few, or it was no better on
    them beyond chance: it was no worse beyond chance either, and nothing else speaks against it. On `selected` held-out
    examples nothing was judged, or only what was forgotten. `apart_from_mix` says how slices and names were judged.
    `settings` are the gate's: with them an auditor can decide again.
    """

    promoted: bool
    because: str
    fresh: int
    selected: int
    parent_accuracy: float
    candidate_accuracy: float
    parent_brier: float
    candidate_brier: float
    p_better: float
    slowdown: float
    slices: list[Comparison]
    calibration: Comparison | None
    invariance: Comparison | None
    settings: dict[str, Any]
    seed: int
    p_worse: float = 1.0
    old: int = 0
    unproved: bool = False
    apart_from_mix: bool = False

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def judge(
    judged: Sequence[Judged],
    labels: Sequence[str],
    *,
    slowdown: float,
    config: GateConfig,
    seed: int,
    apart_from_mix: bool = False,
    rehearsed: bool = False,
) -> Verdict:
    """Decide on a candidate from both models' probabilities on the same held-out examples.

    Better means a lower Brier score (a proper score, so a model can't win by shouting) under a one-sided paired
    permutation test, with accuracy on fresh examples within the tolerance; old examples are cut by source, key and
    class.

    Args:
        judged: every held-out example; `group` tells fresh from old. Those `selected` are not judged on, and those
            `tempered` only for which label is on top.
        labels: the order of the probabilities.
        slowdown: the candidate's scoring time over the parent's.
        config: thresholds.
        seed: of the permutation tests.
        apart_from_mix: one of the models follows the label mix; what it knows is judged by `in_mix_of_past`.
        rehearsed: the candidate has gone over everything remembered, and is to be better at that: old examples tell so
            as well as fresh ones. What the champion was promoted on is among them, and speaks for the champion.
    """
    known = in_mix_of_past(judged, labels) if apart_from_mix else judged
    # What a candidate was chosen on flatters it.
    fresh_rows = [row for row in judged if row.group == "fresh" and _is_unseen(row)]
    fresh = Answers.of(fresh_rows, labels)
    remembered = [row for row in known if row.group == "old" and not row.selected]
    old = Answers.of(remembered, labels)
    # And what the champion was promoted on flatters the champion.
    unused = Answers.of([row for row in remembered if row.tempered], labels)
    proving = Answers.of([*filter(_is_unseen, remembered), *fresh_rows], labels) if rehearsed else fresh
    fresh_brier, proving_brier = (
        [brier(of.parent, of.truth), brier(of.candidate, of.truth)] for of in (fresh, proving)
    )
    parent_right, candidate_right = fresh.right()
    verdict = Verdict(
        promoted=False,
        because="",
        fresh=len(fresh),
        selected=sum(not _is_unseen(row) for row in judged),
        parent_accuracy=mean(parent_right),
        candidate_accuracy=mean(candidate_right),
        old=len(proving) - len(fresh),
        parent_brier=mean(proving_brier[0]),
        candidate_brier=mean(proving_brier[1]),
        p_better=p_greater(proving_brier[0] - proving_brier[1], seed),
        p_worse=min(p_greater(fresh_brier[1] - fresh_brier[0], seed), p_more_often(parent_right, candidate_right)),
        slowdown=slowdown,
        slices=judge_slices(old, labels, config, seed, fresh=fresh if apart_from_mix else None, unused=unused),
        # Old and fresh together: the error of few examples is mostly chance. Knowing nothing is never too sure.
        calibration=judge_calibration(
            Answers.of([row for row in [*filter(_is_unseen, remembered), *fresh_rows] if row.parent], labels),
            config,
            seed,
        ),
        invariance=judge_invariance(list(filter(_is_unseen, known)), labels, config),
        settings=config.model_dump(),
        seed=seed,
        apart_from_mix=apart_from_mix,
    )
    if broken := sum(map(_is_broken, judged)):
        because = f"its probabilities are not numbers on {broken} of {len(judged)} held-out examples"
        return replace(verdict, because=because)
    return _decide(verdict, config)


def _is_unseen(row: Judged) -> bool:
    return not (row.selected or row.tempered)


def _is_broken(row: Judged) -> bool:
    return not all(map(math.isfinite, [*row.candidate, *(row.swapped.candidate if row.swapped else ())]))


def _decide(verdict: Verdict, config: GateConfig) -> Verdict:
    harm = _harm(verdict, config)
    if (lacking := _lacking(verdict, config)) is not None:
        return replace(verdict, because=lacking, unproved=harm is None and verdict.p_worse >= config.alpha)
    if verdict.parent_accuracy - verdict.candidate_accuracy > config.slice_tolerance:
        return replace(verdict, because=f"surer but less accurate: {_change(verdict)}")
    if verdict.old and verdict.p_worse < config.alpha:
        return replace(
            verdict, because=f"better at the past alone: {_change(verdict)}, worse with p = {verdict.p_worse:.3f}"
        )
    if harm is not None:
        return replace(verdict, because=harm)
    lowest = worst([one for one in verdict.slices if not one.fresh])
    kept = f"; worst old slice {lowest.name} {lowest.change:+.3f}" if lowest else ""
    return replace(verdict, promoted=True, because=f"{_change(verdict)}, {_chance(verdict, 4)}{kept}")


def _lacking(verdict: Verdict, config: GateConfig) -> str | None:
    """What is missing to the proof that it is better; None when nothing is."""
    if verdict.fresh < config.min_examples:
        return f"only {verdict.fresh} fresh held-out labels; gate.min_examples is {config.min_examples}"
    if not verdict.p_better < config.alpha:
        return f"no better beyond chance: {_change(verdict)}, {_chance(verdict, 3)}"
    return None


def _harm(verdict: Verdict, config: GateConfig) -> str | None:
    """What the candidate would do worse than the champion besides, the first thing found; None without any."""
    if bad := worst([one for one in verdict.slices if not one.passed]):
        return f"{'is worse on' if bad.fresh else 'forgets'} {bad.name}: {_step(bad)} on {bad.examples} examples"
    if (calibration := verdict.calibration) and not calibration.passed:
        return f"its confidence means less: calibration error {_step(calibration)}"
    if (names := verdict.invariance) and not names.passed:
        return f"judges names: {_step(names)} of {names.examples} texts that were right change label with other names"
    if not verdict.slowdown <= config.max_slowdown:
        return f"{verdict.slowdown:.2f} times as slow; gate.max_slowdown is {config.max_slowdown}"
    return None


def _change(verdict: Verdict) -> str:
    return f"accuracy {verdict.parent_accuracy:.3f} → {verdict.candidate_accuracy:.3f} on {verdict.fresh} fresh labels"


def _chance(verdict: Verdict, digits: int) -> str:
    p = f"p = {verdict.p_better:.{digits}f}"
    return f"and with {verdict.old} old ones {p}" if verdict.old else p


def _step(compared: Comparison) -> str:
    return f"{compared.parent:.3f} → {compared.candidate:.3f}"
