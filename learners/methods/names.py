"""What a method may be called: parts joined by `+`, as in `replay+ewc`. Imports nothing, so that the daemon can too."""

import difflib
from typing import Final

#: Every part, in the order that a method's name has them.
PARTS = ("finetune", "joint", "replay", "er-ace", "der", "lwf", "ewc", "si", "mas", "agem")

#: What a run may do besides: no way to learn, for it moves nothing but the head's bias, see `learners.priors`. The
#: daemon does it by itself when the label mix has moved.
PRIORS: Final = "priors"

#: Nor is this one: the parent is left as it is, to be judged again on the labels that have come since it learned.
AS_IS: Final = "as-is"

#: What a run may do that learns nothing.
UNLEARNING = frozenset({PRIORS, AS_IS})

#: Parts that learn from the replayed rows too.
REPLAYING = frozenset({"joint", "replay", "er-ace", "der"})

#: Parts that hold weights in place by what they were worth to the past.
HOLDING = frozenset({"ewc", "si", "mas"})

#: Parts that are a whole method, and why.
ALONE = {
    "finetune": "it is learning from the new examples with nothing added",
    "joint": "it starts afresh and learns from everything, so there is nothing to protect",
}


def canonical(method: str) -> str:
    """`method` with its parts in order.

    Raises:
        ValueError: a part is unknown or named twice, or two of them do not go together; says which and why.
    """
    parts = [part.strip() for part in method.split("+")]
    if nothing := sorted(UNLEARNING.intersection(parts)):
        raise ValueError(
            f"{nothing[0]} would never learn anything; the daemon does it by itself when there is cause, so say how "
            "it is to learn: der is the default"
        )
    for part in parts:
        if part not in PARTS:
            raise ValueError(f"{part!r} is no way to learn; {_nearest(part)}")
        if parts.count(part) > 1:
            raise ValueError(f"{part} is named twice; once is enough")
    if len(parts) > 1:
        _refuse_conflicts(frozenset(parts))
    return "+".join(sorted(parts, key=PARTS.index))


def of_a_run(method: str) -> str:
    """What a run does: `canonical`, or one of those that learn nothing.

    Raises:
        ValueError: neither; says why.
    """
    return method if method in UNLEARNING else canonical(method)


def replays(method: str) -> bool:
    """Whether the method learns from the replayed rows beside the new ones."""
    return not REPLAYING.isdisjoint(parts(method))


def starts_afresh(method: str) -> bool:
    """Whether training starts from the encoder, as if there were no parent."""
    return "joint" in parts(method)


def parts(method: str) -> list[str]:
    """The parts of a canonical name, in order."""
    return method.split("+")


def _refuse_conflicts(parts: frozenset[str]) -> None:
    for part, because in ALONE.items():
        if part in parts:
            raise ValueError(f"{part} stands alone: {because}")
    if len(holding := sorted(HOLDING & parts)) > 1:
        raise ValueError(f"{' and '.join(holding)} hold the same weights for the same reason; choose one")
    if "replay" in parts and (own := sorted(parts & {"er-ace", "der"})):
        raise ValueError(f"{own[0]} replays already; leave out replay")
    if "agem" in parts and (rehearsed := sorted(REPLAYING & parts)):
        raise ValueError(
            f"agem only keeps steps from harming the replayed examples, and {rehearsed[0]} learns from them; choose one"
        )


def _nearest(part: str) -> str:
    alike = difflib.get_close_matches(part, PARTS, n=1)
    known = f"there are {', '.join(PARTS)}, joined by +"
    return f"did you mean {alike[0]}? {known}" if alike else known
