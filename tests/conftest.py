"""What tests of several parts share: a real encoder that is tiny, and quiet threads."""

import os

# Read when torch is first imported. Spinning threads would slow down every process that a test starts beside its own.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, normalizers, pre_tokenizers
from tokenizers.models import WordPiece
from tokenizers.processors import TemplateProcessing
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from tests.kafka import Cluster, UnavailableError
from tests.sentences import every_word


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT of two layers that has learned nothing, with a WordPiece vocabulary of the examples' words."""
    directory = tmp_path_factory.mktemp("encoder")
    words = sorted(every_word())
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


@pytest.fixture(scope="session")
def start_kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Cluster]]:
    """Starts a `Cluster` of its own, with the arguments given; it runs until it is stopped, or the tests have ended."""
    with ExitStack() as running:

        def start(nodes: int = 1, **options: object) -> Cluster:
            try:
                cluster = Cluster(tmp_path_factory.mktemp("kafka"), nodes, **options)
            except UnavailableError as error:
                if os.environ.get("CI") == "true":
                    pytest.fail(str(error))
                pytest.skip(str(error))
            return running.enter_context(cluster)

        yield start


@pytest.fixture(scope="session")
def kafka(start_kafka: Callable[..., Cluster]) -> Cluster:
    """One node that many tests share: name topics and groups so that they meet no other test's, and do not kill it."""
    return start_kafka()
