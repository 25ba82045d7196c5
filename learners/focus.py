"""Learning what is not known yet: a part of the examples, those more likely that the parent loses more on.

What the parent knows well teaches little, and a step costs the same on it. Drawing by loss spends the steps where they
tell (Katharopoulos & Fleuret 2018, "Not all samples are created equal"; Jiang et al. 2019, "Accelerating deep learning
by focusing on the biggest losers"). It is a draw, and the loss is bounded, so that what is known is still rehearsed and
wrong labels do not take over.
"""

from collections.abc import Sequence

import numpy as np

from learners.device import Compute
from learners.job import Example, Job
from learners.judging import answers
from learners.methods.names import replays, starts_afresh
from learners.model import load
from learners.snapshot import Snapshot

#: Losses in nats: what is added to each, so that everything may be drawn, and the most that counts.
FLOOR, CEILING = 0.1, 2.0


def focused(snapshot: Snapshot, job: Job, compute: Compute) -> Snapshot:
    """`snapshot` with the part that `job.focus` asks for of what its method learns from, in the same order.

    All of it where the job has no parent to say what it knows.
    """
    if job.focus == 1 or job.parent is None or starts_afresh(job.method):
        return snapshot
    new = len(snapshot.new)
    both = [*snapshot.new, *snapshot.replay] if replays(job.method) else snapshot.new
    given = answers(load(job.parent, compute.device), [one.text for one in both], job.labels, compute)
    truth = [job.labels.index(one.label) for one in both]
    losses = -np.log(np.maximum(given[np.arange(len(both)), truth], np.exp(-CEILING)))
    drawn = draw(losses, max(1, round(job.focus * len(both))), job.seed)
    rest = _those(snapshot.replay, drawn[new:]) if replays(job.method) else snapshot.replay
    return snapshot._replace(new=_those(snapshot.new, drawn[:new]), replay=rest)


def draw(losses: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Which `count` of `losses` `[n]` are drawn: bool `[n]`, without replacement, with chances in proportion.

    The `count` first of exponential clocks that run at the rate of the loss (Efraimidis & Spirakis 2006).
    """
    clocks = np.random.default_rng(seed).exponential(size=len(losses)) / (FLOOR + np.minimum(losses, CEILING))
    drawn = np.zeros(len(losses), dtype=np.bool_)
    drawn[np.argsort(clocks, kind="stable")[:count]] = True
    return drawn


def _those(examples: Sequence[Example], drawn: np.ndarray) -> list[Example]:
    return [example for example, is_drawn in zip(examples, drawn, strict=True) if is_drawn]
