"""What parent and candidate say of the held-out texts when the names in them are swapped for others."""

from collections.abc import Sequence
from hashlib import blake2b

from learners.device import Compute
from learners.job import Example, Swapped
from learners.judging import answers
from learners.model import LoadedModel
from learners.renaming import renamed

#: Texts that are swapped, at most: a share of labels that move is then known to 4 points, two standard deviations.
MOST = 500


def swapped_answers(
    parent: LoadedModel | None,
    candidate: LoadedModel,
    examples: Sequence[Example],
    labels: list[str],
    seed: int,
    compute: Compute,
) -> dict[str, Swapped]:
    """By id, for those of `examples` in which a name is recognised; by a hash of the id where they are too many."""
    others = {example.id: renamed(example.text, seed) for example in examples}
    with_names = [example.id for example in examples if others[example.id] != example.text]
    ids = sorted(with_names, key=_draw)[:MOST]
    texts = [others[id] for id in ids]
    said = answers(candidate, texts, labels, compute)
    before = answers(parent, texts, labels, compute) if parent else None
    return {
        id: Swapped(parent=None if before is None else before[at].tolist(), candidate=said[at].tolist())
        for at, id in enumerate(ids)
    }


def _draw(id: str) -> bytes:
    return blake2b(f"swapped:{id}".encode(), digest_size=8).digest()
