"""Which held-out examples may choose something, such as when to stop: the gate then judges on the others.

A temperature moves no label to the top, so those that chose nothing else still say what has been forgotten.
"""

import hashlib

#: Share of gate.jsonl that may choose. The gate needs most of them: its test is the one that must have power.
SHARE = 1 / 3


def chooses(id: str) -> bool:
    """Whether the gate example `id` is in the part that choices are made on: a fixed hash, the same in every job."""
    digest = hashlib.blake2b(f"selection:{id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") < SHARE * 2**64
