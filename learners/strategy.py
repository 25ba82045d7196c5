"""The training loop: Avalanche's supervised template, so that any of its plugins can be passed.

What differs from the template: batches of similar length padded to their longest, a schedule per step, fractions of
an epoch, example weights, gradients gathered over parts of a batch and clipped, going on where an earlier attempt was
cut off, and silence.
"""

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from avalanche.core import BasePlugin
from avalanche.models.dynamic_optimizers import update_optimizer
from avalanche.training.plugins import EvaluationPlugin
from avalanche.training.templates import SupervisedTemplate
from torch import nn
from torch.utils.data import DataLoader

from learners.data import LengthGroupedBatches
from learners.device import Compute
from learners.errors import LearnerError
from learners.job import Job
from learners.model import TextClassifier
from learners.team import Team

#: Passes over a job, at most, that `min_steps` may ask for: more would learn a few examples by heart.
MOST_PASSES = 8

#: Longest gradient, as a norm over all weights; usual for fine-tuning BERT (Devlin et al.'s own optimiser).
CLIP = 1.0

#: The team of a process that learns by itself.
ALONE = Team()


class TrainingError(LearnerError):
    """Training went wrong, and the candidate is worth nothing."""


class Logits(nn.Module):
    """A classifier as Avalanche calls a model: ids `[batch, tokens]` in, logits `[batch, labels]` float32 out.

    The mask is read off the ids (a pad id is padding, see `learners.model`), and the precision is set here, so that
    what a plugin computes is what the loop computes.
    """

    def __init__(self, classifier: TextClassifier, pad_id: int, compute: Compute) -> None:
        super().__init__()
        self.classifier = classifier
        self.pad_id = pad_id
        self._compute = compute

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        with self._compute.autocast():
            logits: torch.Tensor = self.classifier(ids, (ids != self.pad_id).long()).logits
        return logits


#: Weights by the names that they are saved under.
Weights = Mapping[str, torch.Tensor]


def trained(model: Logits) -> list[tuple[str, nn.Parameter]]:
    """The weights that train, with their names."""
    return [(name, weight) for name, weight in model.classifier.named_parameters() if weight.requires_grad]


@runtime_checkable
class Adapting(Protocol):
    """A plugin that learns other weights than those that will be saved."""

    def effective(self) -> Weights:
        """The weights that will be saved, as far as learning changes them; gradients flow through."""


def effective(strategy: Any) -> Weights:
    """The weights that learning changes, as they would be saved now."""
    for plugin in strategy.plugins:
        if isinstance(plugin, Adapting):
            return plugin.effective()
    return dict(trained(strategy.model))


def rate(step: int, steps: int, warmup_share: float) -> float:
    """Share of the peak learning rate at `step` of `steps`: a linear rise, then a linear fall. Always above 0."""
    warmup = min(round(warmup_share * steps), steps - 1)
    if step < warmup:
        return (step + 1) / warmup
    return (steps - step) / (steps - warmup)


def optimiser(model: nn.Module, learning_rate: float, weight_decay: float) -> torch.optim.AdamW:
    """AdamW (Loshchilov & Hutter 2019), without decay on vectors: biases, normalisation weights, scales."""
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    matrices = [weight for weight in weights if weight.numel() > max(weight.shape)]
    vectors = [weight for weight in weights if weight.numel() <= max(weight.shape)]
    return torch.optim.AdamW(
        [
            {"params": matrices, "weight_decay": weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ],
        lr=learning_rate,
        fused=True,
    )


class TextStrategy(SupervisedTemplate):  # type: ignore[misc] # Avalanche ships no types
    """Avalanche's supervised template over padded ids. Read `step`, `steps`, `loss` and `penalty` in a plugin."""

    def __init__(
        self, *, model: Logits, job: Job, compute: Compute, team: Team = ALONE, plugins: Sequence[BasePlugin] = ()
    ) -> None:
        with warnings.catch_warnings():
            # Without loggers is how it is wanted: the learner keeps its own metrics.
            warnings.filterwarnings("ignore", message="No loggers specified")
            silent = EvaluationPlugin(loggers=[])
        super().__init__(
            model=model,
            optimizer=optimiser(model, job.learning_rate, job.weight_decay),
            criterion=nn.CrossEntropyLoss(),
            train_mb_size=job.batch_size,
            eval_mb_size=job.batch_size,
            device=compute.device,
            plugins=list(plugins),
            evaluator=silent,
        )
        self._job = job
        self.team = team
        self._task_loss = torch.zeros(())
        self._passed = 0
        self.step = 0
        self.steps = 0

    @property
    def stopping(self) -> bool:
        """Whether the latest step was the last one."""
        return bool(self._stop_training)

    @property
    def penalty(self) -> float:
        """What plugins added to the loss of the current batch."""
        return float(self.loss.detach() - self._task_loss)

    @property
    def learning_rate(self) -> float:
        """At the latest step."""
        return float(self.optimizer.param_groups[0]["lr"])

    def make_optimizer(self, reset_optimizer_state: bool = False, **_: Any) -> None:
        """Avalanche's hook, for plugins that change the model."""
        # Avalanche's own wants weights that do not train in the optimiser as well.
        weights = {name: weight for name, weight in self.model.named_parameters() if weight.requires_grad}
        known: Any = self.optimized_param_id  # type: ignore[has-type]
        self.optimized_param_id = update_optimizer(self.optimizer, weights, known, reset_state=reset_optimizer_state)

    def make_train_dataloader(self, **_: Any) -> None:
        """Avalanche's hook; a plugin that changes `adapted_dataset` calls it again."""
        # Avalanche's own drops the dataset's collate function and oversamples small tasks.
        dataset = self.adapted_dataset
        lengths = [len(row[0]) for row in dataset]
        seed = self._job.seed + self.clock.train_exp_counter
        self.dataloader = DataLoader(
            dataset,
            batch_sampler=LengthGroupedBatches(lengths, self.train_mb_size, seed),
            collate_fn=dataset.collate_fn,
            pin_memory=self.device.type == "cuda",
        )

    def _before_training_exp(self, **kwargs: Any) -> None:
        super()._before_training_exp(**kwargs)
        # After the plugins, which may have put a loader of their own.
        a_pass, job = len(self.dataloader), self._job
        steps = max(math.ceil(job.epochs * a_pass), min(job.min_steps, MOST_PASSES * a_pass))
        self._passed, self.step = 0, 0
        self.steps = min(steps, job.max_steps or steps)
        self.train_epochs = math.ceil(self.steps / a_pass)

    def training_epoch(self, **kwargs: Any) -> None:
        """One pass; batches that `step` says were learned before training was cut off are drawn and left."""
        for batch in self.dataloader:
            if self._stop_training:
                return
            self._passed += 1
            if self._passed <= self.step:
                continue
            self.mbatch = batch
            self._unpack_minibatch()
            self._before_training_iteration(**kwargs)
            self.optimizer.zero_grad()
            self._gather_gradients(**kwargs)
            self._before_update(**kwargs)
            self.optimizer_step()
            self._after_update(**kwargs)
            self._after_training_iteration(**kwargs)

    def _gather_gradients(self, **kwargs: Any) -> None:
        """Those of the batch's mean loss, taken a part at a time: what is kept for going back is the part's alone.

        Each process of the team takes its own parts.
        """
        whole = self.mbatch
        size = len(whole[0])
        losses = torch.zeros(2, device=self.device)
        parts = torch.arange(size, device=self.device).tensor_split(min(self._job.accumulate * self.team.size, size))
        for places in parts[self.team.rank :: self.team.size]:
            self.mbatch = whole if len(places) == size else [column[places] for column in whole]
            self.loss = self._make_empty_loss()
            self._before_forward(**kwargs)
            self.mb_output = self.forward()
            self._after_forward(**kwargs)
            self.loss += self.criterion()
            self._before_backward(**kwargs)
            share = len(places) / size
            losses += torch.stack([self.loss.detach().sum(), self._task_loss]) * share
            self.loss = self.loss * share
            self.backward()
            self._after_backward(**kwargs)
        weights = [weight for _, weight in trained(self.model)]
        self.loss, self._task_loss = self.team.add_up(weights, losses)
        self.mbatch = whole

    def criterion(self) -> torch.Tensor:
        """Mean cross-entropy, each example times its weight; weights are 1 on average over the job."""
        smoothing = self._job.label_smoothing
        losses = nn.functional.cross_entropy(self.mb_output, self.mb_y, reduction="none", label_smoothing=smoothing)
        loss: torch.Tensor = (losses * self.mbatch[2]).mean()
        self._task_loss = loss.detach()
        return loss

    def optimizer_step(self) -> None:
        nn.utils.clip_grad_norm_(self.model.parameters(), CLIP)
        for group in self.optimizer.param_groups:
            group["lr"] = self._job.learning_rate * rate(self.step, self.steps, self._job.warmup_share)
        super().optimizer_step()
        self.step += 1
        if self.step >= self.steps:
            self.stop_training()
