"""Asking for the labels that help most: which unlabelled texts to send to people, within a daily budget.

A text is worth asking about when the champion is unsure of it (Settles 2009, "Active Learning Literature Survey"),
when many of the latest texts are like it (information density: Settles & Craven 2008), and when nothing like it has
been labelled or asked about yet, which also keeps one round from asking the same thing twice. The three are multiplied.

The product is the chance of being asked about, not a rank: the texts that a model is least sure of are also those that
people disagree on, and with these alone it learns worse than from texts drawn blindly (Kirsch et al. 2023, "Stochastic
Batch Acquisition").
"""

import json
import math
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.spatial.distance import cdist, pdist

from daemon.champion import Champion
from daemon.config import AskingConfig
from daemon.hashing import unit_hash
from daemon.records import LabelRequest
from daemon.state import Blobs
from daemon.waiting import Scored, Waiting

DAY = 86_400.0

#: Texts that a round looks at: the latest are the stream as it is now. Two rounds of their distances take 20 ms.
WINDOW = 1_000

#: Of these, the latest that may be asked about: older ones are no longer timely.
CANDIDATES = 300

#: Sketches that the scale of distances is taken from; all pairs of them are compared.
SCALED = 300

#: Two texts are near each other when they are as close as the closest fiftieth of all pairs: whatever the model's
#: scale, a text of an even stream has about 2 % of it near.
NEAR = 0.02

#: Closer than this share of "near" is the same story in other words, and is not asked about again.
DUPLICATE = 0.5

#: What may be saved up of the budget while nothing is asked: a new kind of text is met with a quarter of a day's
#: questions at once, and the rest is spread over the day.
SAVED = 0.25

Vectors = npt.NDArray[np.float32]
Values = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Pick:
    """A text to ask about, by its place among the candidates.

    `density` is the share of recent texts near it; `novelty` is 0 to 1, 1 when nothing labelled is anywhere near.
    """

    index: int
    density: float
    novelty: float


def choose(
    uncertainty: Values, sketches: Vectors, recent: Vectors, labelled: Vectors, count: int, *, draws: Values
) -> list[Pick]:
    """Draw `count` candidates, or fewer, each with a chance in proportion to how much its label would help.

    `uncertainty` `[n]`, `draws` `[n]`, uniform in [0, 1), and `sketches` `[n, dimensions]` are the candidates';
    `recent` are sketches of the stream as it is now, `labelled` those of texts whose label is known or asked for. All
    sketches are one model's.
    """
    if not len(sketches) or len(recent) < 2:
        return []
    near = max(float(np.quantile(pdist(recent[-SCALED:]), NEAR)), float(np.finfo(np.float32).tiny))
    density = (cdist(sketches, recent) <= near).mean(axis=1)
    # Up to what is typical: beyond, denser is not better, or all questions would go to one heap.
    usual = np.minimum(density / np.median(density), 1.0) if np.median(density) > 0 else density
    nearest: Values = cdist(sketches, labelled).min(axis=1) if len(labelled) else np.full(len(sketches), np.inf)
    # The largest of weights over exponential times is each with a chance in proportion to its weight (Efraimidis and
    # Spirakis 2006).
    waits = np.maximum(-np.log1p(-draws), np.finfo(np.float64).tiny)
    picks: list[Pick] = []
    while len(picks) < count:
        novelty = np.minimum(nearest / (2 * near), 1.0)
        worth = np.where(nearest > DUPLICATE * near, uncertainty * usual * novelty, 0.0)
        best = int(np.argmax(worth / waits))
        if worth[best] <= 0:
            break
        picks.append(Pick(best, float(density[best]), float(novelty[best])))
        nearest = np.minimum(nearest, cdist(sketches, sketches[best : best + 1])[:, 0])
    return picks


def margin(probabilities: Sequence[float]) -> float:
    """How unsure: 1 less the lead of the likeliest label over the next; 0 is sure, 1 a tie."""
    first, second = sorted(probabilities, reverse=True)[:2] if len(probabilities) > 1 else (1.0, 0.0)
    return 1.0 - (first - second)


class Budget:
    """Questions that may be asked now, on the stream's clock: never more than `daily` in any 24 hours, and no more
    than a quarter of that at once.

    What has been saved up is part of `state`, so that a restart neither wins nor loses any.
    """

    def __init__(self, daily: int, saved: float | None = None, at: float | None = None) -> None:
        self._daily = daily
        self._at = at
        self._saved = self._most if saved is None else min(saved, self._most)

    @property
    def _most(self) -> float:
        return max(1.0, SAVED * self._daily)

    def allowed(self, now: float, asked_today: int) -> int:
        """How many may be asked at `now`, when `asked_today` were in the last 24 hours."""
        passed = max(0.0, now - self._at) if self._at is not None else 0.0
        self._at = now if self._at is None else max(self._at, now)
        self._saved = min(self._saved + passed * self._daily / DAY, self._most)
        return max(0, min(math.floor(self._saved), self._daily - asked_today))

    def spend(self, count: int) -> None:
        self._saved -= count

    def state(self) -> dict[str, float | None]:
        return {"saved": self._saved, "at": self._at}


class Asking:
    """Asks in rounds, each text once; what was asked and what may be asked are in the controller's state."""

    def __init__(self, db: sqlite3.Connection, config: AskingConfig, waiting: Waiting) -> None:
        self._db = db
        self._config = config
        self._waiting = waiting
        self._blobs = Blobs(db)
        saved = self._blobs.get_json("asking", {"looked": 0, "saved": None, "at": None})
        self._looked: int = saved["looked"]
        self._budget = Budget(config.daily_budget, saved["saved"], saved["at"])

    def requests(self, champion: Champion, now: float) -> list[LabelRequest]:
        """What to ask now: nothing until `asking.every` texts have come since the last round.

        Within the step's transaction: what is returned counts as asked.
        """
        if not self._config.daily_budget or self._waiting.seen() - self._looked < self._config.every:
            return []
        self._looked = self._waiting.seen()
        allowed = self._budget.allowed(now, self._asked_since(now - DAY))
        requests = self._round(champion, allowed) if allowed else []
        self._budget.spend(len(requests))
        self._db.executemany("INSERT INTO asked VALUES (?, ?)", [(request.id, now) for request in requests])
        self._blobs.put_json("asking", {"looked": self._looked, **self._budget.state()})
        return requests

    def expire(self, now: float, horizon: float) -> None:
        """Forget what was asked so long ago that its score has expired."""
        self._db.execute("DELETE FROM asked WHERE at < ?", (now - max(horizon, DAY),))

    def _round(self, champion: Champion, count: int) -> list[LabelRequest]:
        seen = self._waiting.sketched(champion.version, WINDOW)
        known = self._known([one.id for one, _ in seen])
        done = [labelled or one.id in known for one, labelled in seen]
        # The sketch may be the champion's, and the probabilities its predecessor's: those say nothing of the champion.
        open_ = [
            at
            for at, (one, _) in enumerate(seen)
            if not done[at] and one.model == champion.version and one.probabilities is not None
        ][-CANDIDATES:]
        sketches = np.array([one.vector for one, _ in seen])
        chances = [json.loads(seen[at][0].probabilities or "{}") for at in open_]
        unsure = np.array([margin(list(one.values())) for one in chances], dtype=np.float64)
        draws = np.array([unit_hash("asking", seen[at][0].id) for at in open_], dtype=np.float64)
        settled = sketches[np.array(done, dtype=bool)]
        picks = choose(unsure, sketches[open_], sketches, settled, count, draws=draws)
        return [_request(seen[open_[pick.index]][0], chances[pick.index], pick) for pick in picks]

    def _asked_since(self, moment: float) -> int:
        return int(self._db.execute("SELECT count(*) FROM asked WHERE at > ?", (moment,)).fetchone()[0])

    def _known(self, ids: Sequence[str]) -> set[str]:
        marks = ",".join("?" * len(ids))
        return {row[0] for row in self._db.execute(f"SELECT id FROM asked WHERE id IN ({marks})", list(ids))}


def _request(scored: Scored, chances: dict[str, float], pick: Pick) -> LabelRequest:
    likeliest = sorted(chances.items(), key=lambda pair: -pair[1])[:2]
    unsure = ", ".join(f"{chance:.2f} {label}" for label, chance in likeliest)
    like = "unlike anything labelled lately" if pick.novelty >= 1 else "not much like what was labelled lately"
    reason = f"unsure ({unsure}), typical of {pick.density:.0%} of recent texts, {like}"
    return LabelRequest(id=scored.id, text=scored.text, reason=reason)
