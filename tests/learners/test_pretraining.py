import hashlib
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

from learners.errors import LearnerError
from learners.interpolation import weights_of
from learners.job import Job, Pretraining, Progress, Report, read_rows, write_rows
from learners.model import LoadedModel, create
from learners.pretraining import Pretrainer
from learners.run import run
from tests.learners.conftest import write_job
from tests.learners.test_pseudo_labels import SETTINGS, unlabelled
from tests.sentences import LABELS, examples, sentence

PRETRAINING = Pretraining(epochs=20, learning_rate=3e-3, mask_share=0.15, max_steps=1_000)


@pytest.fixture(scope="session")
def guessing(encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny encoder, with one of its words for a mask."""
    directory = tmp_path_factory.mktemp("guessing") / "encoder"
    shutil.copytree(encoder, directory)
    tokenizer = AutoTokenizer.from_pretrained(directory)
    tokenizer.mask_token = "pad"  # noqa: S105 - a word of its vocabulary
    tokenizer.save_pretrained(directory)
    return directory


@pytest.fixture
def reader(guessing: Path) -> LoadedModel:
    return create(str(guessing), LABELS, 32, seed=0)


@pytest.fixture
def reading(job: Job, guessing: Path) -> Job:
    return job.model_copy(update={"encoder": str(guessing), "pretraining": PRETRAINING})


READ = [sentence(n, slang=True)[0] for n in range(45)]
UNREAD = [sentence(n, slang=True)[0] for n in range(45, 60)]


def test_hidden_words_of_texts_that_were_not_read_are_guessed_better_after_reading_others(reader, reading, compute):
    torch.manual_seed(0)
    pretrainer = Pretrainer(reader, PRETRAINING, reading, compute)
    before = pretrainer.guess(UNREAD)
    assert before == pytest.approx(math.log(reader.classifier.encoder.config.vocab_size), rel=0.1)
    assert pretrainer.train(READ) == 20 * 6  # ceil(45 / 8) batches
    assert pretrainer.guess(UNREAD) < 0.8 * before


def test_the_encoder_learns_and_not_its_head_alone(reader, reading, compute):
    before = weights_of(reader)
    Pretrainer(reader, PRETRAINING, reading, compute).train(READ)
    changed = {name for name, weight in weights_of(reader).items() if not torch.equal(weight, before[name])}
    assert "encoder.embeddings.word_embeddings.weight" in changed
    assert "encoder.encoder.layer.0.attention.self.query.weight" in changed
    assert not changed & {"head.weight", "head.bias"}


def test_a_fresh_head_learns_alone_first(reader, reading, compute):
    before = weights_of(reader)
    settings = PRETRAINING.model_copy(update={"max_steps": 100})
    seen = []

    class Looking:
        def after_update(self, pretrainer):
            same = all(torch.equal(weight, before[name]) for name, weight in weights_of(reader).items())
            seen.append((pretrainer.step, same))

    Pretrainer(reader, settings, reading, compute).train(READ, Looking())
    assert [step for step, same in seen if same] == list(range(1, 26))


@pytest.mark.parametrize(("epochs", "most", "steps"), [(2, 100, 12), (0.5, 100, 3), (2, 5, 5)])
def test_steps_are_bounded(reader, reading, compute, epochs, most, steps):
    settings = PRETRAINING.model_copy(update={"epochs": epochs, "max_steps": most})
    assert Pretrainer(reader, settings, reading, compute).train(READ) == steps


def test_words_are_hidden_as_bert_hides_them(reader, reading, compute):
    pretrainer = Pretrainer(reader, PRETRAINING, reading, compute)
    rows = reader.tokenise(["acme surge again loss slump report meeting profit record upgrade"] * 2_000)
    ids, targets = pretrainer._hidden(rows, torch.Generator().manual_seed(0))
    asked = targets >= 0
    truth = torch.tensor(rows[0]).expand(2_000, -1)
    assert torch.equal(targets[asked], truth[asked].long())
    assert torch.equal(ids[~asked], truth[~asked].long())
    # Neither the first nor the last, which begin and end the text; each text has one.
    assert not asked[:, [0, -1]].any()
    assert asked.any(1).all()
    assert 0.15 < asked.sum().item() / (2_000 * 10) < 0.19
    mask = reader.tokenizer.mask_token_id
    assert 0.78 < (ids[asked] == mask).float().mean() < 0.83
    assert 0.08 < (ids[asked] == truth[asked]).float().mean() < 0.13
    assert not (ids == reader.pad_id).any()


def test_texts_without_a_word_to_hide_are_passed_over(reader, reading, compute):
    assert Pretrainer(reader, PRETRAINING, reading, compute).train(["", "!!! ???", " "]) == 0


def test_an_encoder_without_a_mask_token_is_refused(model, reading, compute):
    with pytest.raises(LearnerError, match="has no mask token"):
        Pretrainer(model, PRETRAINING, reading, compute)


def digest(directory: Path) -> str:
    return hashlib.sha256((directory / "candidate/model.safetensors").read_bytes()).hexdigest()


def test_the_same_seed_reads_to_the_same_weights_and_another_to_others(reading, tmp_path):
    digests = []
    for name, seed in (("one", 0), ("two", 0), ("three", 1)):
        write_job(tmp_path / name, reading.model_copy(update={"seed": seed}), new=examples(24))
        write_rows(tmp_path / name / "unlabelled.jsonl", unlabelled(20))
        torch.manual_seed(hash(name))
        run(tmp_path / name)
        digests.append(digest(tmp_path / name))
    assert digests[0] == digests[1] != digests[2]


def test_a_learner_process_reads_and_labels_and_writes_differently_before_it_learns(reading, tmp_path):
    # Given a first model
    write_job(tmp_path / "first", reading.model_copy(update={"epochs": 30, "pretraining": None}), new=examples(36))
    run(tmp_path / "first")
    # When an update of it does all there is to do with texts without labels, here and in a process of its own
    update = {"parent": tmp_path / "first/candidate", "pseudo_labels": SETTINGS, "augmentation": 0.3}
    for place in ("here", "there"):
        write_job(tmp_path / place, reading.model_copy(update=update), new=examples(24), replay=examples(12, offset=24))
        write_rows(tmp_path / place / "gate.jsonl", examples(120, offset=300))
        write_rows(tmp_path / place / "unlabelled.jsonl", unlabelled(30, offset=500))
    report = run(tmp_path / "here")
    command = [sys.executable, "-m", "learners", str(tmp_path / "there")]
    assert subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, timeout=300, check=False).returncode == 0
    # Then it has: to the same weights, with its progress
    there = Report.model_validate_json((tmp_path / "there/report.json").read_bytes())
    assert (report.pretraining_steps, there.pretraining_steps) == (20 * 9, 20 * 9)  # ceil((30 + 36) / 8) batches
    assert report.pseudo_labelled == there.pseudo_labelled > 0
    assert digest(tmp_path / "here") == digest(tmp_path / "there")
    rows = list(read_rows(tmp_path / "there/metrics.jsonl", Progress))
    phases = [row.phase for row in rows]
    assert phases == sorted(phases, reverse=True)  # pretraining, then learning
    last = {row.phase: row for row in rows}
    assert last["pretraining"].step == last["pretraining"].steps == 180
    assert last["learning"].step == last["learning"].steps == report.steps
    assert report.candidate.accuracy > 0.9
