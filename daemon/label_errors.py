"""Which labels are likely wrong, by confident learning (Northcutt, Jiang & Chuang 2021, JAIR 70) with cleanlab.

The champion's own probabilities will not do: of a domain that it has not learned it is confidently wrong, and what is
to be learned would be thrown away (a quarter of all labels on a stream of six domains, one in six of them rightly). So
a logistic regression that has seen these very labels, by cross-validation never the one that it judges, says how
likely each is, from what the champion makes of the text: its sketch and its probabilities.
"""

import json
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from daemon.waiting import Scored

#: Examples below which a cross-check would be a guess; and of the rarest label, below which that one is not judged.
MIN_EXAMPLES = 200
MIN_OF_LABEL = 10

#: Parts of the cross-validation.
FOLDS = 5

#: Strength of the regression (inverse penalty), and of sketches beside log probabilities: of .1 to 1 and 1 to 3, the
#: ones that found the most flipped labels at equal precision on the stream above.
INVERSE_PENALTY = 0.1
SKETCH_SCALE = 3.0

#: Never more of one label than this, however many look wrong: then it is the check that is.
MOST_OF_LABEL = 0.2

Values = npt.NDArray[np.float64]


def likely_errors(
    given: Sequence[str], scored: Sequence[Scored], *, below: float, seed: int
) -> dict[int, tuple[str, float]]:
    """The places of labels that are likely wrong, each with the label it should rather have and how likely `given` is.

    `given` are the labels of `scored`, all sketched by one version. `below` is how likely a label must be to be left.
    """
    # Heavy, and only needed before a run.
    from cleanlab.filter import find_label_issues
    from cleanlab.rank import get_label_quality_scores

    names, labels, counts = np.unique(np.array(given), return_inverse=True, return_counts=True)
    frequent = np.flatnonzero(counts >= MIN_OF_LABEL)
    used = np.flatnonzero(np.isin(labels, frequent))
    if len(used) < MIN_EXAMPLES or len(frequent) < 2:
        return {}
    own = np.searchsorted(frequent, labels[used])
    chances = _cross_checked(_features([scored[int(at)] for at in used]), own, seed)
    quality: Values = get_label_quality_scores(own, chances, method="self_confidence")
    issues = find_label_issues(own, chances, filter_by="confident_learning", n_jobs=1) & (quality < below)
    found = {}
    for label in range(len(frequent)):
        of_label = np.flatnonzero(issues & (own == label))
        most = int(MOST_OF_LABEL * np.count_nonzero(own == label))
        for at in of_label[np.argsort(quality[of_label], kind="stable")][:most]:
            found[int(used[at])] = (str(names[frequent[int(chances[at].argmax())]]), float(quality[at]))
    return found


def _features(scored: Sequence[Scored]) -> Values:
    """`[n, 64 + labels]`: the sketch, and the logarithms of the probabilities less their mean."""
    sketches = np.array([one.vector for one in scored], dtype=np.float64)
    rows = [json.loads(one.probabilities or "{}") for one in scored]
    names = sorted({name for row in rows for name in row})
    logs = np.log(np.clip([[row.get(name, 0.0) for name in names] for row in rows], 1e-4, 1.0))
    return np.concatenate([SKETCH_SCALE * sketches, logs - logs.mean(axis=1, keepdims=True)], axis=1)


def _cross_checked(features: Values, labels: npt.NDArray[np.integer], seed: int) -> Values:
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_predict

    chances: Values = cross_val_predict(
        LogisticRegression(C=INVERSE_PENALTY, max_iter=500),
        features,
        labels,
        cv=StratifiedKFold(FOLDS, shuffle=True, random_state=seed % 2**32),
        method="predict_proba",
    )
    return chances
