"""Online elastic weight consolidation: weights that the past depends on are held near where the past left them.

Kirkpatrick et al. 2017, "Overcoming catastrophic forgetting in neural networks", as made online by Schwarz et al.
2018, "Progress & Compress": one quadratic penalty, anchored at the latest weights, under a decayed sum of Fisher
information matrices (their diagonals), each brought to the same scale first.

Avalanche's own plugin squares the gradient of a whole batch's loss at its true labels, which is close to nothing
once a model fits; keeps copies of weights that do not train; and cannot be saved. This one can be passed to any
Avalanche strategy over `learners.strategy.Logits` in its place.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from avalanche.training.plugins import SupervisedPlugin
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from learners.data import Row
from learners.model import ModelError
from learners.scoring import pad
from learners.strategy import Logits

FILE = "ewc.safetensors"

#: Movement of a weight that the penalty's scale is set by: fine-tuning moves most weights by about a thousandth
#: (AdamW at 5e-5 for a few hundred steps).
UNIT = 1e-3

#: Examples in one backward pass of the Fisher estimate. Fewer give a less noisy estimate from as many examples.
BATCH = 4

Fisher = dict[str, torch.Tensor]


def fisher_diagonal(model: Logits, rows: Sequence[Row], samples: int, seed: int) -> Fisher:
    """The diagonal of the Fisher information at up to `samples` of `rows`, by name of each weight that trains.

    Labels are drawn from the model's own predictions, so this is the true Fisher and not the empirical one (Kunstner
    et al. 2019 on why it matters). Drawn labels also make the gradients of a batch's examples independent with mean
    zero, so the square of their sum is, on average, the sum of their squares: per-example gradients at the price of a
    batch's (the Gauss-Newton-Bartlett estimator of Liu et al. 2023, "Sophia").
    """
    generator = np.random.default_rng(seed)
    chosen = generator.choice(len(rows), size=min(samples, len(rows)), replace=False)
    chosen = chosen[np.argsort([len(rows[at].ids) for at in chosen], kind="stable")]
    weights = dict(_trained(model))
    fisher = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    learning = model.training
    model.eval()
    device = next(iter(weights.values())).device
    for start in range(0, len(chosen), BATCH):
        logits = model(pad([rows[at].ids for at in chosen[start : start + BATCH]], model.pad_id).to(device))
        below = logits.detach().softmax(-1).cumsum(-1).cpu().numpy() < generator.random((len(logits), 1))
        drawn = torch.from_numpy(below[:, :-1].sum(1)).to(device)
        loss = nn.functional.cross_entropy(logits, drawn, reduction="sum")
        gradients = torch.autograd.grad(loss, list(weights.values()), allow_unused=True)
        for information, gradient in zip(fisher.values(), gradients, strict=True):
            if gradient is not None:
                information.addcmul_(gradient, gradient)
    model.train(learning)
    return {name: information / len(chosen) for name, information in fisher.items()}


def normalised(fisher: Mapping[str, torch.Tensor]) -> Fisher:
    """`fisher` scaled so that it sums to 1 / `UNIT`²: moving every weight by `UNIT` costs half the strength.

    Unscaled, a confident model would hardly be held and an unsure one not move.
    """
    total = sum(float(information.double().sum()) for information in fisher.values())
    scale = 1 / (UNIT**2 * total) if total > 0 else 0.0
    return {name: information * scale for name, information in fisher.items()}


class OnlineEWC(SupervisedPlugin):  # type: ignore[misc] # Avalanche ships no types
    """Adds `strength / 2 * Σ fisher * (weight - anchor)²` to the loss; the anchors are the weights at the start.

    So the state to carry from one run to the next is the weights and `fisher`, which `save` and `load` keep. With no
    `fisher` yet there is no penalty. After an experience, what `rows` say is added to `decay` times what was.
    """

    def __init__(
        self, *, strength: float, decay: float, samples: int, seed: int, rows: Sequence[Row], fisher: Fisher | None
    ) -> None:
        super().__init__()
        self._strength = strength
        self._decay = decay
        self._samples = samples
        self._seed = seed
        self.rows = rows
        self.fisher: Fisher = fisher or {}
        self._anchors: Fisher = {}
        self._scratch = torch.empty((2, 0))

    def before_training_exp(self, strategy: Any, **_: Any) -> None:
        """Anchor every weight that the Fisher information speaks of; a head for other labels starts free."""
        weights = dict(_trained(strategy.model))
        self.fisher = {
            name: information.to(weights[name].device)
            for name, information in self.fisher.items()
            if name in weights and weights[name].shape == information.shape
        }
        self._anchors = {name: weights[name].detach().clone() for name in self.fisher}
        # Room for the largest weight, kept: fresh memory for each at each step costs more than the arithmetic.
        largest = max((information.numel() for information in self.fisher.values()), default=0)
        self._scratch = torch.empty((2, largest), device=strategy.device)

    @torch.no_grad()
    def after_backward(self, strategy: Any, **_: Any) -> None:
        """Add the penalty to the loss and its gradient to the gradients, without a detour through autograd."""
        if not self.fisher or not self._strength:
            return
        weights = dict(_trained(strategy.model))
        penalty = torch.zeros((), device=strategy.device)
        for name, information in self.fisher.items():
            size, shape = information.numel(), information.shape
            moved = torch.sub(weights[name], self._anchors[name], out=self._scratch[0][:size].view(shape))
            pull = torch.mul(moved, information, out=self._scratch[1][:size].view(shape))
            penalty += torch.dot(pull.view(-1), moved.view(-1))
            gradient = weights[name].grad
            if gradient is not None:
                gradient.add_(pull, alpha=self._strength)
        strategy.loss = strategy.loss.detach() + self._strength / 2 * penalty

    def after_training_exp(self, strategy: Any, **_: Any) -> None:
        """Consolidate what has been learned."""
        self._anchors, self._scratch = {}, torch.empty((2, 0))
        learned = normalised(fisher_diagonal(strategy.model, self.rows, self._samples, self._seed))
        for name, information in learned.items():
            if name in self.fisher:
                information.add_(self.fisher[name], alpha=self._decay)
        self.fisher = learned

    def save(self, directory: Path) -> None:
        """Write `ewc.safetensors`, beside the weights that it goes with."""
        save_file({name: information.contiguous() for name, information in self.fisher.items()}, directory / FILE)


def load(directory: Path | None) -> Fisher | None:
    """What `OnlineEWC.save` left in `directory`, on the CPU; None where nothing has been consolidated yet.

    Raises:
        ModelError: the file is damaged.
    """
    if directory is None or not (directory / FILE).exists():
        return None
    try:
        return load_file(directory / FILE)
    except SafetensorError as error:
        raise ModelError(
            f"{directory / FILE} is damaged ({error})", "restore it, or delete it to start anew"
        ) from error


def _trained(model: Logits) -> Sequence[tuple[str, nn.Parameter]]:
    return [(name, weight) for name, weight in model.classifier.named_parameters() if weight.requires_grad]
