import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from learners.device import Compute
from learners.model import SKETCH_DIMENSIONS
from learners.scoring import batches_by_length, forward_batches
from tests.sentences import examples


@given(st.lists(st.integers(1, 200), max_size=60), st.integers(1, 500))
def test_every_text_is_in_one_batch_and_no_batch_is_over_budget(lengths, budget):
    batches = batches_by_length(lengths, budget)
    assert sorted(at for batch in batches for at in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(lengths[at] for at in batch) <= budget


def test_a_score_depends_neither_on_its_neighbours_nor_on_its_batch(model, compute):
    tokens = model.tokenise([example.text for example in examples(40)])
    together = forward_batches(model, tokens, 10_000, compute)
    for budget in (1, 37, 128):
        apart = forward_batches(model, tokens, budget, compute)
        np.testing.assert_allclose(apart.probabilities, together.probabilities, atol=1e-6)
        np.testing.assert_allclose(apart.sketches, together.sketches, atol=1e-6)
    backwards = forward_batches(model, tokens[::-1], 128, compute)
    np.testing.assert_allclose(backwards.probabilities[::-1], together.probabilities, atol=1e-6)


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_probabilities_sum_to_one(model, precision):
    tokens = model.tokenise([example.text for example in examples(20)])
    scored = forward_batches(model, tokens, 64, Compute(torch.device("cpu"), precision))
    assert scored.probabilities.dtype == scored.sketches.dtype == np.float32
    assert scored.probabilities.shape == (20, 3)
    assert scored.sketches.shape == (20, SKETCH_DIMENSIONS)
    np.testing.assert_allclose(scored.probabilities.sum(1), 1, atol=1e-5)


def test_nothing_to_score_is_no_scores(model, compute):
    scored = forward_batches(model, [], 64, compute)
    assert scored.probabilities.shape == (0, 3)
    assert scored.sketches.shape == (0, SKETCH_DIMENSIONS)
