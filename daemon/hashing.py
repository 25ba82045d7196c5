"""A fixed hash of an id to the unit interval: the same on every machine and in every version."""

import hashlib


def unit_hash(salt: str, id: str) -> float:
    """A uniform point in [0, 1) for `id`; different salts give independent points."""
    digest = hashlib.blake2b(f"{salt}:{id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64
