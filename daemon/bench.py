"""`relearnd bench`: how fast this machine scores, beside the loop that most people would write with transformers."""

import time
from collections.abc import Callable
from typing import Any

import torch

from daemon.config import Config
from daemon.demo.grammar import generate
from daemon.engine import Engine, token_budget
from learners.device import resolve, use_threads
from learners.model import LoadedModel, create

#: Texts of one batch of the plain loop: what examples on the web use.
PLAIN_BATCH = 32

#: Texts read together by the engine, as by the scorer when it is behind.
REPEATS = 3


def measure(config: Config, texts: int) -> dict[str, dict[str, float]]:
    """Seconds and texts a second for the same texts: the best of three, the two in turn."""
    use_threads(config.model.threads)
    compute = resolve(config.model.device, config.model.precision)
    stream = [text.text for text in generate(config.seed).texts]
    sample = [stream[at % len(stream)] for at in range(texts)]
    labels = ["negative", "neutral", "positive"]
    model = create(config.model.encoder, labels, config.model.max_tokens, config.seed).to(compute.device)
    engine = Engine("bench", model, compute, token_budget(config, compute))
    contenders = {
        "relearnd": lambda: _ours(engine, sample, config.scorer.max_texts),
        "plain": lambda: _plain(model, sample),
    }
    best = dict.fromkeys(contenders, float("inf"))
    for _ in range(REPEATS):
        for name, contender in contenders.items():
            best[name] = min(best[name], _seconds(contender))
    return {name: {"seconds": seconds, "texts_per_second": texts / seconds} for name, seconds in best.items()}


def _seconds(work: Callable[[], Any]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _ours(engine: Engine, texts: list[str], together: int) -> None:
    for start in range(0, len(texts), together):
        engine.score(engine.tokenise(texts[start : start + together]))


def _plain(model: LoadedModel, texts: list[str]) -> None:
    """Batches in the order of arrival, padded to the longest of each, in float32."""
    device = model.classifier.head.weight.device
    with torch.inference_mode():
        for start in range(0, len(texts), PLAIN_BATCH):
            batch = model.tokenizer(
                texts[start : start + PLAIN_BATCH],
                padding=True,
                truncation=True,
                max_length=model.max_tokens,
                return_tensors="pt",
            ).to(device)
            output = model.classifier(batch["input_ids"], batch["attention_mask"])
            output.logits.softmax(-1).cpu()
