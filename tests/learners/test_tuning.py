import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from peft import PeftModel
from pydantic import ValidationError
from safetensors.torch import load_file
from transformers import DistilBertConfig, DistilBertModel

from learners.adapters import AdapterError, Sizes
from learners.job import LEARNING_RATES, MERGED, Adapter, write_rows
from learners.methods.ewc import OnlineEWC
from learners.model import ModelError, create, load
from learners.run import run
from learners.scoring import forward_batches, pad
from learners.strategy import Logits, TextStrategy, trained
from learners.tuning import ADAPTER, ADAPTER_CONFIG, SERVED, tune
from tests.learners.conftest import write_job
from tests.learners.test_stopping import flipped
from tests.sentences import LABELS, examples

CPU = torch.device("cpu")
SMALL = Adapter(rank=2, tokens=4, width=6)


def learn(job, directory, *, parent=None, **settings):
    """A job and its report; `parent` is a directory of another."""
    settings |= {"parent": parent / "candidate" if parent else None, "adapter": SMALL}
    job = job.model_copy(update=settings)
    write_job(directory, job, new=examples(48, offset=60 if parent else 0), replay=examples(24) if parent else None)
    return run(directory)


@pytest.fixture(scope="module")
def first(tmp_path_factory, encoder):
    """A job that the others go on from, fully tuned."""
    from tests.learners.conftest import job as fixture

    directory = tmp_path_factory.mktemp("first") / "job"
    learn(fixture.__wrapped__(encoder), directory, epochs=6)
    return directory


@pytest.mark.parametrize("tuning", sorted(LEARNING_RATES))
def test_each_learns_and_holds_on_to_what_it_learned_over_two_jobs(job, tmp_path, tuning):
    settings = {"tuning": tuning, "epochs": 40, "learning_rate": {"full": 2e-3, "lora": 1e-2}.get(tuning, 4e-2)}
    learn(job, tmp_path / "one", **settings)
    report = learn(job, tmp_path / "two", parent=tmp_path / "one", **settings)
    assert report.candidate.accuracy > 0.9
    held = load_file(tmp_path / "two/candidate/ewc.safetensors")
    assert held.keys() >= load_file(tmp_path / "one/candidate/ewc.safetensors").keys() >= {"head.weight"}
    assert report.tuning == tuning


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
@pytest.mark.parametrize("tuning", sorted(MERGED))
def test_an_adapter_is_merged_and_kept_as_peft_loads_it(job, tmp_path, first, tuning):
    report = learn(job, tmp_path / "job", parent=first, tuning=tuning, learning_rate=4e-2, epochs=8)
    kept = tmp_path / "kept"
    kept.mkdir()
    shutil.copy(tmp_path / "job/candidate" / ADAPTER, kept / "adapter_model.safetensors")
    shutil.copy(tmp_path / "job/candidate" / ADAPTER_CONFIG, kept / "adapter_config.json")
    parent, candidate = load(first / "candidate", CPU), load(tmp_path / "job/candidate", CPU)
    ids = pad(parent.tokenise([one.text for one in examples(6)]), parent.pad_id)
    asked = {"input_ids": ids, "attention_mask": (ids != parent.pad_id).long()}
    with torch.no_grad():
        before = parent.classifier.encoder(**asked).last_hidden_state
        merged = candidate.classifier.encoder(**asked).last_hidden_state
        adapted = PeftModel.from_pretrained(parent.classifier.encoder, str(kept))(**asked).last_hidden_state
    torch.testing.assert_close(merged, adapted, atol=1e-5, rtol=1e-4)
    assert float((merged - before).abs().max()) > 1e-2
    if tuning == "lora":
        linear = [m for m in candidate.classifier.encoder.modules() if isinstance(m, torch.nn.Linear)]
        head = candidate.classifier.head
        factors = sum(SMALL.rank * (one.in_features + one.out_features) for one in linear)
        assert report.trained_weights == factors + head.weight.numel() + head.bias.numel()


@pytest.mark.parametrize("tuning", sorted(LEARNING_RATES.keys() - {"full"}))
def test_what_is_not_tuned_stays_as_it_is(job, tmp_path, first, tuning):
    learn(job, tmp_path / "job", parent=first, tuning=tuning)
    before, after = (load_file(at / "candidate/model.safetensors") for at in (first, tmp_path / "job"))
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert {"head.weight", "head.bias"} <= moved
    if tuning in SERVED:
        assert moved == {"head.weight", "head.bias"}
        assert {name.split(".")[:2] == ["adapters", SERVED[tuning]] for name in after.keys() - before.keys()} == {True}
        assert not (tmp_path / "job/candidate" / ADAPTER).exists()
    else:
        assert after.keys() == before.keys()
        assert not any("embeddings" in name or "LayerNorm" in name for name in moved)
        assert any("attention" in name for name in moved)


@pytest.mark.parametrize("tuning", sorted(MERGED))
def test_what_an_adapter_does_to_the_weights_is_held_and_not_its_numbers(job, model, compute, tuning):
    job = job.model_copy(update={"tuning": tuning, "adapter": SMALL})
    (merging,) = tune(model, job)
    generator = torch.Generator().manual_seed(1)
    importance = {name: torch.rand(one.shape, generator=generator) for name, one in merging.effective().items()}
    ewc = OnlineEWC(strength=3.0, decay=0.9, samples=4, seed=0, rows=[], importance=importance)
    logits = Logits(model.classifier, model.pad_id, compute)
    strategy = TextStrategy(model=logits, job=job, compute=compute, plugins=[merging, ewc])
    ewc.before_training_exp(strategy)
    anchors = {name: one.detach().clone() for name, one in merging.effective().items()}
    with torch.no_grad():
        for _, weight in trained(logits):
            weight.add_(torch.randn(weight.shape, generator=generator), alpha=0.1)
            weight.grad = torch.zeros_like(weight)
    strategy.loss = torch.zeros(())
    ewc.before_update(strategy)
    weights = merging.effective()
    expected = 1.5 * sum((importance[name] * (weights[name] - anchors[name]).square()).sum() for name in weights)
    torch.testing.assert_close(strategy.loss, expected.detach(), rtol=1e-4, atol=1e-4)
    of = [weight for _, weight in trained(logits)]
    for weight, gradient in zip(of, torch.autograd.grad(expected, of), strict=True):
        torch.testing.assert_close(weight.grad, gradient, rtol=1e-3, atol=1e-4)


def test_adalora_gives_ranks_up(job, tmp_path, first):
    learn(job, tmp_path / "job", parent=first, tuning="adalora", epochs=10, learning_rate=1e-2)
    kept = load_file(tmp_path / "job/candidate" / ADAPTER)
    ranks = [int((one != 0).sum()) for name, one in kept.items() if name.endswith("lora_E")]
    assert set(map(len, (one for name, one in kept.items() if name.endswith("lora_E")))) == {3}
    assert sum(ranks) == pytest.approx(SMALL.rank * len(ranks), abs=1)
    assert len(set(ranks)) > 1
    assert json.loads((tmp_path / "job/candidate" / ADAPTER_CONFIG).read_text())["peft_type"] == "ADALORA"


@pytest.mark.parametrize("tuning", sorted(SERVED))
def test_a_text_is_answered_alike_alone_and_padded_in_a_batch(job, tmp_path, first, compute, tuning):
    learn(job, tmp_path / "job", parent=first, tuning=tuning, epochs=8, learning_rate=4e-2)
    model = load(tmp_path / "job/candidate", CPU)
    tokens = model.tokenise([one.text for one in examples(8)] + ["acme"])
    together = forward_batches(model, tokens, 10_000, compute).probabilities
    alone = np.concatenate([forward_batches(model, [one], 10_000, compute).probabilities for one in tokens])
    np.testing.assert_allclose(together, alone, atol=1e-5)
    plain = load(first / "candidate", CPU)
    plain.classifier.head = model.classifier.head
    without = forward_batches(plain, tokens, 10_000, compute).probabilities
    assert np.abs(together - without).max() > 1e-3


def test_what_is_served_needs_no_peft(job, tmp_path, first):
    for tuning in ("lora", "prefix"):
        learn(job, tmp_path / tuning, parent=first, tuning=tuning)
    script = (
        "import sys, torch; from pathlib import Path; from learners.model import load\n"
        "for at in sys.argv[1:]: load(Path(at), torch.device('cpu'))\n"
        "assert 'peft' not in sys.modules"
    )
    where = [str(tmp_path / tuning / "candidate") for tuning in ("lora", "prefix")]
    subprocess.run([sys.executable, "-c", script, *where], check=True)


def test_an_adapter_goes_on_learning_at_the_size_it_has(job, tmp_path, first):
    learn(job, tmp_path / "one", parent=first, tuning="prompt")
    job = job.model_copy(update={"tuning": "adapter", "parent": tmp_path / "one/candidate", "adapter": SMALL})
    write_job(tmp_path / "two", job, new=examples(24))
    run(tmp_path / "two")
    larger = Adapter(rank=2, tokens=9, width=9)
    job = job.model_copy(update={"tuning": "prompt", "parent": tmp_path / "two/candidate", "adapter": larger})
    write_job(tmp_path / "three", job, new=examples(24))
    run(tmp_path / "three")
    two, three = (load(tmp_path / at / "candidate", CPU) for at in ("two", "three"))
    assert three.description.adapters == Sizes(prompt=SMALL.tokens, bottleneck=SMALL.width)
    assert not torch.equal(two.classifier.adapters.prompt, three.classifier.adapters.prompt)


def test_a_prompt_takes_room_from_the_texts(model):
    with pytest.raises(ModelError, match="max_tokens is 32 but the encoder reads 30"):
        model.with_adapters(Sizes(prompt=10), seed=0)


def test_an_encoder_that_takes_no_prefix_says_so_and_takes_the_others(job, tmp_path, encoder):
    shutil.copytree(encoder, tmp_path / "distilbert")
    vocabulary = create(str(encoder), LABELS, 32, seed=0).classifier.encoder.config.vocab_size
    config = DistilBertConfig(vocab_size=vocabulary, dim=32, n_layers=2, n_heads=2, hidden_dim=64)
    torch.manual_seed(0)
    DistilBertModel(config).save_pretrained(tmp_path / "distilbert")
    job = job.model_copy(update={"encoder": str(tmp_path / "distilbert")})
    with pytest.raises(AdapterError, match="DistilBertModel takes no prefix"):
        learn(job, tmp_path / "prefix", tuning="prefix")
    for tuning, rate in (("prompt", 4e-2), ("adapter", 2e-2), ("lora", 2e-2)):
        report = learn(job, tmp_path / tuning, tuning=tuning, epochs=40, learning_rate=rate)
        assert report.candidate.accuracy > 0.9


def test_si_cannot_follow_an_adapter(job):
    with pytest.raises(ValidationError, match="si follows plain weights"):
        type(job).model_validate(job.model_dump() | {"method": "replay+si", "tuning": "lora"})


def test_going_back_towards_the_parent_reaches_through_an_adapter(job, tmp_path, first):
    for tuning in ("lora", "prompt"):
        settings = {"parent": first / "candidate", "tuning": tuning, "adapter": SMALL, "learning_rate": 1e-2}
        write_job(tmp_path / tuning, job.model_copy(update=settings | {"interpolate": True}), new=flipped(examples(48)))
        write_rows(tmp_path / tuning / "gate.jsonl", examples(150, offset=100))
        # Its new labels are wrong, so the less of what it learned the better.
        assert run(tmp_path / tuning).interpolation == 0.2
