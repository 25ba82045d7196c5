"""Reading before learning: the encoder goes on with its pretraining, on the job's own texts, labelled or not.

Words are hidden and guessed (Devlin et al. 2019, "BERT"), so that the encoder has met a new domain's language before
its first label (Gururangan et al. 2020, "Don't stop pretraining").
"""

import math
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from avalanche.training.plugins import SupervisedPlugin
from torch import nn

from learners.data import LengthGroupedBatches
from learners.device import Compute
from learners.job import Job, Pretraining
from learners.model import LoadedModel, ModelError, Tokens
from learners.progress import ProgressPlugin, Tell
from learners.scoring import pad
from learners.snapshot import Snapshot
from learners.strategy import CLIP, TrainingError, optimiser, rate

#: Share of the steps in which the head, fresh in every job, learns alone: what it asks of the encoder before it has
#: learned anything would only harm it.
ALONE = 0.25

#: Of the hidden words, how many are replaced by the mask and how many by any word; the rest stay. BERT's own choice.
MASKED, RANDOM = 0.8, 0.1

#: The target of a position that need not be guessed: what cross-entropy leaves out.
SEEN = -100


def pretrain(model: LoadedModel, snapshot: Snapshot, job: Job, compute: Compute, tell: Tell) -> int:
    """Have `model` read all texts of the job but the held-out ones, if it asks for that; how many steps it took.

    `tell` is told how it goes.

    Raises:
        LearnerError: the encoder cannot be trained in this way, or training went wrong.
    """
    if job.pretraining is None:
        return 0
    texts = [row.text for row in snapshot.unlabelled]
    texts += [example.text for example in (*snapshot.new, *snapshot.replay)]
    progress = ProgressPlugin(tell, time.monotonic, phase="pretraining")
    return Pretrainer(model, job.pretraining, job, compute).train(texts, progress)


class GuessingHead(nn.Module):
    """BERT's head for hidden words: dense, GELU, normalisation, and the encoder's own word embeddings.

    The embeddings are passed in, for they are the encoder's: `[words, width]`.
    """

    def __init__(self, hidden: int, words: int, width: int, generator: torch.Generator) -> None:
        super().__init__()
        self.dense = nn.Linear(hidden, width)
        self.norm = nn.LayerNorm(width)
        self.bias = nn.Parameter(torch.zeros(words))
        with torch.no_grad():
            # As BERT's own layers begin.
            self.dense.weight.normal_(0.0, 0.02, generator=generator)
            self.dense.bias.zero_()

    def forward(self, states: torch.Tensor, embeddings: torch.Tensor) -> torch.Tensor:
        """States `[positions, hidden]` to logits `[positions, words]` float32."""
        return nn.functional.linear(self.norm(nn.functional.gelu(self.dense(states))), embeddings, self.bias).float()


class Pretrainer:
    """Hides words of texts and trains the encoder to guess them. Plugins may read `step`, `steps`, `loss` and so on."""

    #: What plugins added to the loss: nothing.
    penalty = 0.0

    def __init__(self, model: LoadedModel, settings: Pretraining, job: Job, compute: Compute) -> None:
        if model.tokenizer.mask_token_id is None:
            raise ModelError(
                "learning.pretraining hides words, and the encoder's tokeniser has no mask token",
                "turn it off, or name an encoder that was trained in that way, such as a BERT",
            )
        self._model = model
        self._settings = settings
        self._job = job
        self._compute = compute
        self._generator = torch.Generator().manual_seed(job.seed)
        encoder: Any = model.classifier.encoder
        self._embeddings: nn.Embedding = encoder.get_input_embeddings()
        words, width = self._embeddings.weight.shape
        self._head = GuessingHead(model.classifier.head.in_features, words, width, self._generator).to(compute.device)
        self._mask = int(model.tokenizer.mask_token_id)
        # Nothing is learned from guessing where a text ends, or which word the tokeniser did not know.
        self._special = torch.tensor(sorted({model.pad_id, *model.tokenizer.all_special_ids}))
        self.step = self.steps = 0
        self.loss = torch.zeros(())
        self.learning_rate = 0.0

    def train(self, texts: Sequence[str], plugin: SupervisedPlugin | None = None) -> int:
        """Go over `texts` as often as the settings say, within their steps; how many steps it was.

        Raises:
            TrainingError: the weights are no numbers any more, or the device has too little memory.
        """
        rows = [ids for ids in self._model.tokenise(texts) if not np.isin(ids, self._special.numpy()).all()]
        # As many at once as a part of a batch in learning: what fits there fits here.
        size = max(1, self._job.batch_size // self._job.accumulate)
        batches = LengthGroupedBatches([len(ids) for ids in rows], size, self._job.seed)
        self.steps = min(math.ceil(self._settings.epochs * len(batches)), self._settings.max_steps)
        both = nn.ModuleList([self._model.classifier.encoder, self._head])
        optimizer = optimiser(both, self._settings.learning_rate, self._job.weight_decay)
        both.train()
        try:
            while self.step < self.steps:
                for batch in batches:
                    self._take_step(optimizer, both, [rows[at] for at in batch])
                    if plugin is not None:
                        plugin.after_update(self)
                    if self.step == self.steps:
                        break
        except torch.OutOfMemoryError as error:
            raise TrainingError(
                f"{self._compute.device} ran out of memory ({error})", "lower batch_size or max_tokens"
            ) from error
        both.eval()
        return self.step

    @torch.no_grad()
    def guess(self, texts: Sequence[str]) -> float:
        """Mean loss, in nats, of guessing hidden words of `texts`: the same words at every call."""
        self._model.classifier.eval()
        hidden, targets = self._hidden(self._model.tokenise(texts), torch.Generator().manual_seed(self._job.seed))
        return float(self._loss(hidden, targets, alone=False))

    def _take_step(self, optimizer: torch.optim.Optimizer, both: nn.Module, rows: Sequence[Tokens]) -> None:
        hidden, targets = self._hidden(rows, self._generator)
        optimizer.zero_grad()
        loss = self._loss(hidden, targets, alone=self.step < round(ALONE * self.steps))
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(both.parameters(), CLIP)
        self.learning_rate = self._settings.learning_rate * rate(self.step, self.steps, self._job.warmup_share)
        for group in optimizer.param_groups:
            group["lr"] = self.learning_rate
        optimizer.step()
        self.loss = loss.detach()
        self.step += 1

    def _hidden(self, rows: Sequence[Tokens], generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """A batch with words hidden, and what they were, `SEEN` elsewhere; `[batch, longest]` int64, on the device.

        Drawn on the CPU, so that it is the same on every device. Of each text one word is hidden at least.
        """
        ids = pad(rows, self._model.pad_id)
        draws = torch.rand(ids.shape, generator=generator).masked_fill(torch.isin(ids, self._special), 2.0)
        chosen = (draws < self._settings.mask_share) | (draws == draws.min(1, keepdim=True).values)
        chosen &= draws < 1
        targets = ids.masked_fill(~chosen, SEEN)
        fate = torch.rand(ids.shape, generator=generator)
        others = torch.randint(self._embeddings.num_embeddings, ids.shape, generator=generator)
        # Never the pad id: the mask is read off the ids.
        others = torch.where(others == self._model.pad_id, ids, others)
        ids = torch.where(chosen & (fate < MASKED), self._mask, ids)
        ids = torch.where(chosen & (fate >= MASKED) & (fate < MASKED + RANDOM), others, ids)
        return self._compute.put(ids), self._compute.put(targets)

    def _loss(self, ids: torch.Tensor, targets: torch.Tensor, *, alone: bool) -> torch.Tensor:
        """Mean cross-entropy over the hidden words. `alone`, nothing of the encoder learns from it."""
        asked = targets != SEEN
        weights = self._embeddings.weight
        with self._compute.autocast():
            with torch.set_grad_enabled(torch.is_grad_enabled() and not alone):
                attention = (ids != self._model.pad_id).long()
                states = self._model.classifier.encoder(input_ids=ids, attention_mask=attention).last_hidden_state
            logits = self._head(states[asked], weights.detach() if alone else weights)
        return nn.functional.cross_entropy(logits, targets[asked])
