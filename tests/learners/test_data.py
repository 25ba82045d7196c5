import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from learners.data import CHUNK, Collate, LengthGroupedBatches, Row, stream


@given(st.lists(st.integers(1, 60), max_size=200), st.integers(1, 16), st.integers(0, 3))
def test_an_epoch_holds_every_example_once(lengths, size, seed):
    sampler = LengthGroupedBatches(lengths, size, seed)
    for _ in range(2):
        batches = list(sampler)
        assert sorted(at for batch in batches for at in batch) == list(range(len(lengths)))
        assert len(batches) == len(sampler)
        assert all(len(batch) <= size for batch in batches)


def test_batches_are_of_like_length_and_differ_between_epochs_but_not_between_runs():
    lengths = np.random.default_rng(0).integers(4, 128, CHUNK * 8).tolist()

    def padded(batches):
        return sum(len(batch) * max(lengths[at] for at in batch) for batch in batches)

    sampler, again = LengthGroupedBatches(lengths, 8, 0), LengthGroupedBatches(lengths, 8, 0)
    first, second = list(sampler), list(sampler)
    assert first != second
    assert [first, second] == [list(again), list(again)]
    assert padded(first) < 1.1 * sum(lengths)


def test_a_batch_is_what_avalanche_plugins_expect():
    rows = [Row(np.array([2, 5, 3], np.int32), 1, 0.5), Row(np.array([2, 3], np.int32), 0, 1.5)]
    dataset = stream([rows], pad_id=0)[0].dataset
    ids, labels, weights, positions, tasks = dataset.collate_fn([dataset[0], dataset[1]])
    assert ids.tolist() == [[2, 5, 3], [2, 3, 0]]
    assert (ids.dtype, labels.dtype, weights.dtype) == (torch.int64, torch.int64, torch.float32)
    assert labels.tolist() == [1, 0]
    assert weights.tolist() == [0.5, 1.5]
    assert positions.tolist() == [0, 1]
    assert tasks.tolist() == [0, 0]
    assert dataset.collate_fn == Collate(0)
    assert list(dataset.targets) == [1, 0]
