from types import SimpleNamespace

import numpy as np
import pytest
import torch

from learners.methods import anchor, ewc
from learners.methods.ewc import OnlineEWC
from learners.model import ModelError
from learners.strategy import Logits
from learners.training import training_rows
from tests.learners.test_strategy import learn
from tests.sentences import examples


def consolidation(rows, importance=None, **settings):
    return OnlineEWC(
        **{"strength": 1.0, "decay": 0.9, "samples": 16, "seed": 0} | settings, rows=rows, importance=importance
    )


def at_rest(model, compute):
    """As much of a strategy as the plugin reads between two experiences."""
    return SimpleNamespace(model=Logits(model.classifier, model.pad_id, compute), device="cpu", plugins=[])


def exact(model, rows):
    """The Fisher information by its definition: over every label, at its probability, one example at a time."""
    weights = dict(model.classifier.named_parameters())
    fisher = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    for row in rows:
        log_probabilities = model(torch.from_numpy(row.ids.astype(np.int64))[None]).log_softmax(-1)[0]
        for log_probability in log_probabilities:
            gradients = torch.autograd.grad(
                log_probability, list(weights.values()), retain_graph=True, allow_unused=True
            )
            for information, gradient in zip(fisher.values(), gradients, strict=True):
                if gradient is not None:
                    information += log_probability.detach().exp() * gradient.detach() ** 2 / len(rows)
    return fisher


def test_the_estimate_is_the_fisher_information_on_average(model, compute):
    logits = Logits(model.classifier, model.pad_id, compute).eval()
    rows = training_rows(model, examples(8))
    true = exact(logits, rows)["head.weight"]
    draws = [ewc.fisher_diagonal(logits, rows, 8, seed)["head.weight"] for seed in range(400)]
    np.testing.assert_allclose(torch.stack(draws).mean(0), true, rtol=0.25)
    assert float(torch.stack(draws).mean(0).sum()) == pytest.approx(float(true.sum()), rel=0.05)


def test_moving_every_weight_by_a_unit_costs_half_the_strength():
    fisher = anchor.normalised({"a": torch.tensor([1.0, 3.0]), "b": torch.tensor([[0.5]])})
    assert sum(float(information.sum()) for information in fisher.values()) * anchor.UNIT**2 == pytest.approx(1)
    assert anchor.normalised({"a": torch.zeros(2)})["a"].tolist() == [0, 0]


def test_weights_that_do_not_train_are_left_out(model, compute):
    model.classifier.encoder.requires_grad_(False)
    rows = training_rows(model, examples(8))
    fisher = ewc.fisher_diagonal(Logits(model.classifier, model.pad_id, compute), rows, 8, 0)
    assert set(fisher) == {"head.weight", "head.bias"}


def test_without_a_past_there_is_no_penalty(model, job, compute):
    state = {name: tensor.clone() for name, tensor in model.classifier.state_dict().items()}
    plugin = consolidation(training_rows(model, examples(24)), strength=1e3)
    learn(model, job, compute, [examples(24)], [plugin])
    held = model.classifier.head.weight.detach().clone()
    model.classifier.load_state_dict(state)
    learn(model, job, compute, [examples(24)])
    assert torch.equal(model.classifier.head.weight, held)
    assert min(float(information.min()) for information in plugin.importance.values()) >= 0


def test_the_gradient_is_that_of_the_penalty(model, compute):
    rows = training_rows(model, examples(8))
    plugin = consolidation(rows, strength=3.0)
    strategy = at_rest(model, compute)
    plugin.after_training_exp(strategy)
    plugin.before_training_exp(strategy)
    anchors = {name: weight.detach().clone() for name, weight in model.classifier.named_parameters()}
    torch.manual_seed(0)
    for weight in model.classifier.parameters():
        weight.data += 1e-3 * torch.randn_like(weight)
        weight.grad = torch.zeros_like(weight)
    strategy.loss = torch.tensor(2.0)
    plugin.before_update(strategy)
    penalty = sum(
        3.0 / 2 * (plugin.importance[name] * (weight - anchors[name]) ** 2).sum()
        for name, weight in model.classifier.named_parameters()
    )
    assert float(strategy.loss) == pytest.approx(2 + float(penalty.detach()), rel=1e-4)
    for name, weight in model.classifier.named_parameters():
        (expected,) = torch.autograd.grad(penalty, weight, retain_graph=True)
        torch.testing.assert_close(weight.grad, expected, msg=name)


def test_the_stronger_the_penalty_the_less_what_matters_moves(model, job, compute, tmp_path):
    first = consolidation(training_rows(model, examples(24)))
    learn(model, job, compute, [examples(24)], [first])
    anchors = {name: weight.detach().clone() for name, weight in model.classifier.named_parameters()}
    state = {name: tensor.clone() for name, tensor in model.classifier.state_dict().items()}
    relabelled = [row.model_copy(update={"label": "neutral"}) for row in examples(24, offset=24)]
    moved = []
    for strength in (0.0, 1e-2, 1.0):
        model.classifier.load_state_dict(state)
        learn(model, job, compute, [relabelled], [consolidation(first.rows, first.importance, strength=strength)])
        moved.append(
            sum(
                float((first.importance[name] * (weight.detach() - anchors[name]) ** 2).sum())
                for name, weight in model.classifier.named_parameters()
            )
        )
    assert moved[0] > moved[1] > moved[2]


def test_the_past_fades_by_the_decay(model, job, compute):
    rows = training_rows(model, examples(24))
    plugin = consolidation(rows, decay=0.5)
    strategy = at_rest(model, compute)
    plugin.after_training_exp(strategy)
    once = {name: information.clone() for name, information in plugin.importance.items()}
    plugin.after_training_exp(strategy)
    for name, information in plugin.importance.items():
        torch.testing.assert_close(information, once[name] * 1.5)


def test_a_head_for_other_labels_starts_free(model, compute):
    rows = training_rows(model, examples(8))
    plugin = consolidation(rows)
    plugin.after_training_exp(at_rest(model, compute))
    grown = model.with_labels([*model.labels, "mixed"], seed=0)
    plugin.before_training_exp(at_rest(grown, compute))
    assert not {"head.weight", "head.bias"} & set(plugin.importance)
    assert "encoder.embeddings.word_embeddings.weight" in plugin.importance


def test_what_was_saved_is_what_is_loaded(model, compute, tmp_path):
    assert OnlineEWC.load(None) is None
    assert OnlineEWC.load(tmp_path) is None
    fisher = {"head.weight": torch.rand(3, 32)}
    consolidation([], fisher).save(tmp_path)
    loaded = OnlineEWC.load(tmp_path)
    assert loaded is not None
    assert torch.equal(loaded["head.weight"], fisher["head.weight"])
    whole = (tmp_path / OnlineEWC.FILE).read_bytes()
    (tmp_path / OnlineEWC.FILE).write_bytes(whole[:50])
    with pytest.raises(ModelError, match="damaged"):
        OnlineEWC.load(tmp_path)
