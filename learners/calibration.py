"""Probabilities that mean what they say: one temperature for all logits, fitted on held-out examples.

Guo et al. 2017, "On Calibration of Modern Neural Networks". The likeliest label never changes by it.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from learners.device import Compute
from learners.evaluation import SMALLEST, Truth
from learners.job import Example
from learners.judging import TOKEN_BUDGET
from learners.model import LoadedModel
from learners.scoring import forward_batches

#: Temperatures are looked for between 1/10 and 10; a model that needs one outside is no good at any.
WIDEST = float(np.log(10.0))

#: Standard deviation of the logarithm of a temperature before any example was seen. It keeps a handful of examples,
#: all right by luck, from making a model certain; against a hundred it hardly counts.
PRIOR = 0.5


def calibrated(model: LoadedModel, choosing: Sequence[Example], compute: Compute) -> LoadedModel:
    """The same weights, with the temperature that fits `choosing` best; as it is without any."""
    if not choosing:
        return model
    plain = model.with_temperature(1.0)
    tokens = plain.tokenise([example.text for example in choosing])
    plain.classifier.eval()
    probabilities = forward_batches(plain, tokens, TOKEN_BUDGET, compute).probabilities.astype(np.float64)
    truth = np.array([plain.labels.index(example.label) for example in choosing], dtype=np.int64)
    groups = [example.group for example in choosing]
    return plain.with_temperature(fit_temperature(np.log(np.maximum(probabilities, SMALLEST)), truth, groups))


def fit_temperature(logits: npt.NDArray[np.float64], truth: Truth, groups: Sequence[str]) -> float:
    """What to divide `logits` `[examples, labels]` by, so that they fit `truth` `[examples]` best.

    The maximum a posteriori; 1.0 without examples. Rows that are not numbers are left out. Each of the `groups`
    counts alike, as much as the smallest: old examples are many more than fresh ones, and would decide alone.
    """
    whole = np.isfinite(logits).all(axis=1)
    given, true, grouped = logits[whole], truth[whole], np.array(groups, dtype=object)[whole]
    if not len(true):
        return 1.0
    _, group, sizes = np.unique(grouped, return_inverse=True, return_counts=True)
    weights = sizes.min() / sizes[group]

    def cost(log_temperature: float) -> float:
        fit = log_softmax(given / np.exp(log_temperature), axis=1)[np.arange(len(true)), true]
        return float(-(weights * fit).sum() + (log_temperature / PRIOR) ** 2 / 2)

    found = minimize_scalar(cost, bounds=(-WIDEST, WIDEST), method="bounded", options={"xatol": 1e-4})
    return float(np.exp(found.x))
