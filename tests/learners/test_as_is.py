"""A candidate that is judged again: nothing of it moves, and what was to be learned is judged on too."""

import pytest
from pydantic import ValidationError

from learners.job import Example, Job, Judged, read_rows
from learners.run import run
from tests.learners.conftest import write_job
from tests.sentences import examples, sentence


def slang(count, *, offset=0):
    both = ((number, *sentence(number, slang=True)) for number in range(offset, offset + count))
    return [Example(id=f"s{number}", text=text, label=label) for number, text, label in both]


@pytest.fixture
def learned(job, tmp_path):
    """Two jobs: a champion, and a candidate that learned on from it."""
    write_job(tmp_path / "champion", job, new=examples(48))
    run(tmp_path / "champion")
    settings = {"id": "job-2", "parent": tmp_path / "champion/candidate"}
    write_job(tmp_path / "candidate", job.model_copy(update=settings), new=slang(24))
    run(tmp_path / "candidate")
    return tmp_path / "champion/candidate", tmp_path / "candidate/candidate"


def again(job, directory, learned, **settings):
    champion, candidate = learned
    job = job.model_copy(update={"method": "as-is", "parent": candidate, "champion": champion, **settings})
    write_job(directory, Job.model_validate(job.model_dump()), new=slang(30, offset=100))
    report = run(directory)
    return report, {row.id: row for row in read_rows(directory / "judged.jsonl", Judged)}


def test_it_stays_as_it_is_with_all_that_it_carries(job, tmp_path, learned):
    report, _ = again(job, tmp_path / "again", learned)
    was, now = learned[1], tmp_path / "again/candidate"
    names = {file.name for file in was.iterdir()}
    assert {"ewc.safetensors", "model.safetensors"} <= names
    assert {file.name for file in now.iterdir()} == names
    assert all((was / name).read_bytes() == (now / name).read_bytes() for name in names)
    assert (report.method, report.steps, report.samples, report.examples) == ("as-is", 0, 0, 0)
    assert report.passed_over == 30
    assert not (tmp_path / "again/metrics.jsonl").exists()


def test_it_is_judged_on_what_it_did_not_learn_and_beside_the_champion(job, tmp_path, learned):
    _, judged = again(job, tmp_path / "again", learned)
    new = {row.id for row in slang(30, offset=100)}
    assert new < judged.keys()
    # It learned slang, and the champion did not.
    better = [judged[id].candidate[job.labels.index(judged[id].label)] for id in new]
    before = [judged[id].parent[job.labels.index(judged[id].label)] for id in new]
    assert sum(better) > sum(before)


@pytest.mark.parametrize(
    ("settings", "flag"), [({}, ""), ({"calibrate": True}, "tempered"), ({"patience": 2.0}, "selected")]
)
def test_what_it_was_chosen_on_proves_nothing_and_what_it_had_not_seen_does(job, tmp_path, learned, settings, flag):
    _, judged = again(job, tmp_path / "again", learned, **settings)
    flagged = {id for id, row in judged.items() if row.selected or row.tempered}
    assert not flagged & {row.id for row in slang(30, offset=100)}
    assert all(getattr(judged[id], flag) for id in flagged)
    assert bool(flagged) == bool(flag)


def test_it_needs_a_candidate(job):
    with pytest.raises(ValidationError, match="as-is keeps the weights of a parent"):
        Job.model_validate(job.model_dump() | {"method": "as-is"})
