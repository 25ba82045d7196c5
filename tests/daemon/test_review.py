import base64
import json
import math
import sqlite3
from typing import Any

import numpy as np
import pytest

from daemon.config import LabelsConfig
from daemon.hashing import unit_hash
from daemon.label_errors import likely_errors
from daemon.learning import outcome
from daemon.memory import KNOWN, SURPRISING
from daemon.records import Alert
from daemon.state import SCHEMA, Commands, open_state, transaction
from daemon.votes import Vote, count
from daemon.waiting import Scored, Waiting
from learners.job import Example, Failure, read_rows
from tests.daemon.streams import START, label_row
from tests.daemon.test_controller import Desk, score_row
from tests.sentences import LABELS, sentence

NOW = START.timestamp() + 86_400
OTHER = {"negative": "neutral", "neutral": "positive", "positive": "negative"}


def sure(number: int, **fields: Any) -> dict[str, Any]:
    """A score that is confident and right."""
    label = sentence(number)[1]
    return score_row(
        number, label=label, probabilities={name: 0.96 if name == label else 0.02 for name in LABELS}, **fields
    )


def flipped(number: int, **fields: Any) -> dict[str, Any]:
    return label_row(number) | {"label": OTHER[sentence(number)[1]]} | fields


def examples(desk: Desk) -> dict[str, str]:
    return dict(desk.db.execute("SELECT id, label FROM examples WHERE id LIKE 't%'").fetchall())


def alerts(desk: Desk) -> list[tuple[str, str, str]]:
    said = [Alert.model_validate_json(value) for value in desk.said("alerts")]
    return [(one.name, one.status, one.key) for one in said if one.name == "labels-held"]


def ask(desk: Desk, name: str, **arguments: str) -> str | None:
    commands = Commands(desk.db)
    with transaction(desk.db):
        seq = commands.ask(NOW, name, arguments)
    desk.step()
    return commands.outcome(seq)


@pytest.fixture
def desk(config):
    desk = Desk(config)
    yield desk
    desk.close()


def test_what_most_say_is_the_label_and_half_against_half_is_none():
    assert count([Vote("a", "up", 2.0)], 0.6) == ("up", 2.0, 1, None)
    most = count([Vote("a", "up", 1.0), Vote("b", "down", 1.0), Vote("c", "down", 3.0)], 0.6)
    assert (most.label, most.weight, most.disagreement) == ("down", 2.0, None)
    half = count([Vote("a", "up", 1.0), Vote("", "down", 1.0)], 0.6)
    assert half.disagreement == "a says up, somebody says down: no label has 60% of the votes"


def test_the_same_annotator_corrects_and_another_one_disagrees(desk):
    desk.step([sure(0), sure(1)], [label_row(0, annotator="ada"), label_row(1, annotator="ada")])
    desk.step([], [flipped(0, annotator="ada"), flipped(1, annotator="bob")])
    assert examples(desk) == {"t0": OTHER[sentence(0)[1]]}
    (doubt,) = desk.controller.intake.review.doubts.open()
    assert (doubt.example.id, doubt.cause, doubt.example.source) == ("t1", "disagreement", "formal")
    assert desk.value("labels_set_aside_total", cause="disagreement") == 1


def test_a_third_vote_settles_a_disagreement(desk):
    desk.step([sure(0)], [label_row(0, annotator="ada"), flipped(0, annotator="bob")])
    assert examples(desk) == {}
    desk.step([], [label_row(0, annotator="cleo")])
    assert examples(desk) == {"t0": sentence(0)[1]}
    assert desk.controller.intake.review.doubts.open() == []


def test_labels_that_disagree_before_their_score_comes_are_set_aside_with_its_text(desk):
    desk.step([], [label_row(0, annotator="ada"), flipped(0, annotator="bob")])
    desk.step([sure(0)])
    assert examples(desk) == {}
    (doubt,) = desk.controller.intake.review.doubts.open()
    assert doubt.example.text == sentence(0)[0]


def test_a_label_with_its_own_text_is_counted_with_the_others(desk):
    desk.step([], [label_row(0, annotator="ada", text="words"), flipped(0, annotator="bob", text="words")])
    assert examples(desk) == {}


def test_what_a_person_accepts_is_learned_from_and_what_one_drops_does_not_come_back(desk):
    for number in (0, 1):
        desk.step([sure(number)], [label_row(number, annotator="ada"), flipped(number, annotator="bob")])
    assert ask(desk, "labels accept", id="t0") == "1 label is accepted"
    assert ask(desk, "labels drop", cause="disagreement") == "1 label is dropped"
    assert "refused: no label" in (ask(desk, "labels drop", id="t1") or "")
    assert examples(desk) == {"t0": sentence(0)[1]}
    desk.step([], [label_row(1, annotator="bob")])
    assert examples(desk) == {"t0": sentence(0)[1]}


def test_what_the_model_lost_on_an_example_says_how_likely_memory_keeps_it(config):
    memory = config.memory.model_copy(update={"keep": "loss", "gate_share": 0.0, "audit_share": 0.0})
    desk = Desk(config.model_copy(update={"memory": memory}))
    desk.step([sure(0), sure(1)], [label_row(0), flipped(1)])
    places = dict(desk.db.execute("SELECT id, priority FROM examples WHERE id LIKE 't%'").fetchall())
    desk.close()
    for id, probability in (("t0", 0.96), ("t1", 0.02)):
        loss = min(max(-math.log(probability), KNOWN), SURPRISING)
        assert places[id] == pytest.approx(-math.log(1 - unit_hash("priority", id)) / loss)


def poisoned(desk: Desk, **fields: str) -> None:
    """A proven model, then a burst of flipped labels."""
    desk.step([sure(n) for n in range(160)], [label_row(n, **fields) for n in range(80)])
    desk.step([], [flipped(n, **fields) for n in range(80, 120)])


def test_a_burst_of_flipped_labels_is_held_and_is_in_no_snapshot(desk):
    poisoned(desk)
    assert not examples(desk).keys() & {f"t{n}" for n in range(80, 120)}
    assert alerts(desk) == [("labels-held", "firing", "formal")]
    assert desk.value("labels_total", outcome="held") > 25
    accuracy = desk.controller.intake.prequential.overall.accuracy
    assert accuracy is not None
    assert accuracy > 0.9

    ask(desk, "learn", by="Ada")
    learner = desk.controller.training.learner
    assert learner is not None
    rows = [
        row.id for name in ("new", "replay", "gate") for row in read_rows(learner.directory / f"{name}.jsonl", Example)
    ]
    assert set(rows) & {f"t{n}" for n in range(80)}
    assert not set(rows) & {f"t{n}" for n in range(80, 120)}
    learner.wait(120)
    assert not isinstance(outcome(learner.directory), Failure)


def test_accepting_releases_what_was_held_and_ends_the_alert(desk):
    poisoned(desk)
    assert ask(desk, "labels accept", cause="held") == "40 labels are accepted"
    assert alerts(desk)[-1] == ("labels-held", "resolved", "formal")
    assert examples(desk)["t90"] == OTHER[sentence(90)[1]]
    # The next of the kind is learned from: a person has said that this is how it is.
    desk.step([], [flipped(n) for n in range(120, 140)])
    assert examples(desk)["t130"] == OTHER[sentence(130)[1]]


def test_dropping_what_was_held_keeps_it_out(desk):
    poisoned(desk)
    assert ask(desk, "labels drop", cause="held") == "40 labels are dropped"
    desk.step([], [flipped(100)])
    assert "t100" not in examples(desk)
    assert alerts(desk)[-1][1] == "resolved"


def test_labels_that_agree_again_are_learned_from_and_those_held_still_wait(desk):
    poisoned(desk)
    desk.step([], [label_row(n) for n in range(120, 160)])
    assert alerts(desk) == [("labels-held", "firing", "formal"), ("labels-held", "resolved", "formal")]
    assert examples(desk).keys() >= {f"t{n}" for n in range(120, 160)}
    assert len(desk.controller.intake.review.doubts.open("held")) == 40


def test_a_restart_in_the_middle_holds_on(config):
    desk = Desk(config)
    poisoned(desk)
    desk.close()
    again = Desk(config)
    again.step([], [flipped(n) for n in range(120, 130)])
    assert "t125" not in examples(again)
    again.close()


def test_without_holding_everything_is_learned_from(config):
    desk = Desk(config.model_copy(update={"labels": config.labels.model_copy(update={"hold": False})}))
    poisoned(desk)
    assert "t100" in examples(desk)
    assert alerts(desk) == []
    desk.close()


def follow(desk: Desk, odds: dict[str, float]) -> None:
    """From here on, the champion has these odds from following the label mix."""
    desk.controller.intake.review.rebase(desk.controller.champion.model_copy(update={"odds": odds}))
    desk.controller.intake.changed()
    desk.step()


def leaning(number: int) -> dict[str, Any]:
    """A score that is sure of the label that follows the mix, and would not be without."""
    return score_row(number, label="positive", probabilities={"positive": 0.94, "negative": 0.05, "neutral": 0.01})


@pytest.mark.parametrize("restarts", [False, True])
def test_what_a_model_is_sure_of_for_the_label_mix_alone_is_no_poison_when_it_turns_back(config, restarts):
    desk = Desk(config)
    follow(desk, {"positive": 8.0, "negative": 0.25, "neutral": 0.25})
    desk.step([leaning(n) for n in range(120)], [label_row(n) | {"label": "positive"} for n in range(80)])
    if restarts:
        desk.close()
        desk = Desk(config)
    desk.step([], [label_row(n) | {"label": "negative"} for n in range(80, 120)])
    assert alerts(desk) == []
    assert examples(desk)["t100"] == "negative"
    desk.close()


def test_labels_that_contradict_what_a_model_learned_are_held_whatever_mix_it_follows(desk):
    desk.step([sure(n) for n in range(80)], [label_row(n) for n in range(80)])
    follow(desk, dict.fromkeys(LABELS, 1.0) | {"positive": 1.5})
    desk.step([sure(n) for n in range(80, 120)], [flipped(n) for n in range(80, 120)])
    assert alerts(desk) == [("labels-held", "firing", "formal")]
    assert "t100" not in examples(desk)


def test_when_the_texts_have_moved_a_contradiction_is_no_poison(desk):
    desk.step([sure(n) for n in range(160)], [label_row(n) for n in range(80)])
    desk.controller.intake.review.moved(START.timestamp() + 60 * 80)
    desk.step([], [flipped(n) for n in range(80, 120)])
    assert "t100" in examples(desk)


def test_the_list_is_for_people_and_for_programs(desk, config, relearnd, capsys):
    poisoned(desk)
    capsys.readouterr()
    home = f"home={config.home}"
    status, printed = relearnd("labels", "doubtful", "--set", home, "--cause", "held", "--json")
    assert (status, len(json.loads(printed))) == (0, 40)
    assert "held" in relearnd("labels", "doubtful", "--set", home)[1]
    assert "no label waits" in relearnd("labels", "doubtful", "--set", home, "--cause", "likely error")[1]
    status, printed = relearnd("labels", "accept", "--set", home)
    assert status == 1
    assert "say which labels" in printed


def doubted(count: int, wrong: set[int]) -> tuple[list[str], list[Scored]]:
    random = np.random.default_rng(1)
    given, scored = [], []
    for number in range(count):
        truth = number % 3
        sketch = random.standard_normal(64) * 0.1
        sketch[truth] += 2
        # The champion knows nothing of this domain: it says the same of everything.
        chances = json.dumps(dict.fromkeys(LABELS, 1 / 3))
        given.append(LABELS[(truth + 1) % 3] if number in wrong else LABELS[truth])
        scored.append(
            Scored(f"t{number}", "", None, None, 0.0, "up", "v1", 0.0, chances, sketch.astype("<f2").tobytes(), "v1")
        )
    return given, scored


def test_flipped_labels_are_found_where_the_champion_knows_nothing():
    wrong = set(range(0, 400, 20))
    found = likely_errors(*doubted(400, wrong), below=0.1, seed=0)
    assert found.keys() == wrong
    assert found[0][0] == LABELS[0]


def test_no_more_than_a_fifth_of_a_label_is_set_aside_and_few_examples_are_not_judged():
    given, scored = doubted(400, set(range(0, 400, 3)))
    found = likely_errors(given, scored, below=0.5, seed=0)
    for label in LABELS:
        assert sum(given[at] == label for at in found) <= 0.2 * given.count(label)
    assert likely_errors(*doubted(60, {3}), below=0.5, seed=0) == {}


def test_likely_errors_are_set_aside_before_a_run_and_a_second_annotator_brings_them_back(config, tmp_path):
    labels = config.labels.model_copy(update={"error_below": 0.05, "hold": False})
    desk = Desk(config.model_copy(update={"labels": labels}))
    given, scored = doubted(400, {40})
    rows = [
        sure(n, sketch=base64.b64encode(one.sketch or b"").decode())
        | {"probabilities": json.loads(one.probabilities or "")}
        for n, one in enumerate(scored)
    ]
    desk.step(rows, [label_row(n, annotator="ada") | {"label": label} for n, label in enumerate(given)])
    ask(desk, "learn", by="Ada")
    learner = desk.controller.training.learner
    assert learner is not None
    new = {row.id for row in read_rows(learner.directory / "new.jsonl", Example)}
    aside = {doubt.example.id for doubt in desk.controller.intake.review.doubts.open("likely error")}
    assert ("t40" in aside) == (share(desk, "t40") is None)
    assert not aside & new
    for id in aside:
        number = int(id[1:])
        desk.step([], [label_row(number, annotator="bob") | {"label": given[number]}])
        assert examples(desk)[id] == given[number]
    desk.close()


def share(desk: Desk, id: str) -> str | None:
    row = desk.db.execute("SELECT share FROM examples WHERE id = ?", (id,)).fetchone()
    return row[0] if row else None


def test_an_older_state_is_brought_up_to_date(tmp_path):
    old = sqlite3.connect(tmp_path / "state.db", isolation_level=None)
    for statement in SCHEMA.split(";"):
        old.execute(statement)
    old.execute("INSERT INTO scored VALUES (1, 'a', 'words', NULL, NULL, 0, 'up', 'v1', 0, NULL)")
    old.execute("PRAGMA user_version = 1")
    old.close()
    db = open_state(tmp_path / "state.db")
    (kept,) = Waiting(db, LabelsConfig()).recent(5)
    assert (kept.id, kept.sketch) == ("a", None)
    db.close()
    open_state(tmp_path / "state.db").close()
