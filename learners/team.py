"""Processes that learn together, one for each GPU: each takes parts of every batch, and their gradients add up.

All of them hold the same weights and take the same steps; the first, of rank 0, also writes, judges and answers for the
job. They are started by `learners.process.helped` where the job says how many, or by `torchrun -m learners JOB_DIR`.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import torch
from torch import distributed, nn

from learners.device import Compute
from learners.process import MEETING, rank

#: How long one process waits for another. They do the same work before they meet, and the same steps after it.
PATIENCE = timedelta(minutes=10)


@dataclass(frozen=True)
class Team:
    """Who this process is: `rank` of `size`. Alone, nothing has to be agreed on."""

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        return self.rank == 0

    @torch.no_grad()
    def add_up(self, weights: Sequence[nn.Parameter], values: torch.Tensor) -> torch.Tensor:
        """Give each of `weights` the sum of all processes' gradients; the sum of their `values`, `[n]` float32.

        A weight that no process has a gradient for is left without.
        """
        if self.size == 1:
            return values
        got = torch.tensor([weight.grad is not None for weight in weights], device=values.device, dtype=values.dtype)
        gradients = [torch.zeros_like(weight) if weight.grad is None else weight.grad for weight in weights]
        whole = torch.cat([values, got, *(gradient.reshape(-1) for gradient in gradients)])
        distributed.all_reduce(whole)
        lengths = [len(values), len(got), *(weight.numel() for weight in weights)]
        values, got, *sums = torch.split(whole, lengths)
        for weight, has, total in zip(weights, got.tolist(), sums, strict=True):
            weight.grad = total.view_as(weight) if has else None
        return values

    def leaders(self, value: float, device: torch.device) -> float:
        """The leader's `value`, so that all decide alike."""
        if self.size == 1:
            return value
        told = torch.tensor([value], dtype=torch.float64, device=device)
        distributed.broadcast(told, src=0)
        return float(told)


@contextmanager
def assembled(directory: Path, compute: Compute) -> Iterator[Team]:
    """The team of this process, within.

    They meet in a file in the job's directory, and speak over loopback: torch's own way to meet listens on every
    address of the machine. Under torchrun, which has met already, it is torchrun's way.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield Team()
        return
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    os.environ.setdefault("NCCL_SOCKET_IFNAME", "lo")
    gpu = compute.device.type == "cuda"
    by_torchrun = "TORCHELASTIC_RUN_ID" in os.environ
    distributed.init_process_group(
        "nccl" if gpu else "gloo",
        init_method="env://" if by_torchrun else f"file://{(directory / os.environ[MEETING]).resolve()}",
        rank=rank(),
        timeout=PATIENCE,
        world_size=size,
        device_id=compute.device if gpu else None,
    )
    try:
        yield Team(rank(), size)
    finally:
        distributed.destroy_process_group()
