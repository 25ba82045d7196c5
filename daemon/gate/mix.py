"""The past, as it would be in today's label mix."""

from collections import Counter
from collections.abc import Sequence

from daemon.hashing import unit_hash
from learners.job import Example


def in_mix(examples: Sequence[Example], today: Sequence[str]) -> list[Example]:
    """As many of `examples` as have the mix of the labels `today`, in their order.

    A model that follows the label mix gives up being right about the old one, which is what it is for, and would seem
    to have forgotten the labels that became rare. It knows what it knew if it is as right about texts of the past that
    are drawn label by label, as often as each is there today.
    """
    wanted = Counter(today)
    cells = {label: [one for one in examples if one.label == label] for label in wanted}
    # A label that the past never saw says nothing of it.
    for_each = min((len(cell) / wanted[label] for label, cell in cells.items() if cell), default=0.0)
    kept: set[str] = set()
    for label, cell in cells.items():
        cell.sort(key=lambda one: unit_hash("today", one.id))
        kept.update(one.id for one in cell[: round(for_each * wanted[label])])
    return [one for one in examples if one.id in kept]
