import numpy as np
import pytest

from learners import pseudo_labels
from learners.job import Judged, PseudoLabels, Recent, Report, read_rows, write_rows
from learners.model import LoadedModel
from learners.pseudo_labels import pseudo_label, threshold
from learners.run import run
from learners.selection import chooses
from learners.snapshot import data_sha256, read_snapshot
from tests.learners.conftest import write_job
from tests.sentences import LABELS, examples, sentence

#: Of 100 answers, by their place: .99, .98, … .00.
CONFIDENCES = [(99 - place) / 100 for place in range(100)]

SETTINGS = PseudoLabels(precision=0.95, weight=0.5, ratio=1.0, forms=2)


def unlabelled(count: int, *, offset: int = 0) -> list[Recent]:
    # With a number, for there are 60 different sentences and a labelled one does not count as unlabelled.
    return [Recent(id=f"u{n}", text=f"{sentence(n)[0]} {n}", key="ACME") for n in range(offset, offset + count)]


def asked(confidences, right, precision, groups=None):
    groups = np.array(["fresh"] * len(right) if groups is None else groups, np.str_)
    return threshold(np.array(confidences, np.float32), np.array(right, bool), groups, precision)


@pytest.fixture
def parent(job, tmp_path, compute) -> LoadedModel:
    """A model that has learned the sentences."""
    write_job(tmp_path / "parent", job.model_copy(update={"epochs": 30}), new=examples(36))
    run(tmp_path / "parent")
    return pseudo_labels.load(tmp_path / "parent/candidate", compute.device)


class TestTheThreshold:
    def test_is_the_smallest_confidence_whose_answers_are_precise_enough(self):
        right = [place not in {30, 40, 41, 42, 43, 44} for place in range(100)]
        # 39 of the first 41 are right (.951), 39 of the first 42 (.929), and six mistakes are 5 % of 120 at the least.
        assert asked(CONFIDENCES, right, 0.95) == pytest.approx(0.59)
        assert asked(CONFIDENCES, right, 0.9) == pytest.approx(0.0)
        assert asked(CONFIDENCES, right, 1.0) == pytest.approx(0.70)

    def test_does_not_hang_on_the_order_of_the_answers(self):
        right = np.array([place not in {30, 40, 41, 42, 43, 44} for place in range(100)])
        order = np.random.default_rng(0).permutation(100)
        assert asked(np.array(CONFIDENCES)[order], right[order], 0.95) == pytest.approx(0.59)

    def test_is_none_where_the_target_is_never_reached(self):
        assert asked(CONFIDENCES, [place % 2 == 0 for place in range(100)], 0.95) is None
        assert asked([], [], 0.95) is None

    def test_is_none_on_too_few_answers(self):
        assert asked(CONFIDENCES[:19], [True] * 19, 0.95) is None
        assert asked(CONFIDENCES[:20], [True] * 20, 0.95) == pytest.approx(0.80)

    def test_counts_one_mistake_in_twenty_as_95_percent(self):
        assert asked(CONFIDENCES[:20], [place != 3 for place in range(20)], 0.95) == pytest.approx(0.80)

    def test_takes_equal_confidences_together_or_not_at_all(self):
        confidences = [0.9] * 25 + [0.8] * 25
        assert asked(confidences, [True] * 25 + [place > 3 for place in range(25)], 0.95) == pytest.approx(0.9)
        assert asked(confidences, [True] * 25 + [place < 22 for place in range(25)], 0.95) == pytest.approx(0.9)

    def test_has_the_precision_on_few_fresh_examples_as_on_many_old_ones(self):
        # 11 fresh ones of which 2 are wrong, among 89 old ones that are right.
        right = [place not in {22, 44} for place in range(100)]
        fresh = [place % 10 == 2 or place == 44 for place in range(100)]
        groups = ["fresh" if one else "old" for one in fresh]
        assert asked(CONFIDENCES, right, 0.95) == pytest.approx(0.0)
        assert asked(CONFIDENCES, right, 0.95, groups) == pytest.approx(0.78)


def test_a_sure_parent_labels_what_it_knows(parent, compute):
    given = pseudo_label(parent, unlabelled(30, offset=36), examples(36), examples(36, offset=80), SETTINGS, 0, compute)
    truth = {f"u{n}": sentence(n)[1] for n in range(36, 66)}
    assert given.threshold is not None
    assert given.chosen_on == {example.id for example in examples(36, offset=80)}
    assert len(given.examples) > 15
    assert all(example.label == truth[example.id] for example in given.examples)
    assert {(example.weight, example.group, example.key) for example in given.examples} == {(0.5, "fresh", "ACME")}


def test_what_is_learned_is_another_form_of_the_text(parent, compute):
    given = pseudo_label(parent, unlabelled(30, offset=36), examples(36), examples(36, offset=80), SETTINGS, 0, compute)
    originals = {text.id: text.text for text in unlabelled(30, offset=36)}
    assert all(example.text != originals[example.id] for example in given.examples)


def test_a_text_whose_label_hangs_on_how_it_is_written_is_refused(parent, compute, monkeypatch):
    # Given other forms that say something else wherever globex is in the text
    monkeypatch.setattr(pseudo_labels, "augmented", lambda text, _: "acme loss again" if "globex" in text else text)
    texts = unlabelled(60)
    given = pseudo_label(parent, texts, examples(60), examples(60), SETTINGS, 0, compute)
    # Then these texts are learned only where it is the same
    globex = {text.id for text in texts if "globex" in text.text}
    assert {one.label for one in given.examples if one.id in globex} == {"negative"}
    assert {one.label for one in given.examples if one.id not in globex} == set(LABELS)


def test_no_label_is_given_more_often_than_its_share_of_the_true_ones_allows(parent, compute):
    new = [*examples(36), *[row for row in examples(36) if row.label == "positive"]]
    few = [row for row in new if row.label != "negative"][:16] + [row for row in new if row.label == "negative"][:2]
    settings = SETTINGS.model_copy(update={"ratio": 1.5})
    given = pseudo_label(parent, unlabelled(120), few, examples(60, offset=200), settings, 0, compute)
    counts = {label: sum(one.label == label for one in given.examples) for label in LABELS}
    true = {label: sum(one.label == label for one in few) for label in LABELS}
    assert counts == {label: round(1.5 * true[label]) for label in LABELS}
    assert counts["negative"] == 3


def test_weights_are_relative_to_those_of_the_true_labels(parent, compute):
    new = [row.model_copy(update={"weight": 0.2}) for row in examples(36)]
    given = pseudo_label(parent, unlabelled(30, offset=36), new, examples(36, offset=80), SETTINGS, 0, compute)
    assert given.examples[0].weight == pytest.approx(0.1)


def test_a_parent_that_is_often_wrong_labels_nothing(parent, compute):
    wrong = [row.model_copy(update={"label": LABELS[(n + n % 2) % 3]}) for n, row in enumerate(examples(60))]
    given = pseudo_label(parent, unlabelled(30), examples(36), wrong, SETTINGS, 0, compute)
    assert given.examples == []
    assert given.threshold is None


def test_a_label_that_the_parent_does_not_know_counts_as_a_mistake(parent, compute):
    mixed = [row.model_copy(update={"label": "mixed"}) for row in examples(30, offset=80)]
    given = pseudo_label(parent, unlabelled(30), examples(36), [*examples(30), *mixed], SETTINGS, 0, compute)
    assert given.examples == []


def held_out_job(directory, job):
    write_job(directory, job, new=examples(24, offset=100), replay=examples(12))
    write_rows(directory / "gate.jsonl", examples(120, offset=300))
    write_rows(directory / "unlabelled.jsonl", [*unlabelled(30, offset=500), Recent(id="held", text="held out")])
    with (directory / "gate.jsonl").open("a") as file:
        row = examples(1)[0].model_copy(update={"id": "h", "text": "held out"})
        file.write(row.model_dump_json() + "\n")


def test_held_out_texts_are_never_learned(job, tmp_path):
    held_out_job(tmp_path / "job", job)
    snapshot = read_snapshot(tmp_path / "job", job)
    assert "held out" not in {row.text for row in snapshot.unlabelled}
    assert "held out" in {row.text for row in snapshot.gate}


def test_the_unlabelled_texts_are_in_the_hash_of_the_data(job, tmp_path):
    held_out_job(tmp_path / "job", job)
    before = data_sha256(tmp_path / "job")
    (tmp_path / "job/unlabelled.jsonl").unlink()
    assert data_sha256(tmp_path / "job") != before
    assert read_snapshot(tmp_path / "job", job).unlabelled == []


@pytest.fixture
def first(job, tmp_path):
    write_job(tmp_path / "first", job.model_copy(update={"epochs": 30}), new=examples(36))
    run(tmp_path / "first")
    return tmp_path / "first/candidate"


@pytest.mark.parametrize("method", ["replay+ewc", "er-ace", "der", "lwf", "joint"])
def test_a_job_learns_from_them_and_says_how_many(job, first, tmp_path, method):
    update = {"parent": first, "method": method, "pseudo_labels": SETTINGS}
    for name in ("once", "again"):
        held_out_job(tmp_path / name, job.model_copy(update=update))
    report = run(tmp_path / "once")
    assert report.examples == 24
    assert 0 < report.pseudo_labelled <= 24
    assert report.pseudo_label_threshold is not None
    replayed = 0 if method == "lwf" else 12
    assert report.steps == 2 * -(-(24 + replayed + report.pseudo_labelled) // 8)
    assert Report.model_validate_json((tmp_path / "once/report.json").read_bytes()) == report
    # Its threshold was chosen on these, so the gate may not judge on them.
    judged = list(read_rows(tmp_path / "once/judged.jsonl", Judged))
    assert {row.id for row in judged if row.selected} == {row.id for row in judged if chooses(row.id)} != set()
    run(tmp_path / "again")
    weights = [(tmp_path / name / "candidate/model.safetensors").read_bytes() for name in ("once", "again")]
    assert weights[0] == weights[1]


def test_a_first_model_has_no_parent_to_ask(job, tmp_path):
    held_out_job(tmp_path / "job", job.model_copy(update={"pseudo_labels": SETTINGS}))
    report = run(tmp_path / "job")
    assert report.pseudo_labelled == 0
    assert not any(row.selected for row in read_rows(tmp_path / "job/judged.jsonl", Judged))
