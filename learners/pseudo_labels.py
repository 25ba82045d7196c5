"""Texts without a label, learned from under the label that the parent gives them, where it can be trusted to be right.

It can where it is confident, and says the same of the text written a little differently (Sohn et al. 2020, "FixMatch").
How confident it must be is measured: on labelled examples that the parent has not learned from. What is learned is one
of the text's other forms, under a label that its original form was given.
"""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from learners.augmentation import augmented
from learners.device import Compute
from learners.job import Example, Job, PseudoLabels, Recent
from learners.judging import TOKEN_BUDGET
from learners.model import LoadedModel, load
from learners.scoring import Floats, forward_batches
from learners.selection import chooses
from learners.snapshot import Snapshot

#: Labelled examples that a confidence must be reached by before its precision is believed: with 20, one mistake is
#: 5 %, so the usual target of 95 % can be told from a miss at all.
LEAST = 20

#: A share of a count is off by less than this.
ROUNDING = 1e-9


class Opinions(NamedTuple):
    """Of each text: the position of the parent's label, its probability, and whether each form of the text gets it.

    `answers` `[texts]` int64, `confidences` `[texts]` float32, `steady` `[texts]` bool.
    """

    answers: npt.NDArray[np.int64]
    confidences: Floats
    steady: npt.NDArray[np.bool_]


class Chosen(NamedTuple):
    """The examples to learn, and the least confidence they were taken at: None if no confidence was good enough.

    `chosen_on` are the ids of the held-out examples that the threshold was chosen on.
    """

    examples: list[Example]
    threshold: float | None
    chosen_on: frozenset[str]


def from_parent(job: Job, snapshot: Snapshot, compute: Compute) -> Chosen:
    """The pseudo-labelled examples of a job; none where it asks for none, or there is no parent to give labels."""
    choosing = [example for example in snapshot.gate if chooses(example.id)]
    if job.pseudo_labels is None or job.parent is None or not choosing:
        return Chosen([], None, frozenset())
    parent = load(job.parent, compute.device).with_max_tokens(job.max_tokens)
    return pseudo_label(parent, snapshot.unlabelled, snapshot.new, choosing, job.pseudo_labels, job.seed, compute)


def pseudo_label(
    parent: LoadedModel,
    unlabelled: Sequence[Recent],
    labelled: Sequence[Example],
    choosing: Sequence[Example],
    settings: PseudoLabels,
    seed: int,
    compute: Compute,
) -> Chosen:
    """Examples from `unlabelled`, each with its parent's label, most confident first in each label.

    `choosing` are held-out examples that the threshold is chosen on. `labelled` are the new ones of the job: of each
    label there will be `settings.ratio` times as many as there, at most, each with `settings.weight` of their weight.
    """
    generator = np.random.default_rng(seed)
    chosen_on = frozenset(example.id for example in choosing)
    least = _least_confidence(parent, choosing, settings, generator, compute)
    if least is None or not unlabelled:
        return Chosen([], least, chosen_on)
    forms = _forms([text.text for text in unlabelled], settings.forms, generator)
    given = _opinions(parent, forms, compute)
    taken = np.flatnonzero(given.steady & (given.confidences >= least))
    # Most confident first, and of equals the latest.
    taken = taken[np.lexsort((-taken, -given.confidences[taken]))]
    room = {label: round(settings.ratio * count) for label, count in Counter(one.label for one in labelled).items()}
    weight = settings.weight * float(np.mean([example.weight for example in labelled]))
    examples = []
    for at in taken.tolist():
        label, text = parent.labels[given.answers[at]], unlabelled[at]
        if room.get(label, 0) > 0:
            room[label] -= 1
            examples.append(Example(**{**text.model_dump(), "text": forms[1][at]}, label=label, weight=weight))
    return Chosen(examples, least, chosen_on)


def _least_confidence(
    parent: LoadedModel,
    choosing: Sequence[Example],
    settings: PseudoLabels,
    generator: np.random.Generator,
    compute: Compute,
) -> float | None:
    given = _opinions(parent, _forms([one.text for one in choosing], settings.forms, generator), compute)
    positions = {label: position for position, label in enumerate(parent.labels)}
    # A label that the parent has never heard of is one that it gets wrong.
    truth = np.array([positions.get(example.label, -1) for example in choosing], dtype=np.int64)
    groups = np.array([example.group for example in choosing])
    steady = given.steady
    return threshold(given.confidences[steady], (given.answers == truth)[steady], groups[steady], settings.precision)


def threshold(
    confidences: Floats, right: npt.NDArray[np.bool_], groups: npt.NDArray[np.str_], precision: float
) -> float | None:
    """The smallest confidence such that, of the answers at least as confident, `precision` are right in each group.

    In each, for old examples are many more than fresh ones, and known better. None if there is none that `LEAST`
    answers reach. All arrays are `[examples]`.
    """
    order = np.argsort(-confidences, kind="stable")
    reached = np.arange(1, len(order) + 1) >= LEAST
    for group in np.unique(groups):
        member = groups[order] == group
        reached &= np.cumsum(right[order] & member) >= precision * np.cumsum(member) - ROUNDING
    # Equal confidences are taken together or not at all.
    reached[:-1] &= np.diff(confidences[order]) != 0
    good = np.flatnonzero(reached)
    return float(confidences[order][good[-1]]) if len(good) else None


def _forms(texts: Sequence[str], count: int, generator: np.random.Generator) -> list[list[str]]:
    """The texts as they are, then `count` times written a little differently."""
    return [list(texts), *([augmented(text, generator) for text in texts] for _ in range(count))]


def _opinions(parent: LoadedModel, forms: Sequence[Sequence[str]], compute: Compute) -> Opinions:
    if not forms[0]:
        return Opinions(np.zeros(0, np.int64), np.zeros(0, np.float32), np.zeros(0, np.bool_))
    said = [forward_batches(parent, parent.tokenise(texts), TOKEN_BUDGET, compute).probabilities for texts in forms]
    answers = said[0].argmax(1)
    steady = np.all([form.argmax(1) == answers for form in said], axis=0)
    return Opinions(answers, said[0].max(1), steady)
