import json
import socket

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from learners.model import ModelError, Sketch, create, load, projection
from learners.scoring import forward_batches
from tests.sentences import LABELS, examples

CPU = torch.device("cpu")


def test_a_saved_model_scores_as_it_did(model, compute, tmp_path):
    tokens = model.tokenise([example.text for example in examples(9)])
    before = forward_batches(model, tokens, 64, compute)
    model.save(tmp_path / "v1")
    loaded = load(tmp_path / "v1", CPU)
    after = forward_batches(loaded, loaded.tokenise([example.text for example in examples(9)]), 64, compute)
    np.testing.assert_array_equal(before.probabilities, after.probabilities)
    np.testing.assert_array_equal(before.sketches, after.sketches)
    assert loaded.labels == LABELS
    assert loaded.max_tokens == 32


def test_a_saved_model_is_safetensors_and_json_only(model, tmp_path):
    model.save(tmp_path)
    assert {path.suffix for path in tmp_path.iterdir()} == {".safetensors", ".json"}


def test_the_shipped_encoder_needs_no_network(tmp_path, monkeypatch, compute):
    def refuse(*_):
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    model = create("minilm", LABELS, 128, seed=0)
    model.save(tmp_path)
    model = load(tmp_path, CPU)
    texts = ["Shares soar on record profit", "Stock surges after record earnings", "The weather in Oslo is mild"]
    near, also_near, far = forward_batches(model, model.tokenise(texts), 64, compute).sketches
    assert np.linalg.norm(near - also_near) < np.linalg.norm(near - far)


def test_the_same_seed_gives_the_same_fresh_model(encoder):
    one, two = (create(str(encoder), LABELS, 32, seed=3).classifier.head.weight for _ in range(2))
    assert torch.equal(one, two)
    assert not torch.equal(one, create(str(encoder), LABELS, 32, seed=4).classifier.head.weight)


def test_a_model_moves_whole(encoder):
    moved = create(str(encoder), LABELS, 32, seed=0).to(torch.device("meta"))
    weights = {weight.device.type for weight in moved.classifier.parameters()}
    assert weights == {moved.projection.device.type} == {"meta"}


def test_a_text_that_spells_a_special_token_is_text(model):
    (spelt,) = model.tokenise(["acme [PAD] again"])
    assert model.pad_id not in spelt
    assert len(spelt) == len(model.tokenise(["acme [ pad ] again"])[0])


def test_a_long_text_is_cut_and_an_empty_one_still_has_tokens(model):
    long, empty = model.tokenise(["acme " * 500, ""])
    assert len(long) == 32
    assert len(empty) == 2


def test_two_models_tokenise_independently(model):
    shorter = model.with_max_tokens(5)
    assert [len(m.tokenise(["acme " * 50])[0]) for m in (shorter, model)] == [5, 32]


def test_a_new_label_starts_afresh_and_the_others_go_on(model, compute):
    grown = model.with_labels(["positive", "mixed", "negative"], seed=1)
    assert torch.equal(grown.classifier.head.weight[0], model.classifier.head.weight[2])
    assert torch.equal(grown.classifier.head.weight[2], model.classifier.head.weight[0])
    assert forward_batches(grown, grown.tokenise(["acme"]), 64, compute).probabilities.shape == (1, 3)


def test_the_projection_keeps_distances():
    points = np.random.default_rng(0).standard_normal((50, 384)).astype(np.float32)
    sketches = points @ projection(384, Sketch()).numpy()
    ratio = np.linalg.norm(sketches[:25] - sketches[25:], axis=1) / np.linalg.norm(points[:25] - points[25:], axis=1)
    assert 0.7 < ratio.min() < ratio.max() < 1.3


def test_more_tokens_than_the_encoder_reads_are_refused(encoder):
    with pytest.raises(ModelError, match="max_tokens is 41 but the encoder reads 40"):
        create(str(encoder), LABELS, 41, seed=0)


def test_an_encoder_that_is_not_there_is_named(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match="empty' cannot be loaded"):
        create(str(tmp_path / "empty"), LABELS, 32, seed=0)


def test_a_directory_that_is_no_model_is_named(tmp_path):
    with pytest.raises(ModelError, match=r"relearnd\.json is not there"):
        load(tmp_path, CPU)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_a_missing_file_is_named(model, tmp_path, name):
    model.save(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(ModelError, match=f"lacks {name}"):
        load(tmp_path, CPU)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json", "relearnd.json"])
def test_a_damaged_file_is_refused(model, tmp_path, name):
    model.save(tmp_path)
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelError, match="damaged"):
        load(tmp_path, CPU)


def test_weights_of_another_model_are_refused(model, tmp_path):
    model.save(tmp_path)
    described = json.loads((tmp_path / "relearnd.json").read_text())
    described["labels"].append("mixed")
    (tmp_path / "relearnd.json").write_text(json.dumps(described))
    with pytest.raises(ModelError, match="does not fit"):
        load(tmp_path, CPU)


def test_without_a_pad_token_the_end_token_pads(model, tmp_path, encoder):
    def retokenise(special):
        words = Tokenizer(WordLevel({"<end>": 0, "<unk>": 1, "acme": 2}, unk_token="<unk>"))  # noqa: S106
        words.pre_tokenizer = pre_tokenizers.Whitespace()
        PreTrainedTokenizerFast(tokenizer_object=words, **special).save_pretrained(tmp_path)

    model.save(tmp_path)
    retokenise({"eos_token": "<end>", "unk_token": "<unk>"})
    padded = load(tmp_path, CPU)
    assert padded.pad_id == 0
    assert [ids.tolist() for ids in padded.tokenise(["acme acme", ""])] == [[2, 2], [1]]
    retokenise({"unk_token": "<unk>"})
    with pytest.raises(ModelError, match="no pad token"):
        load(tmp_path, CPU)
