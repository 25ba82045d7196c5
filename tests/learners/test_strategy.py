import numpy as np
import pytest
import torch
from avalanche.training.plugins import (
    AGEMPlugin,
    EWCPlugin,
    GDumbPlugin,
    LwFPlugin,
    ReplayPlugin,
    SynapticIntelligencePlugin,
)
from hypothesis import given
from hypothesis import strategies as st

from learners.data import stream
from learners.device import seed_everything
from learners.scoring import forward_batches
from learners.strategy import MOST_PASSES, Logits, TextStrategy, optimiser, rate
from learners.training import training_rows
from tests.sentences import examples


def learn(model, job, compute, parts, plugins=()):
    seed_everything(job.seed)
    strategy = TextStrategy(
        model=Logits(model.classifier, model.pad_id, compute), job=job, compute=compute, plugins=plugins
    )
    steps = []
    for experience in stream([training_rows(model, part) for part in parts], model.pad_id):
        strategy.train(experience, eval_streams=[])
        steps.append(strategy.step)
    strategy.model.eval()
    return strategy, steps


@given(st.integers(1, 500), st.floats(0, 1))
def test_the_rate_rises_to_its_peak_and_falls_and_is_never_zero(steps, share):
    rates = [rate(step, steps, share) for step in range(steps)]
    peak = rates.index(max(rates))
    assert max(rates) == 1
    assert min(rates) > 0
    assert rates[: peak + 1] == sorted(rates[: peak + 1])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)


@pytest.mark.parametrize(("epochs", "steps"), [(1, 3), (2, 6), (0.5, 2), (1.5, 5), (0.01, 1)])
def test_a_fraction_of_an_epoch_is_that_fraction_of_its_steps(model, job, compute, epochs, steps):
    _, taken = learn(model, job.model_copy(update={"epochs": epochs}), compute, [examples(24)])
    assert taken == [steps]


# Avalanche's plugins call what Avalanche has deprecated, and hand tensors to numpy 2 as numpy 1 took them.
@pytest.mark.filterwarnings("ignore:Call to deprecated function:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:__array_wrap__:DeprecationWarning")
@pytest.mark.parametrize(
    "plugin",
    [
        lambda: LwFPlugin(alpha=0.5),
        lambda: EWCPlugin(ewc_lambda=1e6, mode="online", decay_factor=0.9),
        lambda: AGEMPlugin(patterns_per_experience=8, sample_size=8),
        lambda: ReplayPlugin(mem_size=12),
        lambda: GDumbPlugin(mem_size=12),
        lambda: SynapticIntelligencePlugin(si_lambda=0.1),
    ],
    ids=["lwf", "ewc", "agem", "replay", "gdumb", "si"],
)
def test_a_plugin_of_avalanche_can_be_passed(model, job, compute, plugin):
    before = model.classifier.head.weight.detach().clone()
    strategy, steps = learn(model, job, compute, [examples(24), examples(24, offset=24)], [plugin()])
    assert min(steps) > 0
    assert bool(torch.isfinite(strategy.model.classifier.head.weight).all())
    assert not torch.equal(strategy.model.classifier.head.weight, before)


def test_decay_and_rates_survive_avalanche_taking_the_optimiser_over(model, job, compute):
    strategy, _ = learn(model, job, compute, [examples(24), examples(24)])
    decays = {
        name: group["weight_decay"]
        for group in strategy.optimizer.param_groups
        for name, parameter in strategy.model.named_parameters()
        if any(parameter is one for one in group["params"])
    }
    assert len(decays) == len(list(strategy.model.parameters()))
    assert {name for name, decay in decays.items() if not decay} == {
        name for name in decays if name.endswith("bias") or "LayerNorm" in name
    }
    assert len(optimiser(strategy.model, 1.0, 0.01).param_groups) == len(strategy.optimizer.param_groups)


def test_of_two_labels_for_one_text_the_heavier_wins(model, job, compute):
    text = examples(1)[0]
    rows = [text.model_copy(update={"weight": 9.0}), text.model_copy(update={"label": "positive", "weight": 1.0})] * 12
    learn(model, job, compute, [rows])
    (scored,) = forward_batches(model, model.tokenise([text.text]), 64, compute).probabilities
    assert scored.argmax() == 0
    learn(model, job, compute, [[row.model_copy(update={"weight": 10 - row.weight}) for row in rows]] * 2)
    (scored,) = forward_batches(model, model.tokenise([text.text]), 64, compute).probabilities
    assert scored.argmax() == 2


def test_weights_are_relative(model):
    heavy = [example.model_copy(update={"weight": 8.0}) for example in examples(6)]
    assert np.allclose([row.weight for row in training_rows(model, heavy)], 1)


@pytest.mark.parametrize(
    ("settings", "steps"),
    [
        ({"epochs": 1, "min_steps": 10}, 10),
        ({"epochs": 1, "min_steps": 1_000}, 3 * MOST_PASSES),
        ({"epochs": 4, "min_steps": 10}, 12),
        ({"epochs": 4, "max_steps": 5}, 5),
    ],
)
def test_steps_have_bounds(model, job, compute, settings, steps):
    _, taken = learn(model, job.model_copy(update=settings), compute, [examples(24)])
    assert taken == [steps]


def without_dropout(model):
    for part in model.classifier.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.0


@pytest.mark.parametrize("accumulate", [3, 100])
def test_a_batch_in_parts_teaches_what_it_teaches_whole(model, job, compute, accumulate):
    without_dropout(model)
    start = {name: one.clone() for name, one in model.classifier.state_dict().items()}
    weighted = [one.model_copy(update={"weight": 1.0 + at % 3}) for at, one in enumerate(examples(21))]
    ends = []
    for parts in (1, accumulate):
        model.classifier.load_state_dict(start)
        strategy, _ = learn(model, job.model_copy(update={"accumulate": parts}), compute, [weighted])
        ends.append(({name: one.clone() for name, one in model.classifier.state_dict().items()}, strategy.loss))
    (whole, loss), (gathered, same_loss) = ends
    torch.testing.assert_close(same_loss, loss, rtol=1e-3, atol=1e-5)
    for name, one in whole.items():
        torch.testing.assert_close(gathered[name], one, rtol=0, atol=2e-4)  # of steps of 2e-3 in Adam's sense
