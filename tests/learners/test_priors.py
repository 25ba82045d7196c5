from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pydantic import ValidationError

from learners.errors import LearnerError
from learners.evaluation import accuracy, log_loss
from learners.job import Example, Job, Recent, Report, write_rows
from learners.judging import answers
from learners.model import load
from learners.priors import FURTHEST, FURTHEST_IN_ALL, LEAST_BEFORE, new_priors
from learners.run import run
from tests.learners.conftest import write_job
from tests.sentences import LABELS, SUBJECTS, WORDS

OLD = np.array([0.75, 0.15, 0.1])
NEW = np.array([0.55, 0.15, 0.3])
NONE = np.zeros(3)

#: How often a text has a word of its own label; otherwise it is any label's. So a word leaves room for the mix to tell.
OWN = 0.6

ANY = [word for words in WORDS.values() for word in words]

#: When the label mix moved.
MOVED = 1_000.0


def stream(mix: np.ndarray, count: int, *, seed: int, start: float = 0.0) -> list[Example]:
    """Texts as the labels' shares `mix` bring them, one a second."""
    random = np.random.default_rng(seed)
    made = []
    for number, at in enumerate(random.choice(3, size=count, p=mix)):
        words = WORDS[LABELS[at]] if random.random() < OWN else ANY
        # With a number, for a text that is labelled too does not count as unlabelled, and there are few different ones.
        text = f"{random.choice(SUBJECTS)} {random.choice(words)} again {seed}{number:04}"
        made.append(Example(id=f"s{seed}-{number}", text=text, label=LABELS[at], timestamp=start + number))
    return made


def before(count: int = 900) -> list[Example]:
    return stream(OLD, count, seed=1)


def without_labels(rows: list[Example]) -> list[Recent]:
    return [Recent(id=one.id, text=one.text, timestamp=one.timestamp) for one in rows]


@pytest.fixture
def parent(job: Job, tmp_path: Path) -> Path:
    """A model that has learned the old mix, calibrated."""
    learned = job.model_copy(update={"method": "replay+mas", "epochs": 3, "batch_size": 32, "calibrate": True})
    write_job(tmp_path / "parent", learned, new=stream(OLD, 1_500, seed=0))
    write_rows(tmp_path / "parent/gate.jsonl", stream(OLD, 600, seed=2))
    run(tmp_path / "parent")
    return tmp_path / "parent/candidate"


def follow(
    directory: Path,
    job: Job,
    parent: Path,
    *,
    new: list[Example],
    unlabelled: list[Example],
    since: float = MOVED,
    champion: Path | None = None,
) -> Report:
    settings = job.model_copy(
        update={"id": "job-2", "method": "priors", "parent": parent, "champion": champion, "since": since}
    )
    write_job(directory, Job.model_validate(settings.model_dump()), new=new)
    write_rows(directory / "unlabelled.jsonl", without_labels(unlabelled))
    return run(directory)


def said(directory: Path, rows: list[Example], compute) -> tuple[np.ndarray, np.ndarray]:
    model = load(directory, torch.device("cpu"))
    truth = np.array([LABELS.index(row.label) for row in rows], dtype=np.int64)
    return answers(model, [row.text for row in rows], LABELS, compute), truth


def test_labels_that_became_more_common_are_said_more_often(job, parent, tmp_path, compute):
    # Given a stream whose mix moved by 20 points, and few labels since
    new = [*before(), *stream(NEW, 60, seed=3, start=MOVED)]
    unlabelled = stream(NEW, 300, seed=4, start=MOVED)

    # When the priors follow it
    report = follow(tmp_path / "job", job, parent, new=new, unlabelled=unlabelled)

    # Then the model is better on texts of the new mix, and it is told how it moved
    held_out = stream(NEW, 2_000, seed=5)
    (was, truth), (now, _) = (said(place, held_out, compute) for place in (parent, tmp_path / "job/candidate"))
    assert accuracy(now, truth) > accuracy(was, truth) + 0.05
    assert log_loss(now, truth) < log_loss(was, truth) - 0.05
    assert report.old_priors == pytest.approx(dict(zip(LABELS, OLD, strict=True)), abs=0.03)
    assert report.new_priors == pytest.approx(dict(zip(LABELS, NEW, strict=True)), abs=0.1)
    assert (report.method, report.steps, report.examples, report.replayed, report.passed_over) == (
        "priors",
        0,
        60,
        0,
        900,
    )


def test_it_takes_no_label(job, parent, tmp_path, compute):
    unlabelled = stream(NEW, 600, seed=4, start=MOVED)

    report = follow(tmp_path / "job", job, parent, new=[], unlabelled=[*before(), *unlabelled])

    held_out = stream(NEW, 2_000, seed=5)
    (was, truth), (now, _) = (said(place, held_out, compute) for place in (parent, tmp_path / "job/candidate"))
    assert accuracy(now, truth) > accuracy(was, truth) + 0.02
    assert log_loss(now, truth) < log_loss(was, truth) - 0.05
    assert report.examples == 0


def test_where_the_mix_did_not_move_the_model_stays_what_it_was(job, parent, tmp_path):
    new = [*before(), *stream(OLD, 60, seed=3, start=MOVED)]

    report = follow(tmp_path / "job", job, parent, new=new, unlabelled=stream(OLD, 300, seed=4, start=MOVED))

    was, now = (
        load(place, torch.device("cpu")).classifier.head.bias.detach() for place in (parent, tmp_path / "job/candidate")
    )
    torch.testing.assert_close(now, was)
    assert report.new_priors == pytest.approx(report.old_priors)


def test_nothing_moves_but_the_bias_by_the_log_of_the_ratio_at_the_models_temperature(job, parent, tmp_path):
    report = follow(tmp_path / "job", job, parent, new=before(), unlabelled=stream(NEW, 300, seed=4, start=MOVED))

    was, now = (load(place, torch.device("cpu")) for place in (parent, tmp_path / "job/candidate"))
    assert now.description == was.description
    assert was.description.temperature != 1.0
    after = now.classifier.state_dict()
    for name, weight in was.classifier.state_dict().items():
        assert torch.equal(after[name], weight) == (name != "head.bias")
    assert report.old_priors is not None
    assert report.new_priors is not None
    ratios = [report.new_priors[label] / report.old_priors[label] for label in LABELS]
    step = (after["head.bias"] - was.classifier.head.bias.detach()).numpy()
    np.testing.assert_allclose(step, np.log(ratios) * was.description.temperature, atol=1e-5)
    assert report.odds == pytest.approx(dict(zip(LABELS, ratios, strict=True)), rel=1e-4)
    # And what the weights were worth to the past is handed on.
    worth = [(place / "mas.safetensors").read_bytes() for place in (parent, tmp_path / "job/candidate")]
    assert worth[0] == worth[1]


def bias_of(directory: Path) -> np.ndarray:
    model = load(directory, torch.device("cpu"))
    bias: np.ndarray = model.classifier.head.bias.detach().numpy()
    return bias / model.description.temperature


def test_a_mix_that_moves_back_is_followed_back_from_what_the_champion_expects(job, parent, tmp_path, compute):
    since, back = stream(NEW, 400, seed=3, start=MOVED), stream(OLD, 400, seed=4, start=2 * MOVED)
    follow(tmp_path / "there", job, parent, new=[*before(), *since], unlabelled=[])

    champion = tmp_path / "there/candidate"
    report = follow(
        tmp_path / "back", job, parent, new=[*since, *back], unlabelled=[], since=2 * MOVED, champion=champion
    )

    learned, there, again = (bias_of(place) for place in (parent, champion, tmp_path / "back/candidate"))
    # What is said of the odds is what it takes to know what was learned.
    held_out = stream(OLD, 100, seed=5)
    apart = said(tmp_path / "back/candidate", held_out, compute)[0] / [(report.odds or {})[label] for label in LABELS]
    np.testing.assert_allclose(apart / apart.sum(axis=1, keepdims=True), said(parent, held_out, compute)[0], atol=1e-4)
    # What a bias adds to all labels alike says nothing.
    there, again = (moved - learned - (moved - learned).mean() for moved in (there, again))
    assert np.ptp(there) > 1.0
    assert np.ptp(again) < np.ptp(there) / 2, (there, again)


def test_no_number_of_moves_takes_a_label_away_for_good(job, parent, tmp_path):
    never_the_last = np.array([0.6, 0.4, 0.0])
    champion, learned = parent, bias_of(parent)
    ranges = []
    for turn in range(1, 5):
        moment = turn * MOVED
        there = stream(never_the_last, 400, seed=2 * turn, start=moment - MOVED)
        since = stream(never_the_last[[1, 0, 2]], 400, seed=2 * turn + 1, start=moment)
        place = tmp_path / f"turn-{turn}"
        follow(place, job, parent, new=[*there, *since], unlabelled=[], since=moment, champion=champion)
        champion = place / "candidate"
        ranges.append(float(np.ptp(bias_of(champion) - learned)))

    assert ranges[0] <= 2 * np.log(FURTHEST) + 1e-4
    assert max(ranges) <= 2 * np.log(FURTHEST_IN_ALL) + 1e-4
    assert ranges[-1] > np.log(FURTHEST)


@pytest.mark.parametrize(
    ("since", "says"),
    [
        (50.0, f"only 50 texts are from before the label mix moved, and it takes {LEAST_BEFORE}"),
        (5e6, "no text is from after"),
    ],
)
def test_too_little_to_tell_the_mix_by_is_said(job, model, tmp_path, since, says):
    model.save(tmp_path / "model")
    with pytest.raises(LearnerError, match=says):
        follow(tmp_path / "job", job, tmp_path / "model", new=before(), unlabelled=[], since=since)


def test_a_first_model_has_no_bias_to_move(job):
    with pytest.raises(ValidationError, match="priors keeps the weights of a parent"):
        Job.model_validate(job.model_dump() | {"method": "priors"})


shares = arrays(np.float64, 3, elements=st.floats(1e-3, 1)).map(lambda one: one / one.sum())
rows = arrays(np.float64, st.tuples(st.integers(0, 30), st.just(3)), elements=st.floats(0, 1))
labelled = arrays(np.float64, 3, elements=st.integers(0, 500).map(float))


@given(probabilities=rows, old=shares, counts=labelled)
def test_priors_are_shares_and_none_moves_further_than_the_bound(probabilities, old, counts):
    new = new_priors(probabilities, old, counts)

    assert new.sum() == pytest.approx(1)
    assert (new <= old * FURTHEST + 1e-9).all()
    assert (new >= old / FURTHEST - 1e-9).all()


def calibrated(mix: np.ndarray, count: int, *, sure: float, seed: int = 0) -> np.ndarray:
    """What a model that knows the old mix says of texts of `mix`: features are normal around their label's corner."""
    random = np.random.default_rng(seed)
    seen = sure * np.eye(3)[random.choice(3, size=count, p=mix)] + random.normal(size=(count, 3))
    odds = OLD * np.exp(sure * seen)
    return odds / odds.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("sure", [1.0, 2.0])
def test_unlabelled_texts_tell_the_mix_where_the_model_is_calibrated(sure):
    assert new_priors(calibrated(NEW, 5_000, sure=sure), OLD, NONE) == pytest.approx(NEW, abs=0.04)


def test_the_same_texts_as_before_move_nothing_whatever_the_model_thinks_of_them():
    sure_of_nothing_it_should_be = calibrated(NEW, 400, sure=1) ** 3
    probabilities = sure_of_nothing_it_should_be / sure_of_nothing_it_should_be.sum(axis=1, keepdims=True)
    old = probabilities.mean(axis=0)

    assert new_priors(probabilities, old, NONE) == pytest.approx(old, abs=1e-6)


def test_labels_are_believed_the_more_the_more_there_are():
    probabilities, mix = calibrated(OLD, 1_000, sure=2), np.array([0.5, 0.15, 0.35])
    gaps = [np.abs(new_priors(probabilities, OLD, count * mix) - mix).max() for count in (0, 5, 50, 500)]

    assert gaps == sorted(gaps, reverse=True)
    assert gaps[0] - gaps[1] < 0.1
    assert gaps[-1] < 0.05


def test_a_few_texts_hardly_move_what_was_known():
    assert new_priors(np.eye(3)[[2, 2, 2]], OLD, NONE) == pytest.approx(OLD, abs=0.1)


def test_priors_that_have_not_moved_are_moved_by_chance_in_few_streams_only():
    moved = []
    for seed in range(200):
        counts = np.random.default_rng(seed).multinomial(50, OLD).astype(np.float64)
        moved.append(not np.allclose(new_priors(calibrated(OLD, 200, sure=1.5, seed=seed), OLD, counts), OLD))

    # Texts and labels may each be wrong 1 time in 20.
    assert np.mean(moved) < 0.1


def test_a_model_that_is_too_sure_does_not_lose_a_label_for_good():
    too_sure = np.eye(3)[[0] * 1_000]

    assert new_priors(too_sure, OLD, NONE)[1:] == pytest.approx(OLD[1:] / FURTHEST)
