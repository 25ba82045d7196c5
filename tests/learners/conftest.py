from pathlib import Path

import pytest
import torch

from learners.device import Compute
from learners.job import AGEM, DER, EWC, MAS, SI, Example, Job, LwF, Recent, write_rows
from learners.model import LoadedModel, create
from tests.sentences import LABELS, examples


@pytest.fixture
def compute():
    return Compute(torch.device("cpu"), torch.float32)


@pytest.fixture
def model(encoder: Path) -> LoadedModel:
    return create(str(encoder), LABELS, 32, seed=0)


@pytest.fixture
def job(encoder: Path) -> Job:
    return Job(
        id="job-1",
        method="replay+ewc",
        labels=LABELS,
        encoder=str(encoder),
        epochs=2,
        learning_rate=2e-3,
        warmup_share=0.1,
        weight_decay=0.01,
        batch_size=8,
        max_tokens=32,
        ewc=EWC(strength=1.0, decay=0.9, samples=16),
        si=SI(strength=1.0, decay=0.9),
        mas=MAS(strength=1.0, decay=0.9, samples=16),
        lwf=LwF(strength=1.0, temperature=2.0),
        der=DER(strength=0.5),
        agem=AGEM(samples=8),
        seed=0,
        device="cpu",
        threads=1,
    )


def write_job(directory: Path, job: Job, *, new: list[Example], replay: list[Example] | None = None) -> Path:
    """`job` as the daemon writes it, with a gate and recent texts."""
    directory.mkdir(parents=True)
    (directory / "job.json").write_text(job.model_dump_json())
    write_rows(directory / "new.jsonl", new)
    write_rows(directory / "replay.jsonl", replay or [])
    write_rows(directory / "gate.jsonl", examples(12, offset=60, key="ACME"))
    write_rows(directory / "recent.jsonl", [Recent(id=f"r{n}", text=f"globex surge {n}") for n in range(5)])
    return directory
