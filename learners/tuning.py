"""Learning few weights: everything else stays as it is, which takes less memory and forgets less.

`lora` (Hu et al. 2022), `adalora` (Zhang et al. 2023) and `ia3` (Liu et al. 2022) are peft's. What they learn is merged
into plain weights, so that a candidate is served like any other, and kept beside them in a form that peft can load.
`prompt`, `prefix` and `adapter` stay parts of the model, see `learners.adapters`.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from avalanche.training.plugins import SupervisedPlugin
from safetensors.torch import save_file
from torch import nn

from learners.adapters import AdapterError, Sizes
from learners.checkpoint import Tensors, joined, parted
from learners.job import Job
from learners.model import LoadedModel, TextClassifier
from learners.strategy import Weights

#: The adapter's files in a candidate. peft's own names would have transformers load it over the weights that have it.
ADAPTER, ADAPTER_CONFIG = "adapter.safetensors", "adapter.json"

#: What peft calls an adapter that nobody named.
NAME = "default"

#: What scales an adapter of LoRA's kind is this times its rank, so that a rank is no learning rate.
ALPHA = 2

#: AdaLoRA begins with this many times the rank that it ends with, on average.
GENEROUS = 1.5

#: Shares of the steps in which AdaLoRA gives no rank up: at first, to learn which is worth it, and in the end.
WARM_UP, SETTLE = 0.1, 0.3

#: How often AdaLoRA gives ranks up, in all.
CUTS = 50

#: The parts of `learners.adapters` that each way of tuning trains.
SERVED = {"prompt": "prompt", "prefix": "prefix", "adapter": "bottlenecks"}


def served(job: Job) -> Sizes:
    """What the model must have for the job to train it."""
    size = job.adapter
    if job.tuning == "prompt":
        return Sizes(prompt=size.tokens)
    if job.tuning == "prefix":
        return Sizes(prefix=size.tokens)
    return Sizes(bottleneck=size.width if job.tuning == "adapter" else 0)


def tune(model: LoadedModel, job: Job) -> list["Merging"]:
    """Have nothing train but the head and what `job.tuning` names; the plugin that does it, where it takes one.

    Raises:
        AdapterError: the encoder takes no adapter of this kind.
    """
    if job.tuning == "full":
        return []
    classifier = model.classifier
    classifier.requires_grad_(False)
    classifier.head.requires_grad_(True)
    if job.tuning in SERVED:
        getattr(classifier.adapters, SERVED[job.tuning]).requires_grad_(True)
        return []
    return [(RankAllocation if job.tuning == "adalora" else Merging)(classifier, job)]


class Merging(SupervisedPlugin):  # type: ignore[misc] # Avalanche ships no types
    """An adapter of peft's in a classifier, from when it is made until training ends, when it is merged.

    To stand before plugins that measure at the end what weights are worth: by then they are plain again, and those that
    the adapter has changed are the ones that train.
    """

    supports_distributed = True

    def __init__(self, classifier: TextClassifier, job: Job) -> None:
        super().__init__()
        self._classifier = classifier
        self.tuner = _tuner(classifier.encoder, job)
        self._kept: dict[str, torch.Tensor] = {}

    @property
    def _config(self) -> Any:
        return self.tuner.peft_config[NAME]

    def effective(self) -> Weights:
        """The weights that learning changes, under the names that they will be saved by, as they would be now.

        Those of adapted layers are computed, and gradients flow from them to the adapter.
        """
        weights: dict[str, torch.Tensor] = {
            f"head.{name}": one for name, one in self._classifier.head.named_parameters()
        }
        for name, layer in self._layers().items():
            base = layer.get_base_layer()
            if hasattr(layer, "ia3_l"):
                scale = layer.ia3_l[NAME]
                weights[f"{name}.weight"] = base.weight * scale
                if base.bias is not None and not layer.is_feedforward:
                    weights[f"{name}.bias"] = base.bias * scale.flatten()
            else:
                weights[f"{name}.weight"] = base.weight + layer.get_delta_weight(NAME)
        return weights

    def _layers(self) -> Mapping[str, Any]:
        return {name: module for name, module in self._classifier.named_modules() if hasattr(module, "base_layer")}

    def after_training_exp(self, *_: Any, **__: Any) -> None:
        """Merge the adapter into the weights."""
        changed = self.effective().keys()
        self._kept = {
            f"base_model.model.{name.replace(f'.{NAME}', '')}": weight.detach().cpu().contiguous()
            for name, weight in self._classifier.encoder.named_parameters()
            if self.tuner.prefix in name and "ranknum" not in name
        }
        self.tuner.merge_and_unload()
        for name, weight in self._classifier.named_parameters():
            weight.requires_grad = name in changed

    def save(self, directory: Path) -> None:
        """Write the adapter as it was before it was merged; it goes with the parent's encoder."""
        save_file(self._kept, directory / ADAPTER)
        config = self._config.to_dict()
        text = json.dumps(config, indent=2, sort_keys=True, default=sorted)
        (directory / ADAPTER_CONFIG).write_text(text + "\n", encoding="utf-8")


class RankAllocation(Merging):
    """AdaLoRA: ranks are taken from layers that make little of them."""

    def before_training_epoch(self, strategy: Any, **_: Any) -> None:
        """Plan over the steps that there will be."""
        self._config.total_step = strategy.steps
        self._config.tinit = round(WARM_UP * strategy.steps)
        self._config.tfinal = round(SETTLE * strategy.steps)
        self._config.deltaT = math.ceil(strategy.steps / CUTS)

    def before_backward(self, strategy: Any, **_: Any) -> None:
        """Keep singular vectors at right angles, as peft's own model does when it computes a loss."""
        layers = self._layers().values()
        squares = [layer.lora_A[NAME] @ layer.lora_A[NAME].T for layer in layers]
        squares += [layer.lora_B[NAME].T @ layer.lora_B[NAME] for layer in layers]
        off = [torch.linalg.matrix_norm(square - torch.eye(len(square)).to(square)) for square in squares]
        strategy.loss = strategy.loss + self._config.orth_reg_weight * torch.stack(off).mean()

    def after_update(self, strategy: Any, **_: Any) -> None:
        """Note what each rank is worth, and give some up when it is time to."""
        self.tuner.update_and_allocate(strategy.step)

    def state(self) -> Tensors:
        """What each rank was worth so far, and which are left."""
        allocator = self.tuner.rankallocator
        pattern = {name: torch.tensor(left) for name, left in (self._config.rank_pattern or {}).items()}
        worth = {"ipt": allocator.ipt, "exp_avg_ipt": allocator.exp_avg_ipt, "exp_avg_unc": allocator.exp_avg_unc}
        return joined({**worth, "pattern": pattern})

    def restore(self, state: Tensors) -> None:
        parts, allocator = parted(state), self.tuner.rankallocator
        device = self._classifier.head.weight.device
        for name in ("ipt", "exp_avg_ipt", "exp_avg_unc"):
            setattr(allocator, name, {of: one.to(device) for of, one in parts.get(name, {}).items()})
        self._config.rank_pattern = {of: one.tolist() for of, one in parts.get("pattern", {}).items()} or None

    def save(self, directory: Path) -> None:
        # The ranks that were given up are saved as zeros: with a pattern, peft would expect them to be missing.
        self._config.rank_pattern = None
        super().save(directory)


def _tuner(encoder: nn.Module, job: Job) -> Any:
    # Imported here: it takes a second, and the learner starts without it as a rule.
    from peft import AdaLoraConfig, AdaLoraModel, IA3Config, IA3Model, LoraConfig, LoraModel

    rank = job.adapter.rank
    if job.tuning == "lora":
        return LoraModel(encoder, LoraConfig(r=rank, lora_alpha=ALPHA * rank, target_modules="all-linear"), NAME)
    if job.tuning == "adalora":
        adalora = AdaLoraConfig(
            target_r=rank,
            init_r=math.ceil(GENEROUS * rank),
            lora_alpha=ALPHA * rank,
            target_modules="all-linear",
            total_step=1,  # Until training begins, when it is known.
        )
        return AdaLoraModel(encoder, adalora, NAME)  # type: ignore[no-untyped-call]
    try:
        return IA3Model(encoder, IA3Config(), NAME)
    except ValueError as error:
        raise AdapterError(f"peft does not know where ia3 goes ({error})", "set learning.tuning: lora") from error
