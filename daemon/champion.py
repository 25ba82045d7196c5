"""Which version is live, how it got there, and how it leaves: promotion, probation, rollback."""

import math
import sqlite3
from collections.abc import Mapping
from typing import Literal

from pydantic import BaseModel, ConfigDict

from connectors.topic import Outgoing
from daemon.config import Config
from daemon.outbox import Outbox
from daemon.publisher import Publisher
from daemon.records import ModelAnnouncement, encode
from daemon.registry import Manifest, Registry
from daemon.state import Blobs, Decisions

CauseOfRollback = Literal["manual", "probation"]


class Champion(BaseModel):
    """The live version. `newest_example` is the last example it was given to learn or keep: later ones are new.

    One that only follows the label mix takes each label to be so much likelier as `odds` say than what it learned.
    """

    model_config = ConfigDict(frozen=True)

    version: str
    labels: list[str]
    parent: str | None
    since: float
    newest_example: int
    odds: dict[str, float] | None = None


class Reign:
    """The succession of champions, in the controller's state and on the models topic.

    With a `publisher`, a champion is announced once its files are in the store; until then scorers keep the one before.
    """

    def __init__(
        self, db: sqlite3.Connection, config: Config, registry: Registry, publisher: Publisher | None = None
    ) -> None:
        self._blobs = Blobs(db)
        self._decisions = Decisions(db)
        self._outbox = Outbox(db)
        self._config = config
        self._registry = registry
        self._publisher = publisher
        #: The version of the last champion that was announced, and where scorers were told to find it.
        self._announced: dict[str, str] = self._blobs.get_json("announced", {})
        stored = self._blobs.get("champion")
        self.champion = None if stored is None else Champion.model_validate_json(stored)

    def begin(self, now: float, newest_example: int) -> Champion | None:
        """The champion; at the very start the registry's newest version becomes it. None when there is no model."""
        manifests = self._registry.manifests()
        if self.champion is None and manifests:
            self.crown(manifests[-1], now, because="the first model", newest_example=newest_example)
        return self.champion

    def crown(self, manifest: Manifest, now: float, *, because: str, newest_example: int | None = None) -> Champion:
        """Make a version live: decided, and if need be announced, with the step's transaction.

        `newest_example` is needed for a version that was never champion.
        """
        before = self.champion.version if self.champion else None
        champion = self._enthrone(manifest, before, now, newest_example)
        self._decisions.add(now, "promoted", because, {"version": manifest.version, "before": before})
        return champion

    def roll_back(self, now: float, *, cause: CauseOfRollback, because: str) -> Champion:
        """Bring the champion's parent back. Raises ValueError when it has none."""
        if self.champion is None or self.champion.parent is None:
            raise ValueError("there is no earlier version to go back to")
        failed = self.champion.version
        manifest = self._registry.manifest(self.champion.parent)
        champion = self._enthrone(manifest, manifest.parent, now, None)
        details = {"version": failed, "to": manifest.version, "cause": cause}
        self._decisions.add(now, "rolled back", because, details)
        return champion

    def _enthrone(self, manifest: Manifest, parent: str | None, now: float, newest_example: int | None) -> Champion:
        # A version that comes back has learned what it had learned then: the rest is new to it again.
        memory_of = f"newest_example/{manifest.version}"
        newest = self._blobs.get_json(memory_of, 0) if newest_example is None else newest_example
        self._blobs.put_json(memory_of, newest)
        self.champion = Champion(
            version=manifest.version,
            labels=manifest.labels,
            parent=parent,
            since=now,
            newest_example=newest,
            odds=manifest.odds,
        )
        self._blobs.put("champion", self.champion.model_dump_json().encode())
        self.announce()
        return self.champion

    def announce(self) -> None:
        """Tell scorers of the champion, unless they know; called in every step, for its files may have arrived."""
        if self.champion is None:
            return
        version, before = self.champion.version, self._announced.get("version", self.champion.version)
        news = {"version": version, "uri": self._uri(version)}
        # One whose folder somebody removed cannot be announced again; whoever loaded it has it.
        if self._announced == news or not self._registry.has(version):
            return
        if self._publisher is not None and not self._publisher.has(version):
            return
        if before != version and self._registry.has(before):
            self._say(self._registry.manifest(before), "retired")
        self._say(self._registry.manifest(version), "champion")
        self._announced = news
        self._blobs.put_json("announced", news)

    def _uri(self, version: str) -> str:
        return self._publisher.uri(version) if self._publisher else self._registry.path(version).resolve().as_uri()

    def _say(self, manifest: Manifest, state: Literal["champion", "retired"]) -> None:
        announcement = ModelAnnouncement(
            version=manifest.version,
            uri=self._uri(manifest.version),
            sha256=manifest.sha256,
            parent=manifest.parent,
            state=state,
        )
        key = manifest.version.encode()
        self._outbox.put(Outgoing(self._config.topics.models, encode(announcement), key))


class Probation:
    """Live evidence on a new champion, from texts that both it and its parent have scored before their labels came.

    When a job starts, the latest texts have the parent's scores and, mostly, no labels yet; the learner scores them
    with the candidate too. As their labels arrive, each text that one got right and the other wrong is a bet. Under
    "the champion is no worse", the parent wins at most half of these; the mixture of all bets on it winning more is
    a supermartingale (Waudby-Smith & Ramdas 2024, section 4), so the champion may be judged after every label, and
    one that is no worse is rolled back with a chance of at most `alpha`.
    """

    def __init__(self, db: sqlite3.Connection, config: Config) -> None:
        self._db = db
        self._blobs = Blobs(db)
        self._config = config.probation
        self._wins: dict[str, int] = self._blobs.get_json("probation", {"parent": 0, "champion": 0, "seen": 0})

    def begin(self, pairs: Mapping[str, tuple[str, str]]) -> None:
        """Start anew with `pairs`: by id, the parent's label and the champion's."""
        self._db.execute("DELETE FROM probation")
        rows = [(id, parent, champion) for id, (parent, champion) in pairs.items()]
        self._db.executemany("INSERT INTO probation VALUES (?, ?, ?)", rows if self._config.labels else [])
        self._wins = {"parent": 0, "champion": 0, "seen": 0}
        self._blobs.put_json("probation", self._wins)

    def count(self, id: str, truth: str) -> str | None:
        """Take a label; what speaks for rolling back, once the evidence is enough."""
        row = self._db.execute("DELETE FROM probation WHERE id = ? RETURNING parent, champion", (id,)).fetchone()
        if row is None or self._wins["seen"] >= self._config.labels:
            return None
        parent_right, champion_right = row[0] == truth, row[1] == truth
        self._wins["seen"] += 1
        self._wins["parent"] += parent_right and not champion_right
        self._wins["champion"] += champion_right and not parent_right
        self._blobs.put_json("probation", self._wins)
        evidence = betting_evidence(self._wins["parent"], self._wins["champion"])
        if evidence < 1 / self._config.alpha:
            return None
        return (
            f"of {self._wins['seen']} live labels its parent alone was right on {self._wins['parent']}, "
            f"it alone on {self._wins['champion']} (evidence {evidence:.0f} to 1)"
        )


def betting_evidence(wins: int, losses: int) -> float:
    """Evidence that wins are more likely than losses: an e-value, valid whenever one stops.

    The likelihood of the sequence under a win probability uniform on (1/2, 1), over that of a fair coin:
    2^(n+1) * B(wins+1, losses+1) * P(Beta(wins+1, losses+1) > 1/2).
    """
    n = wins + losses
    # 2^(n+1) * P(Beta(a+1, b+1) > 1/2) = 2^(n+1) * P(Binomial(n+1, 1/2) <= a): a whole number, however long.
    tail = sum(math.comb(n + 1, k) for k in range(wins + 1))
    log_beta = math.lgamma(wins + 1) + math.lgamma(losses + 1) - math.lgamma(n + 2)
    # A float ends at e^709; that much evidence convinces any alpha.
    return math.exp(min(log_beta + math.log(tail), 700.0))
