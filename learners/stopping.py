"""When to stop: the weights that answer held-out examples best are kept, and training ends when they stay the best.

Prechelt 1998, "Early Stopping - But When?".
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from avalanche.training.plugins import SupervisedPlugin
from scipy.special import log_softmax

from learners.calibration import fit_temperature
from learners.checkpoint import Resumable, Tensors, joined, parted, put_back, resumable
from learners.data import Row
from learners.device import Compute
from learners.job import Example
from learners.judging import TOKEN_BUDGET
from learners.scoring import batches_by_length, pad
from learners.strategy import trained

#: Held-out examples that are looked at. More tell apart what no user would notice, and cost as much as they are many.
MOST = 300

#: With fewer, one text more or less would decide; training then goes to its end.
LEAST = 30

#: Share of the cost of training that looking may take, as long as it looks once a pass.
COST = 0.1

#: Forward passes that a step costs: the gradient takes about two more.
FORWARDS = 3

#: Looks at a pass, at most: training does not change much in less.
LOOKS = 4


def looked_at(choosing: Sequence[Example], seed: int) -> list[Example]:
    """Up to `MOST` of `choosing`, none if they are too few; of fresh and old ones alike, as far as there are any."""
    if len(choosing) < LEAST:
        return []
    generator = np.random.default_rng(seed)
    drawn = [choosing[at] for at in generator.permutation(len(choosing))]
    fresh = [example for example in drawn if example.group == "fresh"]
    old = [example for example in drawn if example.group == "old"]
    share = max(MOST // 2, MOST - min(len(fresh), len(old)))
    return [*fresh[:share], *old[:share]][:MOST]


def loss(logits: npt.NDArray[np.float64], truth: npt.NDArray[np.int64], groups: Sequence[str]) -> float:
    """Log loss at the temperature that fits best, in nats: the mean over the groups, each counting alike.

    Training on makes a model ever surer, which calibration takes back. A model must not be stopped for that.
    """
    scaled = log_softmax(logits / fit_temperature(logits, truth, groups), axis=1)
    losses, of = -scaled[np.arange(len(truth)), truth], np.array(groups)
    return float(np.mean([losses[of == group].mean() for group in np.unique(of)]))


class EarlyStopping(SupervisedPlugin):  # type: ignore[misc] # Avalanche ships no types
    """Looks several times a pass, and stops once `patience` passes have brought nothing better.

    To stand before plugins that measure at the end what the weights are worth: the best are put back by then, with the
    state that other plugins had at them. `best_step` is theirs, 0 before the first look.
    """

    supports_distributed = True

    def __init__(self, rows: Sequence[Row], groups: Sequence[str], *, patience: float, compute: Compute) -> None:
        super().__init__()
        self._tokens = [row.ids for row in rows]
        self._truth = np.array([row.label for row in rows], dtype=np.int64)
        self._groups = groups
        self._patience = patience
        self._compute = compute
        self._best: dict[str, torch.Tensor] = {}
        self.best_loss = math.inf
        self.best_step = 0

    def after_training_iteration(self, strategy: Any, **_: Any) -> None:
        """Look, if it is time to, and stop if it has been for nothing for long."""
        a_pass = len(strategy.dataloader)
        if strategy.step % self._every(a_pass, strategy.train_mb_size) and strategy.step < strategy.steps:
            return
        latest = strategy.team.leaders(self._look(strategy), strategy.device)
        if latest < self.best_loss:
            self.best_loss, self.best_step = latest, strategy.step
            others = {name: plugin.state() for name, plugin in self._others(strategy).items()}
            state = joined({"weights": dict(trained(strategy.model)), **others})
            self._best = {name: tensor.detach().clone() for name, tensor in state.items()}
        elif strategy.step - self.best_step >= self._patience * a_pass:
            strategy.stop_training()

    def after_training_exp(self, strategy: Any, **_: Any) -> None:
        """Put the best back."""
        if self._best and self.best_step != strategy.step:
            parts = parted(self._best)
            put_back(strategy, parts["weights"])
            for name, plugin in self._others(strategy).items():
                plugin.restore(parts.get(name, {}))
        self._best = {}

    def state(self) -> Tensors:
        so_far = torch.tensor([self.best_loss, self.best_step], dtype=torch.float64)
        return {"so_far": so_far, **self._best}

    def restore(self, state: Tensors) -> None:
        loss, step = state["so_far"].tolist()
        self.best_loss, self.best_step = loss, int(step)
        self._best = {name: one.to(self._compute.device) for name, one in state.items() if name != "so_far"}

    def _every(self, a_pass: int, batch: int) -> int:
        """Steps between two looks."""
        affordable = len(self._truth) / (COST * FORWARDS * batch)
        return min(a_pass, max(math.ceil(a_pass / LOOKS), math.ceil(affordable)))

    @torch.no_grad()
    def _look(self, strategy: Any) -> float:
        batches = batches_by_length([len(ids) for ids in self._tokens], TOKEN_BUDGET)
        pad_id = strategy.model.pad_id
        strategy.model.eval()
        said = [strategy.model(self._compute.put(pad([self._tokens[at] for at in batch], pad_id))) for batch in batches]
        strategy.model.train()
        logits = np.empty((len(self._tokens), said[0].shape[1]), np.float64)
        logits[np.concatenate(batches)] = torch.cat(said).cpu().numpy()
        return loss(logits, self._truth, self._groups)

    def _others(self, strategy: Any) -> dict[str, Resumable]:
        return {name: plugin for name, plugin in resumable(strategy).items() if plugin is not self}
