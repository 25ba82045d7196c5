"""Parent and candidate on the same examples, side by side."""

import time
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet

import numpy as np

from learners.device import Compute
from learners.evaluation import Probabilities
from learners.job import Example, Judged, Swapped
from learners.model import LoadedModel, Tokens
from learners.scoring import batches_by_length, forward_batches

#: Padded tokens in a timed batch: small, so that even a small gate is timed over several.
TOKEN_BUDGET = 2048

#: A model is timed over at least this many texts, by repeating a small gate.
TIMED_TEXTS = 512


def judge(
    models: Sequence[LoadedModel], tokens: Sequence[Tokens], labels: list[str], compute: Compute
) -> list[tuple[Probabilities, float]]:
    """Each model's probabilities on `tokens`, in the order of `labels`, and the seconds it takes to score them all.

    The models take turns batch by batch, and of several rounds each batch's fastest counts, so that what else the
    machine does falls on all alike.
    """
    batches = batches_by_length([len(ids) for ids in tokens], TOKEN_BUDGET)
    rounds = max(1, -(-TIMED_TEXTS // len(tokens)))
    probabilities = [np.zeros((len(tokens), len(labels)), np.float32) for _ in models]
    seconds = np.full((rounds, len(batches), len(models)), np.inf)
    for model in models:
        # The first pass through a model allocates and picks kernels.
        forward_batches(model, [tokens[at] for at in batches[0]], TOKEN_BUDGET, compute)
    for turn in range(rounds):
        for number, batch in enumerate(batches):
            texts = [tokens[at] for at in batch]
            for which, model in enumerate(models):
                started = time.perf_counter()
                scored = forward_batches(model, texts, TOKEN_BUDGET, compute)
                seconds[turn, number, which] = time.perf_counter() - started
                probabilities[which][batch] = in_order(scored.probabilities, model.labels, labels)
    totals = seconds.min(0).sum(0)
    return [(probabilities[which], float(totals[which])) for which in range(len(models))]


def answers(model: LoadedModel, texts: Sequence[str], labels: list[str], compute: Compute) -> Probabilities:
    """The model's probabilities on `texts`, in the order of `labels`."""
    scored = forward_batches(model, model.tokenise(texts), TOKEN_BUDGET, compute)
    return in_order(scored.probabilities, model.labels, labels)


def side_by_side(
    examples: Sequence[Example],
    parent: Probabilities | None,
    candidate: Probabilities,
    *,
    chosen: AbstractSet[str] = frozenset(),
    tempered: AbstractSet[str] = frozenset(),
    swapped: Mapping[str, Swapped] | None = None,
) -> Iterator[Judged]:
    """What both models say of each of `examples`; `chosen` are the ids that something was chosen on.

    `tempered` are those that the temperature was fitted to.
    """
    for at, example in enumerate(examples):
        yield Judged(
            id=example.id,
            label=example.label,
            source=example.source,
            key=example.key,
            group=example.group,
            parent=None if parent is None else parent[at].tolist(),
            candidate=candidate[at].tolist(),
            selected=example.id in chosen,
            tempered=example.id in tempered,
            swapped=(swapped or {}).get(example.id),
        )


def in_order(probabilities: Probabilities, given: list[str], wanted: list[str]) -> Probabilities:
    """The columns of `probabilities` (labels `given`) for the labels `wanted`; 0 for those a model does not know."""
    if given == wanted:
        return probabilities
    columns = np.zeros((len(probabilities), len(wanted)), np.float32)
    for to, label in enumerate(wanted):
        if label in given:
            columns[:, to] = probabilities[:, given.index(label)]
    return columns
