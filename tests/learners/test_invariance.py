import numpy as np

from learners.invariance import MOST, swapped_answers
from learners.job import Example, Judged, read_rows, write_rows
from learners.judging import answers
from learners.renaming import renamed
from learners.run import run
from learners.selection import chooses
from tests.learners.conftest import write_job
from tests.sentences import LABELS, examples

NAMED = [
    Example(id=f"n{number}", text=f"{company} surge again", label="positive")
    for number, company in enumerate(["Nokia", "Ericsson", "$TSLA", "Acme Oyj"])
]


def test_texts_with_names_are_answered_again_under_other_names(model, compute):
    said = swapped_answers(model, model, [*examples(6), *NAMED], LABELS, 3, compute)

    assert said.keys() == {example.id for example in NAMED}
    expected = answers(model, [renamed(example.text, 3) for example in NAMED], LABELS, compute)
    for at, example in enumerate(NAMED):
        np.testing.assert_allclose(said[example.id].candidate, expected[at], rtol=1e-5)
        assert said[example.id].parent == said[example.id].candidate


def test_without_a_parent_or_a_name_there_is_nothing_to_say_of_it(model, compute):
    assert swapped_answers(None, model, examples(6), LABELS, 0, compute) == {}
    assert swapped_answers(None, model, NAMED, LABELS, 0, compute)["n0"].parent is None


def test_of_very_many_texts_the_same_ones_are_swapped_in_every_job(model, compute):
    many = [Example(id=f"m{number}", text=f"Nokia {number}", label="neutral") for number in range(MOST + 40)]

    first, again = (swapped_answers(None, model, rows, LABELS, 0, compute) for rows in (many, many[::-1]))

    assert len(first) == MOST
    assert first.keys() == again.keys()


def test_a_job_leaves_them_beside_what_was_judged(job, tmp_path):
    directory = write_job(tmp_path / "job", job, new=examples(16))
    write_rows(directory / "gate.jsonl", [*examples(4, offset=60), *NAMED])

    run(directory)

    judged = list(read_rows(directory / "judged.jsonl", Judged))
    assert {row.id for row in judged if row.swapped} == {example.id for example in NAMED}


def test_audit_examples_are_judged_and_change_nothing(job, tmp_path):
    plain = write_job(tmp_path / "plain", job, new=examples(16))
    audited = write_job(tmp_path / "audited", job, new=examples(16))
    write_rows(audited / "audit.jsonl", examples(9, offset=90, group="old"))

    reports = run(plain), run(audited)

    rows = list(read_rows(audited / "audited.jsonl", Judged))
    assert [row.id for row in rows] == [f"e{number}" for number in range(90, 99)]
    assert {(row.group, row.selected, row.parent) for row in rows} == {("old", False, None)}
    assert list(read_rows(plain / "audited.jsonl", Judged)) == []
    assert reports[0].data_sha256 == reports[1].data_sha256
    weights = [(directory / "candidate" / "model.safetensors").read_bytes() for directory in (plain, audited)]
    assert weights[0] == weights[1]


def test_a_calibrated_job_names_what_it_was_fitted_on_and_the_next_one_starts_from_plain_logits(job, tmp_path):
    calibrating = job.model_copy(update={"calibrate": True})
    first = write_job(tmp_path / "first", calibrating, new=examples(48))
    second = write_job(tmp_path / "second", job.model_copy(update={"parent": first / "candidate"}), new=examples(16))

    report = run(first)
    judged = list(read_rows(first / "judged.jsonl", Judged))

    assert report.temperature != 1.0
    assert not any(row.selected for row in judged)
    assert [row.tempered for row in judged] == [chooses(row.id) for row in judged]
    assert 0 < sum(row.tempered for row in judged) < len(judged)
    assert run(second).temperature == 1.0
