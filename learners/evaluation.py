"""How good a model's probabilities are, in plain numpy.

Throughout, `probabilities` is `[examples, labels]` and `truth` is `[examples]`, the position of each true label.
"""

import numpy as np
import numpy.typing as npt

#: Least probability that log loss sees, so that one certain mistake costs 27.6 and not infinity.
SMALLEST = 1e-12

#: Bins of the calibration error, as in Guo et al. 2017.
BINS = 15

Probabilities = npt.NDArray[np.float32]
Truth = npt.NDArray[np.int64]


def accuracy(probabilities: Probabilities, truth: Truth) -> float:
    """Share of examples whose likeliest label is the true one; 0 to 1."""
    return float(np.mean(probabilities.argmax(1) == truth))


def macro_f1(probabilities: Probabilities, truth: Truth) -> float:
    """Mean F1 over the labels that occur in `truth`; 0 to 1.

    A label that does not occur has no recall, and would only count how often it is missing from the sample. It still
    costs: predicting it is a miss for the label that was true. This is scikit-learn's `f1_score(average="macro",
    labels=unique(truth))`.
    """
    predicted = probabilities.argmax(1)
    scores = []
    for label in np.unique(truth):
        right = np.sum((predicted == label) & (truth == label))
        scores.append(2 * right / (np.sum(predicted == label) + np.sum(truth == label)))
    return float(np.mean(scores))


def log_loss(probabilities: Probabilities, truth: Truth) -> float:
    """Mean negative log-probability of the true label, in nats."""
    given = probabilities[np.arange(len(truth)), truth].astype(np.float64)
    return float(-np.mean(np.log(np.maximum(given, SMALLEST))))


def calibration_error(probabilities: Probabilities, truth: Truth) -> float:
    """Expected calibration error: how far confidence is from accuracy, over bins of equal mass; 0 to 1.

    Naeini et al. 2015, "Obtaining Well Calibrated Probabilities Using Bayesian Binning"; bins of equal mass as in
    Nixon et al. 2019, "Measuring Calibration in Deep Learning".
    """
    confidence = probabilities.max(1).astype(np.float64)
    return float(calibration_errors(confidence[None], (probabilities.argmax(1) == truth)[None])[0])


def calibration_errors(confidence: npt.NDArray[np.float64], right: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """Of several models at once, `[models]`: both are `[models, examples]`, of at least one example."""
    examples = confidence.shape[1]
    gaps = np.take_along_axis(confidence - right, np.argsort(confidence, axis=1, kind="stable"), axis=1)
    # Fewer examples than bins are a bin each.
    starts = np.unique(np.linspace(0, examples, BINS, endpoint=False).astype(np.int64))
    errors: npt.NDArray[np.float64] = np.abs(np.add.reduceat(gaps, starts, axis=1)).sum(axis=1) / examples
    return errors
