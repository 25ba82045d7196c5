"""Training as far as it has come, on disk: one that is cut off goes on from there, and ends at the same weights.

`checkpoint.safetensors` in the job's directory holds the weights that train, the optimiser's state, the plugins' and
torch's random generators as tensors, and in the file's metadata which job it is of and after how many steps. It is put
in place whole or not at all, and gone when the job is done.
"""

import hashlib
import logging
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from avalanche.training.plugins import SupervisedPlugin
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from learners.disk import replaced
from learners.snapshot import data_sha256
from learners.strategy import trained

CHECKPOINT = "checkpoint.safetensors"

Tensors = Mapping[str, torch.Tensor]

log = logging.getLogger(__name__)


@runtime_checkable
class Resumable(Protocol):
    """A plugin that gathers something while training goes on, which neither the job nor the parent's files have."""

    def state(self) -> Tensors:
        """What it has gathered, by names that are its own; the tensors may be its very own too."""

    def restore(self, state: Tensors) -> None:
        """Take up what `state` gave, on whatever device it is; called once training has been set up."""


def resumable(strategy: Any) -> dict[str, Resumable]:
    """The strategy's plugins that are, by the name of their class."""
    return {type(plugin).__name__: plugin for plugin in strategy.plugins if isinstance(plugin, Resumable)}


@torch.no_grad()
def put_back(strategy: Any, weights: Tensors) -> None:
    """Give the weights that train these values."""
    for name, weight in trained(strategy.model):
        weight.copy_(weights[name])


def joined(parts: Mapping[str, Tensors]) -> dict[str, torch.Tensor]:
    """`parts` as one mapping, each name behind its part's: `part/name`."""
    return {f"{part}/{name}": tensor for part, tensors in parts.items() for name, tensor in tensors.items()}


def parted(tensors: Tensors) -> dict[str, dict[str, torch.Tensor]]:
    """What `joined` joined."""
    parts: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        part, _, own = name.partition("/")
        parts.setdefault(part, {})[own] = tensor
    return parts


class Checkpoints(SupervisedPlugin):  # type: ignore[misc] # Avalanche ships no types
    """Saves training every so many seconds, and takes it up where the last one left it. To stand after all others."""

    supports_distributed = True

    def __init__(self, directory: Path, every: float, clock: Callable[[], float], *, writes: bool = True) -> None:
        super().__init__()
        self._path = directory / CHECKPOINT
        self._directory = directory
        self._every = every
        self._clock = clock
        self._latest = clock()
        self._writes = writes
        self._random: Tensors = {}

    @cached_property
    def _of(self) -> str:
        """What the weights depend on: the job, its data, and the arithmetic."""
        job = hashlib.sha256((self._directory / "job.json").read_bytes()).hexdigest()
        return f"{job} {data_sha256(self._directory)} torch {torch.__version__}"

    def before_training_epoch(self, strategy: Any, **_: Any) -> None:
        """Go on from the checkpoint, if there is one of this job."""
        if strategy.step or not self._path.exists():
            return
        try:
            with safe_open(self._path, framework="pt") as file:
                metadata = file.metadata() or {}
                if metadata.get("of") != self._of:
                    log.warning("%s is of another job or another torch: training starts anew", self._path)
                    return
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no dict
        except SafetensorError as error:
            log.warning("%s is damaged (%s): training starts anew", self._path, error)
            return
        parts = parted(tensors)
        _restore(strategy, parts)
        self._random = parts["random"]
        strategy.step = int(metadata["step"])

    def before_training_iteration(self, strategy: Any, **_: Any) -> None:
        """Go on drawing where the checkpoint was: passes over batches that were learned before have drawn, too."""
        if self._random:
            torch.set_rng_state(self._random["cpu"])
            if "cuda" in self._random:
                torch.cuda.set_rng_state(self._random["cuda"], strategy.device)
            self._random = {}

    def after_training_iteration(self, strategy: Any, **_: Any) -> None:
        """Save, when it is time to; not at the end, when nothing is left to go on with."""
        if strategy.stopping or not self._writes or self._clock() - self._latest < self._every:
            return
        tensors = {name: tensor.contiguous() for name, tensor in joined(_state(strategy)).items()}
        with replaced(self._path) as draft:
            save_file(tensors, draft, metadata={"of": self._of, "step": str(strategy.step)})
        # After it: a disk slower than the interval must not keep training from going on.
        self._latest = self._clock()


def _state(strategy: Any) -> dict[str, Tensors]:
    states = strategy.optimizer.state_dict()["state"]
    optimiser = {f"{at}/{name}": tensor for at, state in states.items() for name, tensor in state.items()}
    random = {"cpu": torch.get_rng_state()}
    if strategy.device.type == "cuda":
        random["cuda"] = torch.cuda.get_rng_state(strategy.device)
    plugins = {name: plugin.state() for name, plugin in resumable(strategy).items()}
    return {"weights": dict(trained(strategy.model)), "optimiser": optimiser, "random": random, **plugins}


def _restore(strategy: Any, parts: Mapping[str, Tensors]) -> None:
    put_back(strategy, parts["weights"])
    states = {int(at): state for at, state in parted(parts.get("optimiser", {})).items()}
    groups = strategy.optimizer.state_dict()["param_groups"]
    strategy.optimizer.load_state_dict({"state": states, "param_groups": groups})
    for name, plugin in resumable(strategy).items():
        plugin.restore(parts.get(name, {}))
