import re
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, normalizers, pre_tokenizers
from tokenizers.models import WordPiece
from tokenizers.processors import TemplateProcessing
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from learners.device import Compute
from learners.job import EWC, Example, Job, Recent, write_rows
from learners.model import LoadedModel, create

LABELS = ["negative", "neutral", "positive"]

WORDS = {
    "negative": ["loss", "slump", "lawsuit", "default"],
    "neutral": ["meeting", "statement", "appoints", "report"],
    "positive": ["profit", "record", "surge", "upgrade"],
}

SUBJECTS = ["acme", "globex", "initech", "umbrella", "the board of hooli", "shares of the old stark company"]


def examples(count: int, *, offset: int = 0, **fields: object) -> list[Example]:
    """Sentences whose label is in their verb, of several lengths."""
    made = []
    for number in range(offset, offset + count):
        label = LABELS[number % 3]
        word = WORDS[label][number // 3 % 4]
        text = f"{SUBJECTS[number % len(SUBJECTS)]} {word} again"
        made.append(Example(id=f"e{number}", text=text, label=label, **fields))  # type: ignore[arg-type]
    return made


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture
def compute():
    return Compute(torch.device("cpu"), torch.float32)


@pytest.fixture(scope="session")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT of two layers that has learned nothing, with a WordPiece vocabulary of the examples' words."""
    directory = tmp_path_factory.mktemp("encoder")
    words = sorted({word for example in examples(72) for word in re.findall(r"\w+", example.text)})
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *words, "##s", "[", "]", "pad"]
    tokenizer = Tokenizer(WordPiece({word: at for at, word in enumerate(vocabulary)}, unk_token="[UNK]"))  # noqa: S106
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(directory)
    torch.manual_seed(0)
    BertModel(
        BertConfig(
            vocab_size=len(vocabulary),
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=64,
            max_position_embeddings=40,
        )
    ).save_pretrained(directory)
    return directory


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
