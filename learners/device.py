"""The one place that knows one device from another: which to run on, in what precision, and how data gets there."""

import os
import random
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from learners.errors import LearnerError

Precision = Literal["auto", "float32", "bfloat16"]


class DeviceError(LearnerError):
    """The device or precision that was asked for is not to be had."""


@dataclass(frozen=True)
class Compute:
    """A device and the precision of its matrix products. Weights, logits and losses are float32 always."""

    device: torch.device
    precision: torch.dtype

    def autocast(self) -> AbstractContextManager[object]:
        """A context in which a forward pass runs in `precision`.

        Enter it once around many batches: torch keeps the weights it has cast until the outermost context ends.
        """
        if self.precision == torch.float32:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self.precision)

    def put(self, tensor: torch.Tensor) -> torch.Tensor:
        """`tensor` on the device; from pinned memory and without waiting when that is a GPU."""
        if self.device.type == "cuda" and tensor.device.type == "cpu":
            return tensor.pin_memory().to(self.device, non_blocking=True)
        return tensor.to(self.device)


def resolve(device: str = "auto", precision: Precision = "auto", gpu: int = 0) -> Compute:
    """What the settings `device` (`auto`, `cpu`, `cuda`, `cuda:N`) and `precision` mean on this machine.

    `auto` is a GPU where there is one, else the CPU; of several, `auto` and `cuda` are the one numbered `gpu`. In
    bfloat16 where the processor has instructions for it, which halves the time of training and scoring on either, else
    in float32.

    Raises:
        DeviceError: `device` is not one of those, or torch cannot use it here; or it has no bfloat16.
    """
    chosen = _device(device, gpu)
    has_bfloat16 = chosen.type == "cpu" or torch.cuda.is_bf16_supported(including_emulation=False)
    if precision == "bfloat16" and not has_bfloat16:
        raise DeviceError(f"precision is bfloat16 but {torch.cuda.get_device_name(chosen)} has none", "set float32")
    if precision == "auto":
        fast = has_bfloat16 if chosen.type == "cuda" else _cpu_has_bfloat16()
        precision = "bfloat16" if fast else "float32"
    return Compute(chosen, torch.bfloat16 if precision == "bfloat16" else torch.float32)


def _cpu_has_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 natively; emulated, it is slower than float32."""
    # Torch has no public question for it yet; the private one stands beside those of torch.compile.
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def _device(name: str, gpu: int) -> torch.device:
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        return _device("cuda", gpu) if gpus else torch.device("cpu")
    if name == "cpu":
        return torch.device("cpu")
    kind, _, number = name.partition(":")
    if kind != "cuda" or not (number.isdecimal() or name == "cuda"):
        raise DeviceError(f"device is {name!r}", "set `auto`, `cpu`, `cuda` or `cuda:N`")
    if not gpus:
        built = f"for CUDA {torch.version.cuda}" if torch.version.cuda else "without CUDA"
        raise DeviceError(
            f"device is {name!r} but torch {torch.__version__} (built {built}) sees no GPU here",
            "set `auto` or `cpu`, or check the driver with nvidia-smi",
        )
    index = int(number or gpu)
    if index >= gpus:
        raise DeviceError(
            f"device is {name!r}, number {index}, but there are {gpus} GPUs here",
            f"set `cuda:0` to `cuda:{gpus - 1}`, and learning.processes to at most {gpus}",
        )
    return torch.device("cuda", index)


def use_threads(threads: int) -> None:
    """Give torch this many CPU threads; 0 leaves it to torch."""
    if threads:
        torch.set_num_threads(threads)


@contextmanager
def flushed_denormals() -> Iterator[None]:
    """Within, numbers below float32's full precision (1e-38) count as 0; enter it before torch's first operation.

    Squares of tiny gradients are such numbers, and a CPU takes many times longer over them: steps under EWC took
    three times as long without this. Torch's threads inherit it from the one that starts them.
    """
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


def seed_everything(seed: int) -> None:
    """Seed torch (all devices), numpy and `random`: the dropout here, and whatever an Avalanche plugin draws from."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - Avalanche's plugins draw from the global generator
    torch.manual_seed(seed)


def be_deterministic(device: torch.device) -> None:
    """Have the same job give the same weights on the same machine, on `device`. Call before the first CUDA operation.

    Operations that have no deterministic form on a GPU warn and run all the same.
    """
    # cuBLAS is deterministic only with a fixed workspace: docs.nvidia.com/cuda/cublas, "Results reproducibility".
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    # Where one only warns, a GPU's fast kernels of attention still add up in any order, going back. A CPU's do not.
    if device.type == "cuda":
        torch.backends.cuda.enable_cudnn_sdp(False)
        torch.backends.cuda.enable_flash_sdp(False)
        torch.backends.cuda.enable_mem_efficient_sdp(False)
    # Filling every new tensor finds reads of uninitialised memory; it costs time and is not what is wanted here.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined] # a module property
