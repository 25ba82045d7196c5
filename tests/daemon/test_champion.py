import math
import sqlite3
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import beta

from daemon.champion import Probation, Reign, betting_evidence
from daemon.config import Config, ProbationConfig
from daemon.outbox import Outbox
from daemon.records import ModelAnnouncement
from daemon.registry import Registry, RegistryError
from daemon.state import Decisions, open_state, transaction

CONFIG = Config()


@pytest.fixture
def db(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    db = open_state(tmp_path / "state.db")
    yield db
    db.close()


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    registry = Registry(tmp_path / "models")
    for number in (1, 2, 3):
        folder = tmp_path / "candidate"
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(b"%d" % number)
        registry.add(
            folder,
            version=f"v{number}",
            parent=f"v{number - 1}" if number > 1 else None,
            created_at=datetime(2025, 1, 1, tzinfo=UTC) + timedelta(days=number),
            job=f"job-{number:05d}",
            trigger="labels",
            method="replay",
            labels=["down", "up"],
            data_sha256="0" * 64,
            seed=0,
            decision={},
        )
    return registry


def announced(db: sqlite3.Connection) -> list[tuple[str, str]]:
    said = [ModelAnnouncement.model_validate_json(message.value) for _, message in Outbox(db).waiting()]
    return [(one.version, one.state) for one in said]


def test_without_a_model_there_is_no_champion(db: sqlite3.Connection, tmp_path: Path) -> None:
    reign = Reign(db, CONFIG, Registry(tmp_path / "none"))

    assert reign.begin(1.0, 0) is None
    assert announced(db) == []
    with pytest.raises(ValueError, match="there is no earlier version to go back to"):
        reign.roll_back(2.0, cause="manual", because="asked for")


def test_at_the_very_start_the_newest_version_is_crowned_once(db: sqlite3.Connection, registry: Registry) -> None:
    champion = Reign(db, CONFIG, registry).begin(1.0, 40)

    assert champion is not None
    assert (champion.version, champion.parent, champion.since, champion.newest_example) == ("v3", None, 1.0, 40)
    again = Reign(db, CONFIG, registry)
    assert again.champion == champion
    assert again.begin(9.0, 99) == champion
    assert announced(db) == [("v3", "champion")]


def test_a_new_champion_is_announced_after_its_predecessor_has_retired(
    db: sqlite3.Connection, registry: Registry
) -> None:
    reign = Reign(db, CONFIG, registry)
    reign.crown(registry.manifest("v1"), 1.0, because="the first model", newest_example=10)
    reign.crown(registry.manifest("v2"), 2.0, because="better", newest_example=20)

    assert announced(db) == [("v1", "champion"), ("v1", "retired"), ("v2", "champion")]
    last = Outbox(db).waiting()[-1][1]
    assert (last.topic, last.key) == (CONFIG.topics.models, b"v2")
    said = ModelAnnouncement.model_validate_json(last.value)
    assert said.sha256 == registry.manifest("v2").sha256
    assert said.uri == registry.path("v2").resolve().as_uri()
    assert reign.champion is not None
    assert reign.champion.parent == "v1"
    assert Decisions(db).latest(1) == [
        {"at": 2.0, "kind": "promoted", "because": "better", "version": "v2", "before": "v1"}
    ]


def test_a_rollback_brings_back_the_parent_with_what_it_knew(db: sqlite3.Connection, registry: Registry) -> None:
    reign = Reign(db, CONFIG, registry)
    for number in (1, 2, 3):
        reign.crown(registry.manifest(f"v{number}"), number, because="better", newest_example=10 * number)

    back = reign.roll_back(4.0, cause="probation", because="worse")

    assert (back.version, back.parent, back.since, back.newest_example) == ("v2", "v1", 4.0, 20)
    assert announced(db)[-2:] == [("v3", "retired"), ("v2", "champion")]
    assert Decisions(db).latest(1)[0]["to"] == "v2"
    assert Reign(db, CONFIG, registry).champion == back
    assert reign.roll_back(5.0, cause="manual", because="asked for").newest_example == 10
    with pytest.raises(ValueError, match="no earlier version"):
        reign.roll_back(6.0, cause="manual", because="asked for")
    assert announced(db)[-1] == ("v1", "champion")


def test_a_version_that_was_never_champion_has_everything_to_learn(db: sqlite3.Connection, registry: Registry) -> None:
    reign = Reign(db, CONFIG, registry)
    reign.crown(registry.manifest("v3"), 1.0, because="the first model", newest_example=30)

    by_hand = reign.crown(registry.manifest("v2"), 2.0, because="asked for")

    assert (by_hand.parent, by_hand.newest_example) == ("v3", 0)
    # From the one that was live before it, a rollback goes on along that one's own line.
    assert reign.roll_back(3.0, cause="manual", because="asked for").newest_example == 30


def test_a_parent_that_is_gone_cannot_come_back_and_the_champion_stays(
    db: sqlite3.Connection, registry: Registry
) -> None:
    reign = Reign(db, CONFIG, registry)
    reign.crown(registry.manifest("v1"), 1.0, because="the first model", newest_example=1)
    reign.crown(registry.manifest("v2"), 2.0, because="better", newest_example=2)
    registry.path("v1").rename(registry.directory / ".gone")

    with pytest.raises(RegistryError, match="'v1': no such version"):
        reign.roll_back(3.0, cause="manual", because="asked for")
    assert reign.champion is not None
    assert reign.champion.version == "v2"
    assert announced(db)[-1] == ("v2", "champion")


def test_a_crowning_whose_step_broke_never_was(db: sqlite3.Connection, registry: Registry) -> None:
    def step() -> None:
        with transaction(db):
            Reign(db, CONFIG, registry).crown(registry.manifest("v1"), 1.0, because="better", newest_example=1)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        step()
    assert Reign(db, CONFIG, registry).champion is None
    assert announced(db) == []


@cache
def evidence(wins: int, losses: int) -> float:
    return betting_evidence(wins, losses)


@given(wins=st.integers(0, 300), losses=st.integers(0, 300))
def test_the_evidence_is_the_mixture_s_likelihood_over_a_fair_coin_s(wins: int, losses: int) -> None:
    n = wins + losses
    log_beta = math.lgamma(wins + 1) + math.lgamma(losses + 1) - math.lgamma(n + 2)
    expected = (n + 1) * math.log(2) + log_beta + beta.logsf(0.5, wins + 1, losses + 1)

    assert math.log(betting_evidence(wins, losses)) == pytest.approx(expected, rel=1e-6, abs=1e-6)


@given(wins=st.integers(0, 60), losses=st.integers(0, 60))
def test_under_a_fair_coin_the_evidence_is_a_martingale(wins: int, losses: int) -> None:
    following = (evidence(wins + 1, losses) + evidence(wins, losses + 1)) / 2

    assert following == pytest.approx(evidence(wins, losses), rel=1e-9)


def test_before_the_first_bet_there_is_no_evidence_either_way() -> None:
    assert betting_evidence(0, 0) == pytest.approx(1.0)


@pytest.mark.parametrize(("wins", "losses"), [(0, 2_000), (2_000, 0), (1_000, 1_000)])
def test_the_evidence_of_a_long_probation_is_a_number(wins: int, losses: int) -> None:
    assert math.isfinite(betting_evidence(wins, losses))


@pytest.mark.parametrize("alpha", [0.01, 0.05, 0.2])
def test_looked_at_after_every_bet_a_fair_coin_convinces_as_seldom_as_alpha(alpha: float) -> None:
    bets, alive, convinced = 250, np.array([1.0]), 0.0
    # alive[w]: the chance of w wins so far without ever having convinced; exact, so there is no sampling error.
    for n in range(1, bets + 1):
        alive = np.convolve(alive, [0.5, 0.5])
        over = [wins for wins in range(n + 1) if alive[wins] > 0 and evidence(wins, n - wins) >= 1 / alpha]
        convinced += float(alive[over].sum())
        alive[over] = 0.0

    assert 0 < convinced <= alpha
    assert convinced + alive.sum() == pytest.approx(1.0)


def test_of_2000_fair_probations_no_more_than_alpha_are_rolled_back() -> None:
    alpha, bets, trials = 0.05, 120, 2_000
    wins = np.random.default_rng(0).integers(0, 2, size=(trials, bets)).cumsum(axis=1)

    rolled_back = sum(
        any(evidence(int(w), n - int(w)) >= 1 / alpha for n, w in enumerate(row, start=1)) for row in wins
    )

    assert rolled_back / trials <= alpha + 3 * math.sqrt(alpha * (1 - alpha) / trials)


def probation(db: sqlite3.Connection, labels: int = 500, alpha: float = 0.01) -> Probation:
    return Probation(db, Config(probation=ProbationConfig(labels=labels, alpha=alpha)))


def disagreements(count: int) -> dict[str, tuple[str, str]]:
    return {f"t{number}": ("up", "down") for number in range(count)}


def test_a_clearly_worse_champion_is_found_out_with_its_numbers(db: sqlite3.Connection) -> None:
    watched = probation(db)
    watched.begin(disagreements(100))
    # Its parent is right on four of five.
    verdicts = [watched.count(f"t{number}", "down" if number % 5 == 0 else "up") for number in range(40)]

    because = next(verdict for verdict in verdicts if verdict)
    assert because == "of 30 live labels its parent alone was right on 24, it alone on 6 (evidence 117 to 1)"


def test_a_better_champion_is_left_alone(db: sqlite3.Connection) -> None:
    watched = probation(db)
    watched.begin(disagreements(100))

    assert [watched.count(f"t{number}", "up" if number % 5 == 0 else "down") for number in range(100)] == [None] * 100


def test_texts_on_which_both_are_right_or_wrong_are_no_bets(db: sqlite3.Connection) -> None:
    watched = probation(db)
    watched.begin({**{f"t{n}": ("up", "up") for n in range(50)}, **{f"u{n}": ("up", "down") for n in range(50)}})

    assert [watched.count(f"t{n}", "up") for n in range(50)] == [None] * 50
    assert [watched.count(f"u{n}", "flat") for n in range(50)] == [None] * 50


def test_a_label_counts_once_and_one_of_another_text_not_at_all(db: sqlite3.Connection) -> None:
    watched = probation(db, alpha=0.3)
    watched.begin(disagreements(2))

    assert [watched.count("t0", "up") for _ in range(50)] == [None] * 50
    assert [watched.count("t9", "up") for _ in range(50)] == [None] * 50


def test_a_restart_goes_on_where_probation_was(db: sqlite3.Connection) -> None:
    probation(db).begin(disagreements(100))
    verdicts = [probation(db).count(f"t{number}", "up") for number in range(9)]

    assert verdicts[:8] == [None] * 8
    assert verdicts[8] == "of 9 live labels its parent alone was right on 9, it alone on 0 (evidence 102 to 1)"


def test_probation_ends_after_its_labels(db: sqlite3.Connection) -> None:
    watched = probation(db, labels=5)
    watched.begin(disagreements(100))

    assert [watched.count(f"t{number}", "up") for number in range(100)] == [None] * 100


def test_a_probation_of_no_labels_is_none(db: sqlite3.Connection) -> None:
    watched = probation(db, labels=0)
    watched.begin(disagreements(100))

    assert [watched.count(f"t{number}", "up") for number in range(100)] == [None] * 100


def test_a_new_champion_does_not_answer_for_the_one_before_it(db: sqlite3.Connection) -> None:
    watched = probation(db)
    watched.begin(disagreements(100))
    for number in range(8):
        watched.count(f"t{number}", "up")
    watched.begin({f"n{number}": ("up", "down") for number in range(5)})

    assert watched.count("n0", "up") is None
    assert watched.count("t20", "up") is None
