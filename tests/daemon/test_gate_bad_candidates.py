"""Candidates that learned something bad, through the real controller, learner process and gate: none goes live."""

import math
from collections.abc import Callable
from typing import Any

import pytest

from daemon.config import Config, LabelsConfig
from daemon.memory import share_of
from learners.job import Judged, read_rows, write_rows
from tests.daemon.streams import drifting
from tests.daemon.test_controller import Desk, ask, score_row
from tests.sentences import LABELS

Rows = list[dict[str, Any]]

#: Labelled texts that come; of these some 50 are fresh examples to judge on, beside 40 old ones.
TEXTS = 300

#: Seconds after which a learner that should have ended counts as stuck.
STUCK = 120

REFUSALS = ("no better beyond chance", "surer but less accurate", "forgets ")

FLIPPED = {"negative": "positive", "positive": "negative", "neutral": "negative"}


def good(rows: Rows, _: Config) -> Rows:
    return rows


def flipped(rows: Rows, _: Config) -> Rows:
    """Every label is wrong: what is learned, and the fresh part of what is judged on."""
    return [{**row, "label": FLIPPED[row["label"]]} for row in rows]


def flipped_to_learn(rows: Rows, config: Config) -> Rows:
    """Wrong where it is learned from, right where it is judged."""
    return [flipped([row], config)[0] if share_of(row["id"], config.memory) == "learn" else row for row in rows]


def one_class(rows: Rows, _: Config) -> Rows:
    """Somebody labels nothing but good news: what is learned, and the fresh part of what is judged on."""
    return [row for row in rows if row["label"] == "positive"]


def one_class_to_learn(rows: Rows, config: Config) -> Rows:
    return [row for row in rows if row["label"] == "positive" or share_of(row["id"], config.memory) != "learn"]


def trained(
    config: Config, harm: Callable[[Rows, Config], Rows], *, slang: bool = False, rehearse: float = 0.0
) -> Desk:
    """A controller whose learner has done its job on the labels that `harm` leaves; not judged yet."""
    # Nothing but the gate is to keep it out: no label is held back, and unless it is to rehearse, nothing old is gone
    # over that would keep what it knew.
    learning = config.learning.model_copy(update={"method": "finetune"})
    triggers = config.triggers.model_copy(update={"rehearse": rehearse})
    changed = {"labels": LabelsConfig(hold=False), "learning": learning, "triggers": triggers}
    desk = Desk(config.model_copy(update=changed))
    texts, labels = drifting(TEXTS, 0 if slang else TEXTS)
    scores = [
        score_row(number, label=LABELS[number % 3], text=text["text"], source=text["source"])
        for number, text in enumerate(texts)
    ]
    desk.step(scores, harm(labels, config))
    ask(desk, "learn", by="Ada")
    learner = desk.controller.training.learner
    assert learner is not None
    learner.wait(STUCK)
    return desk


def decided(desk: Desk) -> tuple[str, str]:
    """Let the controller decide: the version that is live then, and why."""
    desk.step()
    champion = desk.controller.champion
    (job,) = desk.controller.training.jobs.all()
    told = [one for one in desk.controller.decisions.latest(2) if one["kind"] == job.state][-1]
    desk.close()
    assert champion is not None
    assert job.decision is not None
    assert told["because"] == job.decision["because"]
    return champion.version, str(told["because"])


def test_what_learned_from_good_labels_of_drifted_texts_goes_live(config: Config) -> None:
    assert decided(trained(config, good, slang=True))[0] == "v2"


@pytest.mark.parametrize("slang", [False, True], ids=["known texts", "drifted texts"])
@pytest.mark.parametrize("harm", [flipped, flipped_to_learn, one_class, one_class_to_learn])
def test_what_learned_from_bad_labels_never_goes_live(
    config: Config, harm: Callable[[Rows, Config], Rows], slang: bool
) -> None:
    version, why = decided(trained(config, harm, slang=slang))

    assert version == "v1"
    # By the same bad labels it is better; what it knew before gives it away.
    assert why.startswith("forgets " if harm is flipped else REFUSALS)


# Where all labels of texts of a new kind are wrong, those that judge too, nothing old gives away what has kept the old.
@pytest.mark.parametrize("harm", [flipped_to_learn, one_class_to_learn])
def test_nor_what_went_over_everything_with_bad_labels_among_it(
    config: Config, harm: Callable[[Rows, Config], Rows]
) -> None:
    desk = trained(config, harm, slang=True, rehearse=0.1)
    assert "are gone over, of which" in desk.controller.training.jobs.all()[-1].reason
    assert decided(desk)[0] == "v1"


def test_a_candidate_with_weights_that_are_no_numbers_never_goes_live(config: Config) -> None:
    learning = config.learning.model_copy(update={"learning_rate": 1e30})

    version, why = decided(trained(config.model_copy(update={"learning": learning}), good, slang=True))

    assert version == "v1"
    assert "the loss is nan" in why or "not finite" in why


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_candidate_whose_answers_are_no_numbers_never_goes_live(config: Config, bad: float) -> None:
    desk = trained(config, good, slang=True)
    left = desk.config.home / "jobs" / "job-00001" / "judged.jsonl"
    rows = list(read_rows(left, Judged))
    write_rows(left, [row.model_copy(update={"candidate": [bad] * len(LABELS)}) for row in rows])

    version, why = decided(desk)

    assert version == "v1"
    assert why == f"its probabilities are not numbers on {len(rows)} of {len(rows)} held-out examples"
