"""Several labels for one text: the latest of each annotator counts, and what most of them say is its label."""

import sqlite3
from collections.abc import Sequence
from typing import NamedTuple

from daemon.config import LabelsConfig
from daemon.records import Label


class Vote(NamedTuple):
    """What one annotator says of a text; labels without an annotator are those of one annotator without a name."""

    annotator: str
    label: str
    weight: float


class Verdict(NamedTuple):
    """The label that leads, and the mean weight of those who gave it. `disagreement` says why it is not to be trusted.

    `votes` is how many annotators there are.
    """

    label: str
    weight: float
    votes: int
    disagreement: str | None


def count(votes: Sequence[Vote], agreement: float) -> Verdict:
    """The verdict of `votes`, in the order in which they came; of labels with equal weights the first one leads.

    One of several needs the share `agreement` of all weight to be trusted.
    """
    weights: dict[str, float] = {}
    for vote in votes:
        weights[vote.label] = weights.get(vote.label, 0.0) + vote.weight
    leader = max(weights, key=lambda label: weights[label])
    given = [vote.weight for vote in votes if vote.label == leader]
    share = weights[leader] / sum(weights.values())
    disagreement = None
    if len(weights) > 1 and share < agreement:
        sayings = ", ".join(f"{vote.annotator or 'somebody'} says {vote.label}" for vote in votes)
        disagreement = f"{sayings}: no label has {agreement:.0%} of the votes"
    return Verdict(leader, sum(given) / len(given), len(votes), disagreement)


class Votes:
    """The table of votes; they are kept for `labels.horizon`, as scores are."""

    def __init__(self, db: sqlite3.Connection, config: LabelsConfig) -> None:
        self._db = db
        self._config = config

    def cast(self, label: Label, now: float) -> Verdict:
        """Take a label, in place of an earlier one by the same annotator; the verdict on its text."""
        self._db.execute(
            "INSERT INTO votes VALUES (?, ?, ?, ?, ?) ON CONFLICT (id, annotator) DO UPDATE SET "
            "label = excluded.label, weight = excluded.weight, at = excluded.at",
            (label.id, label.annotator or "", label.label, label.weight, now),
        )
        rows = self._db.execute(
            "SELECT annotator, label, weight FROM votes WHERE id = ? ORDER BY at, annotator", (label.id,)
        )
        return count([Vote(*row) for row in rows], self._config.agreement)

    def annotator(self, id: str) -> str:
        """Who said last what text `id` is; empty when nobody did, or nobody with a name."""
        row = self._db.execute("SELECT annotator FROM votes WHERE id = ? ORDER BY at DESC LIMIT 1", (id,)).fetchone()
        return row[0] if row else ""

    def expire(self, now: float) -> None:
        self._db.execute("DELETE FROM votes WHERE at < ?", (now - self._config.horizon,))
