"""A fixed hash of an id to the unit interval: the same on every machine and in every version."""

import hashlib


def unit_hash(salt: str, id: str) -> float:
    """A uniform point in [0, 1) for `id`; different salts give independent points."""
    digest = hashlib.blake2b(f"{salt}:{id}".encode(), digest_size=8).digest()
    # 53 bits, all that a float holds: the division is exact, and the largest digest does not round up to 1.
    return (int.from_bytes(digest, "big") >> 11) / 2**53
