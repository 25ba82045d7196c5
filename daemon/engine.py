"""How a model version runs in the daemon: loaded, warmed, scoring whole batches of tokenised texts."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from daemon.config import Config
from learners.device import Compute, resolve, use_threads
from learners.model import LoadedModel, Tokens, load
from learners.scoring import Scored, forward_batches

#: Padded tokens of a forward pass by default. A CPU is fastest while a batch's activations fit its caches (measured:
#: 2,048 scores 1.5 times as many texts a second as 8,192); a GPU wants work for all of its cores.
TOKEN_BUDGET = {"cpu": 2_048, "cuda": 16_384}

#: Words of the warm-up texts: one short and one as long as the model reads, so that both shapes have run once.
WARM_UP_WORDS = (4, 10_000)


@dataclass(frozen=True)
class Engine:
    """One model version, ready to score. `token_budget` bounds the padded tokens of a forward pass."""

    version: str
    model: LoadedModel
    compute: Compute
    token_budget: int

    @property
    def labels(self) -> list[str]:
        return self.model.labels

    def tokenise(self, texts: Sequence[str]) -> list[Tokens]:
        return self.model.tokenise(texts)

    def score(self, tokens: Sequence[Tokens]) -> Scored:
        """Probabilities `[texts, labels]` and sketches `[texts, 64]`, in the order of `tokens`."""
        return forward_batches(self.model, tokens, self.token_budget, self.compute)

    def best(self, texts: Sequence[str]) -> list[str]:
        """The likeliest label of each text."""
        return [self.labels[int(at)] for at in self.score(self.tokenise(texts)).probabilities.argmax(axis=1)]


def token_budget(config: Config, compute: Compute) -> int:
    return config.scorer.token_budget or TOKEN_BUDGET[compute.device.type]


def load_engine(version: str, directory: Path, config: Config) -> Engine:
    """The version in `directory` on the configured device, after a first forward pass.

    Raises:
        learners.errors.LearnerError: the model or the device cannot be used.
    """
    use_threads(config.model.threads)
    compute = resolve(config.model.device, config.model.precision)
    engine = Engine(version, load(directory, compute.device), compute, token_budget(config, compute))
    engine.score(engine.tokenise(["word " * words for words in WARM_UP_WORDS]))
    return engine
