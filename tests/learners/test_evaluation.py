import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from sklearn.metrics import accuracy_score, f1_score

from learners.evaluation import accuracy, log_loss, macro_f1

counts = st.shared(st.integers(1, 30), key="n")


@given(
    arrays.arrays(np.float32, st.tuples(counts, st.just(4)), elements=st.floats(0, 1, width=32)),
    arrays.arrays(np.int64, counts, elements=st.integers(0, 3)),
)
def test_agrees_with_scikit_learn(probabilities, truth):
    predicted = probabilities.argmax(1)
    assert accuracy(probabilities, truth) == pytest.approx(accuracy_score(truth, predicted))
    expected = f1_score(truth, predicted, average="macro", labels=np.unique(truth), zero_division=0)
    assert macro_f1(probabilities, truth) == pytest.approx(expected)


def test_a_label_that_never_occurs_is_not_averaged_in():
    probabilities = np.eye(3, dtype=np.float32)[[0, 2, 0]]
    assert macro_f1(probabilities, np.array([0, 2, 0])) == 1.0


def test_a_certain_mistake_costs_much_but_not_infinitely():
    probabilities = np.array([[1.0, 0.0]], dtype=np.float32)
    assert log_loss(probabilities, np.array([1])) == pytest.approx(27.63, abs=0.01)
    assert log_loss(probabilities, np.array([0])) == 0.0
