"""What a run's account makes of the versions that scored its texts."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from daemon.config import MemoryConfig
from daemon.hindsight import LEAST
from daemon.ledger import Ledger
from daemon.memory import share_of
from daemon.records import Label, Score

START = datetime(2026, 1, 1, tzinfo=UTC)
MEMORY = MemoryConfig()


class Right:
    """An engine that knows everything: a text is its truth."""

    def best(self, texts: Sequence[str]) -> list[str]:
        return list(texts)


def scored(ledger: Ledger, number: int, model: str) -> None:
    """A text that `model` scored, and its label."""
    truth, when = ("down", "up")[number % 2], START + timedelta(minutes=number)
    said: dict[str, Any] = {"label": truth, "probabilities": {"down": 0.5, "up": 0.5}, "scored_at": when}
    ledger.add_score(Score(id=f"t{number}", text=truth, timestamp=when, source="wire", model=model, **said))
    ledger.add_label(Label(id=f"t{number}", label=truth, timestamp=when), ["down", "up"])


def test_what_only_follows_the_label_mix_counts_as_the_one_that_learned_its_weights() -> None:
    ledger, loaded = Ledger(), []

    def load(version: str) -> Any:
        loaded.append(version)
        return Right()

    for number in range(1_000):
        scored(ledger, number, f"v{1 + number // 250}")
    assert sum(share_of(f"t{number}", MEMORY) == "audit" for number in range(1_000)) >= LEAST

    learned = {"v1": "v1", "v2": "v1", "v3": "v3", "v4": "v3", "v5": "v3"}
    found = ledger.look_back("v5", learned.__getitem__, load, MEMORY)
    assert found is not None
    assert found["leads"] == [{"since": 0, "version": "v1"}, {"since": 500, "version": "v3"}]
    assert [one["version"] for one in found["versions"]] == loaded == ["v1", "v3"]
