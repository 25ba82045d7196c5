"""What two models know, apart from the label mix that each has been told to expect."""

from collections.abc import Sequence

import numpy as np

from daemon.gate.answers import Answers, Floats, probabilities
from learners.evaluation import SMALLEST
from learners.job import Judged

#: The fit has come to rest when no label is expected to be more or less common than it is by more than this.
REST, ROUNDS = 1e-4, 1_000


def in_mix_of_past(judged: Sequence[Judged], labels: Sequence[str]) -> list[Judged]:
    """The same, as if each of the models had been told the label mix of the old examples among them.

    A model that follows the label mix gives up being right about the mix before, which is what it is for, and would
    seem to have forgotten the labels that became rare. A champion that does so says the common label of nearly
    everything: beside it nothing that learns would seem to forget, and whatever it calls by its name again would seem
    to hang on names. So both get the bias that fits the past, and what is left to differ is what they know.
    """
    old = Answers.of([row for row in judged if row.group == "old" and not row.selected], labels)
    if not len(old):
        return list(judged)
    parent, candidate = (factors(said, old.truth) for said in (old.parent, old.candidate))
    return [
        row.model_copy(
            update={
                "parent": row.parent and _times(row.parent, parent),
                "candidate": _times(row.candidate, candidate),
                "swapped": row.swapped
                and row.swapped.model_copy(
                    update={
                        "parent": row.swapped.parent and _times(row.swapped.parent, parent),
                        "candidate": _times(row.swapped.candidate, candidate),
                    }
                ),
            }
        )
        for row in judged
    ]


def factors(said: Floats, truth: np.typing.NDArray[np.int64]) -> Floats:
    """What to multiply each label's odds by, `[labels]`, for the labels to be as common as they are (likeliest bias).

    By generalised iterative scaling (Darroch & Ratcliff 1972). A label that `truth` never has, or that the model does
    not know, keeps its odds.

    Args:
        said: probabilities, `[examples, labels]`.
        truth: indices of the true labels, `[examples]`.
    """
    counts = np.bincount(truth, minlength=said.shape[1]).astype(np.float64)
    there = (counts > 0) & (said.max(axis=0) > SMALLEST)
    counts, said = counts[there], said[there[truth]][:, there]
    scale = np.ones(len(counts))
    for _ in range(ROUNDS):
        odds = said * scale
        expected = (odds / np.maximum(odds.sum(axis=1, keepdims=True), SMALLEST)).sum(axis=0)
        scale *= counts / np.maximum(expected, SMALLEST)
        if np.abs(expected - counts).max() <= REST * counts.sum():
            break
    found: Floats = np.ones(len(there))
    found[there] = scale / scale.mean()
    return found


def _times(said: Sequence[float], found: Floats) -> list[float]:
    odds = probabilities([said], len(found))[0] * found
    times: list[float] = (odds / max(odds.sum(), SMALLEST)).tolist()
    return times
