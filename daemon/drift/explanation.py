"""What is new about the texts since a drift alarm: how many, their words, examples."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import cdist, pdist, squareform

from daemon.drift.detector import Values
from daemon.drift.novelty import Sketches, check_sketches
from daemon.drift.typical import Word, terms, typical

Places = npt.NDArray[np.intp]

#: Texts looked at on each side of the change. More would say little else, and the controller waits:
#: 0.1 s for headlines, 0.7 s for texts of which 1,000 characters are read.
MOST_TEXTS = 500

#: Standard errors by which a share is put below what was seen. With 2, and nothing new, one estimate in five is above
#: 0, by little; where something is new, fewer are above the true share (simulated p-values of 30 to 500 texts).
CAUTION = 2.0

#: The least number of texts that are shown as the new ones, however small their share.
LEAST_NEW = 20

#: Clusters at most, and texts in one at least: what one or two texts have in common is no topic.
MOST_CLUSTERS, LEAST_IN_CLUSTER = 4, 5

#: Examples of a cluster, the characters of one, and the words named for it.
EXAMPLES, EXAMPLE_LENGTH, CLUSTER_WORDS = 3, 200, 3

#: Texts that have more than this share of their words and phrases in common are one story told twice.
ALIKE = 0.4

#: Typical words in the sentence.
IN_SENTENCE = 4


class Read(NamedTuple):
    """A text and its words and phrases."""

    text: str
    terms: set[str]


@dataclass(frozen=True)
class Cluster:
    """New texts that are alike: their share of the new ones, 1 less their mean p-value, typical words, examples."""

    size: float
    novelty: float
    words: tuple[str, ...]
    examples: tuple[str, ...]


@dataclass(frozen=True)
class Explanation:
    """What is new. `share`, from 0 to 1, is of the texts since the change: at least so many are unlike before."""

    share: float
    words: tuple[Word, ...]
    clusters: tuple[Cluster, ...]

    def as_json(self) -> dict[str, Any]:
        """As in a decision and in `report.json`."""
        return {
            "share": self.share,
            "words": [asdict(word) for word in self.words],
            "clusters": [
                {**asdict(cluster), "words": list(cluster.words), "examples": list(cluster.examples)}
                for cluster in self.clusters
            ],
        }

    def __str__(self) -> str:
        """As in: at least 30% of the texts are new; typical: "gold futures", "mcx"; for example: "gold slips"."""
        new = f"at least {self.share:.0%} of the texts are new" if self.share >= 0.01 else "no text stands out as new"
        return "; ".join(filter(None, [new, self.gist]))

    @property
    def gist(self) -> str:
        """The words and an example alone, where "new" is not the word for what the texts are."""
        listed = [word.text for word in self.words]
        parts = ["typical: " + ", ".join(f'"{word}"' for word in listed[:IN_SENTENCE])] if listed else []
        if examples := [example for cluster in self.clusters for example in cluster.examples]:
            best = max(examples, key=lambda example: len(terms(example).intersection(listed)))
            parts.append(f'for example: "{best}"')
        return "; ".join(parts)


def explain(
    before: Sequence[str], after: Sequence[str], sketches: Sketches | None, novelty: Values, seed: int
) -> Explanation:
    """What sets the texts `after` a change apart from those `before`.

    `sketches` `[len(after), dimensions]`, where there are any, and `novelty` `[len(after)]` are of the texts after:
    conformal p-values, uniform while nothing has changed, small for what is novel. Of more than `MOST_TEXTS` on a
    side, a sample drawn with `seed` is looked at; of each text, its beginning.

    Raises:
        ValueError: the arrays do not fit the texts, or have values that cannot be.
    """
    _check(len(after), sketches, novelty)
    if not after:
        return Explanation(0.0, (), ())
    rng = np.random.default_rng(seed)
    old = [_read(before[at]) for at in _sample(len(before), rng)]
    looked_at = _sample(len(after), rng)
    texts, p_values = [_read(after[at]) for at in looked_at], novelty[looked_at]
    novel = np.argsort(p_values, kind="stable")
    words = _typical(old, texts, novel, share_of_small(p_values))
    share = max([share_of_small(p_values), *(_share_with(word, len(old), len(texts)) for word in words)])
    # A text is new if it is unusual; of those, first the ones that show what the words tell.
    marked = np.array([any(word.text in texts[at].terms for word in words) for at in novel], dtype=np.bool_)
    new = novel[np.argsort(~marked, kind="stable")][: max(LEAST_NEW, round(share * len(texts)))]
    sketched = None if sketches is None else sketches[looked_at[new]]
    clusters = _clusters(old, [texts[at] for at in new], p_values[new], sketched)
    return Explanation(share, tuple(words), tuple(clusters))


def share_of_small(p_values: Values) -> float:
    """The share of `[n]` p-values, at least one, that is too small to be of a uniform distribution, from below.

    In a mixture of uniform p-values and others, it is what lies below a point beyond what is uniform and chance, at
    the point where this is most. Meinshausen & Rice 2006, "Estimating the proportion of false null hypotheses", with
    the bounding function that grows with the standard deviation. Storey's estimate (2002) is this at one point and
    without caution: twice as noisy with 30 texts.
    """
    points = np.linspace(0.02, 0.7, 35)
    beyond = (p_values[:, None] <= points).mean(axis=0) - points
    beyond -= CAUTION * np.sqrt(points * (1 - points) / len(p_values))
    return float(np.clip((beyond / (1 - points)).max(), 0, 1))


def _share_with(word: Word, texts_before: int, texts_after: int) -> float:
    """The least share of new texts in a mixture of old and new that explains how often the word is there."""
    chance = word.before * (1 - word.before) / texts_before + word.after * (1 - word.after) / texts_after
    beyond = word.after - word.before - CAUTION * np.sqrt(chance)
    return max(0.0, float(beyond / (1 - word.before))) if word.before < 1 else 0.0


def _typical(old: Sequence[Read], texts: Sequence[Read], novel: Places, share: float) -> list[Word]:
    """The typical words of the new among `texts`, with their rates in all; `novel` are places, most novel first."""
    # Texts that are as before blur the words of those that are not: the more usual half is left out if it can be.
    telling = novel[: round(len(novel) * max(share, 0.5))] if share > 0 else novel
    words = typical([one.terms for one in old], [texts[at].terms for at in telling])
    rates = [sum(word.text in one.terms for one in texts) / len(texts) for word in words]
    return [Word(word.text, word.before, rate) for word, rate in zip(words, rates, strict=True)]


def _clusters(old: Sequence[Read], new: Sequence[Read], p_values: Values, sketches: Sketches | None) -> list[Cluster]:
    """The `new` texts by likeness, the largest cluster first. Without sketches they are one, the most novel first."""
    groups = [np.arange(len(new))] if sketches is None else _groups(sketches.astype(np.float64))
    old_terms, clusters = [one.terms for one in old], []
    for group in groups:
        texts = [new[at] for at in group]
        words = tuple(word.text for word in typical(old_terms, [one.terms for one in texts])[:CLUSTER_WORDS])
        novelty = float(1 - p_values[group].mean())
        clusters.append(Cluster(len(group) / len(new), novelty, words, tuple(_examples(texts))))
    return clusters


def _groups(vectors: Values) -> list[Places]:
    """Places of those that are near each other, the largest group first, in each the most central first.

    Ward's criterion, into as many groups as are furthest apart by their silhouette (Rousseeuw 1987).
    """
    groups = np.ones(len(vectors), dtype=np.intp)
    if len(vectors) >= 2 * LEAST_IN_CLUSTER:
        distances = pdist(vectors)
        tree, square = linkage(vectors, "ward"), squareform(distances)
        cuts = [fcluster(tree, count, "maxclust") for count in range(2, MOST_CLUSTERS + 1)]
        # Where all are the same there is nothing to cut.
        groups = max((cut for cut in cuts if cut.max() > 1), key=lambda cut: _silhouette(square, cut), default=groups)
    found = [np.flatnonzero(groups == group) for group in np.unique(groups)]
    found = [group for group in found if len(group) >= LEAST_IN_CLUSTER] or [np.arange(len(vectors))]
    return sorted((_inward(group, vectors) for group in found), key=len, reverse=True)


def _inward(group: Places, vectors: Values) -> Places:
    """The group's places, the one nearest to its centre first."""
    centre = vectors[group].mean(axis=0)
    return group[np.argsort(cdist(vectors[group], centre[None])[:, 0], kind="stable")]


def _silhouette(distances: Values, groups: npt.NDArray[np.integer]) -> float:
    """How much nearer a member is to its own group than to the next, on average: from -1 to 1.

    `distances` `[n, n]`, `groups` `[n]`, at least two different ones.
    """
    member = (groups[:, None] == np.unique(groups)).astype(np.float64)
    sizes = member.sum(axis=0)
    total = distances @ member
    own = (total * member).sum(axis=1) / np.maximum(member @ sizes - 1, 1)
    other = np.where(member > 0, np.inf, total / sizes).min(axis=1)
    largest = np.maximum(own, other)
    return float(np.where(largest > 0, (other - own) / np.where(largest > 0, largest, 1), 0).mean())


def _examples(texts: Sequence[Read]) -> list[str]:
    """The first of `texts` that are not nearly the same."""
    chosen: list[Read] = []
    for one in texts:
        if len(chosen) < EXAMPLES and not any(_alike(one.terms, other.terms) for other in chosen):
            chosen.append(one)
    return [shortened(one.text) for one in chosen]


def _alike(one: set[str], other: set[str]) -> bool:
    return len(one & other) >= ALIKE * len(one | other)


def shortened(text: str) -> str:
    """`text` in one line of at most `EXAMPLE_LENGTH` characters, cut between words where there is a space."""
    # Split no more than can be needed: a text may have megabytes.
    line = " ".join(text[: 10 * EXAMPLE_LENGTH].split())
    if len(line) <= EXAMPLE_LENGTH:
        return line or "(empty)"
    cut = line[: EXAMPLE_LENGTH - 1]
    words = cut.rpartition(" ")[0]
    return (words if len(words) > EXAMPLE_LENGTH // 2 else cut) + "…"


def _read(text: str) -> Read:
    return Read(text, terms(text))


def _sample(count: int, rng: np.random.Generator) -> Places:
    """Places of at most `MOST_TEXTS` of `count` texts, in order."""
    return np.sort(rng.permutation(count)[:MOST_TEXTS])


def _check(texts: int, sketches: Sketches | None, novelty: Values) -> None:
    if novelty.shape != (texts,):
        raise ValueError(f"{texts} texts need as many p-values, not an array of shape {list(novelty.shape)}")
    if not ((novelty >= 0) & (novelty <= 1)).all():
        raise ValueError("novelty must be p-values, from 0 to 1: how unusual the texts are, not their scores")
    if sketches is not None:
        if len(sketches) != texts:
            raise ValueError(f"{texts} texts need as many sketches, not {len(sketches)}")
        check_sketches(sketches)
