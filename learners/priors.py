"""Following the label mix: the same model, told that its labels are now rarer or more common than they were.

Where only the mix of labels moved and what each looks like did not (label shift), a calibrated model needs no learning:
its odds are multiplied by how much more common each label is than before. How common they are can be read off its own
probabilities, by expectation maximisation (Saerens, Latinne & Decaestecker 2002, "Adjusting the outputs of a classifier
to new a priori probabilities"), and better off labels, as soon as there are some.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from scipy.optimize import brentq
from scipy.stats import chi2

from learners.device import Compute
from learners.evaluation import SMALLEST
from learners.job import Job
from learners.judging import answers
from learners.model import LoadedModel, load
from learners.snapshot import JobError, Snapshot

#: Each prior may grow or shrink by this factor, at most. Maximisation trusts the model's confidence: where that means
#: little, it drives a label to 0, which is then never said again. Labels that are few may do so by chance. A mix that
#: truly moved further, by 20 points from a share of 5 %, is followed most of the way.
FURTHEST = 4.0

#: And no further than this from what the model learned, by however many moves. Texts of one kind may never have a label
#: that others have: move by move it would be gone for good, as no learning takes a bias back that is so far off.
FURTHEST_IN_ALL = 16.0

#: What was known before counts as this many texts: the old priors beside unlabelled texts, and what these say beside
#: labels. Less follows chance where nothing moved; more is late where it did.
BEFORE = 30

#: Chance of moving priors that have not moved. On real streams whose mix had moved by 20 points, 300 texts without a
#: label showed it 4 times in 5.
ALPHA = 0.05

#: Texts from before the mix moved, at least: of 100, a share of 30 % is off by 4.6 points (one standard deviation).
LEAST_BEFORE = 100

#: Maximisation has come to rest when no prior moves by more than this. It took 40 rounds at most on real streams.
REST, ROUNDS = 1e-6, 1_000

Floats = npt.NDArray[np.float64]


class Moved(NamedTuple):
    """A model with its bias moved; `old` and `new` priors by label, and how many labels and texts told the new ones.

    `odds` are how much likelier it takes each label to be than it had learned.
    """

    model: LoadedModel
    old: dict[str, float]
    new: dict[str, float]
    odds: dict[str, float]
    labels: int
    texts: int


def new_priors(probabilities: Floats, old: Floats, counts: Floats) -> Floats:
    """How common each label is, `[labels]`, summing to 1; each within `FURTHEST` of its `old` share.

    Labels are believed more than texts, as they owe nothing to the model; neither, where it says no more than chance.

    Args:
        probabilities: what the model says of unlabelled texts of the new mix, `[texts, labels]`.
        old: what it said on average of texts of the old mix, `[labels]`, summing to 1. Not how common they truly were:
            what the model is wrong about is in both averages, and their ratio is free of it.
        counts: how often each was the label of other texts of the new mix, `[labels]`.
    """
    old = np.maximum(old, SMALLEST)
    by_texts = _maximised(probabilities, old)
    if _is_chance(float(np.log(probabilities @ (by_texts / old) + SMALLEST).sum()), len(old)):
        by_texts = old
    by_labels = (counts + BEFORE * by_texts) / (counts.sum() + BEFORE)
    if _is_chance(float(counts @ np.log(by_labels / by_texts)), len(old)):
        by_labels = by_texts
    return _bounded(by_labels, old, FURTHEST)


def _is_chance(likelier: float, labels: int) -> bool:
    """Whether a mix that fits better by this log-likelihood may do so by chance alone (Wilks 1938)."""
    return bool(chi2.sf(2 * likelier, labels - 1) >= ALPHA)


def _maximised(probabilities: Floats, old: Floats) -> Floats:
    """The likeliest priors, with the old ones counting as `BEFORE` texts (a Dirichlet prior)."""
    new = old
    for _ in range(ROUNDS):
        odds = probabilities * (new / old)
        share = odds / np.maximum(odds.sum(axis=1, keepdims=True), SMALLEST)
        before, new = new, (share.sum(axis=0) + BEFORE * old) / (len(probabilities) + BEFORE)
        if np.abs(new - before).max() <= REST:
            break
    return new


def _bounded(new: Floats, old: Floats, furthest: float) -> Floats:
    """`new` as far as no ratio to `old` is beyond `furthest`; what sums to 1 among those is one scale of it."""

    def clipped(scale: float) -> Floats:
        within: Floats = np.clip(np.exp(scale) * new, old / furthest, old * furthest)
        return within

    widest = float(np.log(furthest / SMALLEST))
    return clipped(brentq(lambda scale: clipped(scale).sum() - 1, -widest, widest))


def moved(job: Job, snapshot: Snapshot, compute: Compute) -> Moved:
    """The job's parent with its bias moved to where the label mix is since `job.since`.

    The champion may have followed it before: it has the parent's weights then, and another bias. What it expects is
    what the mix is compared with; what the parent learned to expect is what the bias stays near.

    Texts of before and after the move are the new and the unlabelled ones of the snapshot: they come as the stream
    brings them, where replayed and held-out ones are kept in a balance of labels that no stream has.

    Raises:
        JobError: too few texts of before, or none of after.
    """
    if job.parent is None:
        raise JobError("there is no parent whose bias could be moved", "name one in job.json")
    model = load(job.parent, compute.device)
    champion = load(job.champion, compute.device) if job.champion else model
    before = [one.text for one in snapshot.new if one.timestamp < job.since]
    before += [one.text for one in snapshot.unlabelled if one.timestamp < job.since]
    after = [one.text for one in snapshot.unlabelled if one.timestamp >= job.since]
    labelled = [one.label for one in snapshot.new if one.timestamp >= job.since]
    if len(before) < LEAST_BEFORE:
        raise JobError(
            f"only {len(before)} texts are from before the label mix moved, and it takes {LEAST_BEFORE} to know it",
            "wait for more before the next run, or learn by another method",
        )
    if not (after or labelled):
        raise JobError("no text is from after the label mix moved", "wait for some")
    old = _said(champion, before, compute).mean(axis=0)
    counts = np.array([labelled.count(label) for label in model.labels], dtype=np.float64)
    new = new_priors(_said(champion, after, compute), old, counts)
    learned = np.maximum(_said(model, before, compute).mean(axis=0) if job.champion else old, SMALLEST)
    wanted = learned * np.exp(_log_odds(champion) - _log_odds(model)) * new / np.maximum(old, SMALLEST)
    odds = _bounded(wanted / wanted.sum(), learned, FURTHEST_IN_ALL) / learned
    _move_bias(model, np.log(odds))
    return Moved(
        model,
        old=_by_label(model, old),
        new=_by_label(model, new),
        odds=_by_label(model, odds),
        labels=len(labelled),
        texts=len(after),
    )


def _said(model: LoadedModel, texts: Sequence[str], compute: Compute) -> Floats:
    return answers(model, texts, model.labels, compute).astype(np.float64)


def _by_label(model: LoadedModel, shares: Floats) -> dict[str, float]:
    return dict(zip(model.labels, map(float, shares), strict=True))


def _log_odds(model: LoadedModel) -> Floats:
    """What its bias adds to the log-odds of each label: logits are divided by the temperature when scoring."""
    bias: Floats = model.classifier.head.bias.detach().double().cpu().numpy()
    return bias / model.description.temperature


@torch.no_grad()
def _move_bias(model: LoadedModel, log_odds: Floats) -> None:
    bias = model.classifier.head.bias
    step = torch.from_numpy(log_odds * model.description.temperature)
    bias.add_(step.to(bias.device, bias.dtype))
