"""What a run's versions knew, worked out by hand for versions whose every answer is known."""

from collections.abc import Sequence
from dataclasses import dataclass

import pytest

from daemon.config import MemoryConfig
from daemon.hindsight import LEAST, Lead, Seen, look_back
from daemon.memory import share_of

MEMORY = MemoryConfig()


@dataclass
class Version:
    """Knows some sources, and is wrong on every text of the others. A text is its source and its truth."""

    knows: frozenset[str]

    def best(self, texts: Sequence[str]) -> list[str]:
        return [self._say(*text.split()) for text in texts]

    def _say(self, source: str, truth: str) -> str:
        return truth if source in self.knows else {"good": "bad", "bad": "good"}[truth]


VERSIONS = {
    "v1": Version(frozenset({"home"})),
    "v2": Version(frozenset({"home", "abroad"})),
    "v3": Version(frozenset({"abroad"})),
}


def audited(source: str, first: int, count: int = LEAST) -> list[Seen]:
    """So many texts of the audit share, with both labels."""
    ids = (f"{source}-{n}" for n in range(100_000))
    mine = [id for id, _ in zip((id for id in ids if share_of(id, MEMORY) == "audit"), range(count), strict=False)]
    return [
        Seen(first + n, id, f"{source} {label}", source, label)
        for n, id in enumerate(mine)
        for label in [("good", "bad")[n % 2]]
    ]


def test_forgetting_and_transfer_are_what_the_papers_call_them() -> None:
    loaded: list[str] = []

    def load(version: str) -> Version:
        loaded.append(version)
        return VERSIONS[version]

    # v2 goes live before anything comes from abroad, which it knows already; v3 has forgotten home. v2 comes back once.
    leads = [Lead(0, "v1"), Lead(100, "v2"), Lead(300, "v3"), Lead(310, "v2"), Lead(320, "v3")]
    found = look_back([*audited("abroad", 200), *audited("home", 0)], leads, load, MEMORY)  # type: ignore[arg-type]
    assert found is not None
    home = {"texts": LEAST, "base": 1.0, "best": 1.0, "final": 0.0, "forgot": 1.0, "backward": -1.0, "forward": 0.0}
    abroad = {"texts": LEAST, "base": 0.0, "best": 1.0, "final": 1.0, "forgot": 0.0, "backward": 0.0, "forward": 1.0}
    assert found["sources"] == {"home": home, "abroad": abroad}
    assert (found["forgot"], found["backward"], found["forward"]) == (0.5, -0.5, 0.5)
    assert [(one["version"], one["mean"], one["worst"]) for one in found["versions"]] == [
        ("v1", 0.5, "abroad"),
        ("v2", 1.0, "abroad"),
        ("v3", 0.5, "home"),
    ]
    assert loaded == ["v1", "v2", "v3"]


def test_what_was_learned_from_or_judged_by_says_nothing() -> None:
    ids = [f"one-{n}" for n in range(400)]
    seen = [Seen(n, id, "home good", "home", "good") for n, id in enumerate(ids) if share_of(id, MEMORY) != "audit"]
    assert look_back(seen, [Lead(0, "v1")], pytest.fail, MEMORY) is None


def test_a_source_with_few_texts_is_left_out() -> None:
    seen = [*audited("home", 0), *audited("abroad", 50, LEAST - 1)]
    found = look_back(seen, [Lead(0, "v1")], VERSIONS.__getitem__, MEMORY)  # type: ignore[arg-type]
    assert found is not None
    assert list(found["sources"]) == ["home"]
