"""What each method adds to the loss or does to the gradient, against its formula."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from learners.data import Collate
from learners.methods.agem import AveragedGEM
from learners.methods.der import DarkExperienceReplay
from learners.methods.er_ace import AsymmetricCrossEntropy
from learners.methods.lwf import LearningWithoutForgetting
from learners.methods.mas import sensitivity
from learners.methods.si import SynapticIntelligence
from learners.methods.teacher import Teacher, ask
from learners.strategy import Logits, trained
from learners.training import training_rows
from tests.sentences import examples


@pytest.fixture
def logits(model, compute):
    return Logits(model.classifier, model.pad_id, compute).eval()


def batch(model, rows, logits):
    """As much of a strategy as a plugin reads in mid-step, over all of `rows`."""
    collated = Collate(model.pad_id)([(*row, at, 0) for at, row in enumerate(rows)])
    output = logits(collated[0]).detach().requires_grad_()
    losses = nn.functional.cross_entropy(output, collated[1], reduction="none")
    return SimpleNamespace(
        model=logits,
        device="cpu",
        plugins=[],
        mbatch=list(collated),
        mb_output=output,
        loss=(losses * collated[2]).mean(),
    )


def test_the_teacher_is_the_parent_on_the_labels_it_knows(model, compute, logits):
    rows = training_rows(model, examples(12))
    teacher = ask(model, rows, ["positive", "mixed", "negative"], compute)
    assert teacher.known.tolist() == [0, 2]
    said = logits(Collate(model.pad_id)([(*row, 0, 0) for row in rows])[0]).detach()
    torch.testing.assert_close(teacher.logits, said[:, [2, 0]])


@pytest.mark.parametrize(("strength", "temperature"), [(1.0, 2.0), (0.3, 1.0)])
def test_lwf_pulls_the_new_rows_towards_the_parent(model, logits, strength, temperature):
    rows = training_rows(model, examples(6))
    strategy = batch(model, rows, logits)
    before = strategy.loss.detach().clone()
    said = torch.randn((4, 2), generator=torch.Generator().manual_seed(0))
    plugin = LearningWithoutForgetting(
        strength=strength, temperature=temperature, teacher=Teacher(said, torch.tensor([0, 2]))
    )
    plugin.before_backward(strategy)
    p, q = ((one / temperature).softmax(-1) for one in (said, strategy.mb_output[:4, [0, 2]].detach()))
    expected = strength * temperature**2 * (p * (p / q).log()).sum() / 6
    assert float((strategy.loss - before).detach()) == pytest.approx(float(expected), rel=1e-4)


def test_der_keeps_the_logits_of_the_replayed_rows(model, logits):
    rows = training_rows(model, examples(6))
    strategy = batch(model, rows, logits)
    before = strategy.loss.detach().clone()
    said = strategy.mb_output[4:, [0, 1]].detach() + torch.tensor([[1.0, -2.0], [0.0, 3.0]])
    plugin = DarkExperienceReplay(strength=0.5, teacher=Teacher(said, torch.tensor([0, 1])), first=4)
    plugin.before_backward(strategy)
    assert float((strategy.loss - before).detach()) == pytest.approx(0.5 * ((1 + 4) / 2 + 9 / 2) / 6, rel=1e-4)


def test_er_ace_learns_new_rows_over_their_own_classes_and_replayed_ones_over_all(model, logits):
    new = [example for example in examples(9) if example.label != "neutral"]
    rows = training_rows(model, [*new, *examples(3)])
    strategy = batch(model, rows, logits)
    plugin = AsymmetricCrossEntropy(rows[: len(new)], 3)
    plugin.before_training_exp(strategy)
    plugin.before_backward(strategy)
    (gradient,) = torch.autograd.grad(strategy.loss, strategy.mb_output)
    # By its definition: the columns of the missing class left out, not taken back.
    output = strategy.mb_output.detach().requires_grad_()
    narrow = nn.functional.cross_entropy(
        output[: len(new), [0, 2]], strategy.mbatch[1][: len(new)] // 2, reduction="sum"
    )
    wide = nn.functional.cross_entropy(output[len(new) :], strategy.mbatch[1][len(new) :], reduction="sum")
    (expected,) = torch.autograd.grad((narrow + wide) / len(rows), output)
    torch.testing.assert_close(gradient, expected)
    assert float(gradient[: len(new), 1].abs().max()) < 1e-7


def gradient_of(strategy):
    return torch.cat([weight.grad.view(-1) for _, weight in trained(strategy.model) if weight.grad is not None])


def with_gradient(model, rows, logits, direction=1.0):
    strategy = batch(model, rows, logits)
    logits.zero_grad()
    losses = nn.functional.cross_entropy(logits(strategy.mbatch[0]), strategy.mbatch[1])
    (direction * losses).backward()
    return strategy


def test_agem_bends_a_step_that_harms_the_replayed_rows_and_no_other(model, logits):
    rows = training_rows(model, examples(6))
    helped = with_gradient(model, rows, logits)
    reference = gradient_of(helped)
    AveragedGEM(rows, 6, 0).before_update(helped)
    torch.testing.assert_close(gradient_of(helped), reference)

    harmful = with_gradient(model, rows, logits, direction=-1.0)
    harmful.model.classifier.head.bias.grad += torch.tensor([1.0, -2.0, 0.5])
    assert float(torch.dot(gradient_of(harmful), reference)) < 0
    AveragedGEM(rows, 6, 0).before_update(harmful)
    bent = gradient_of(harmful)
    assert float(torch.dot(bent, reference)) == pytest.approx(0, abs=1e-5)
    assert float(bent.norm()) > 0.1


def test_mas_is_the_mean_sensitivity_of_the_outputs(model, logits):
    rows = training_rows(model, examples(12))
    measured = sensitivity(logits, rows, 100, seed=0)
    # |logits|² has the gradient 2 * logits in the bias of the head.
    ids = Collate(model.pad_id)([(*row, 0, 0) for row in rows])[0]
    torch.testing.assert_close(measured["head.bias"], (2 * logits(ids)).abs().mean(0).detach())
    assert set(measured) == {name for name, _ in trained(logits)}


def test_si_credits_the_weights_with_the_fall_of_the_loss(model, logits):
    rows = training_rows(model, examples(12))
    plugin = SynapticIntelligence(strength=1.0, decay=0.9, importance=None)
    optimiser = torch.optim.SGD(logits.parameters(), lr=1e-3)
    plugin.before_training_exp(SimpleNamespace(model=logits, device="cpu", plugins=[]))
    losses = []
    for _ in range(20):
        strategy = with_gradient(model, rows, logits)
        losses.append(float(strategy.loss.detach()))
        plugin.before_update(strategy)
        optimiser.step()
        plugin.after_update(strategy)
    credited = sum(float(one.sum()) for one in plugin._gained.values())
    assert credited == pytest.approx(losses[0] - float(batch(model, rows, logits).loss.detach()), rel=0.05)
    assert all(bool((one >= 0).all()) for one in plugin.measure(strategy).values())
