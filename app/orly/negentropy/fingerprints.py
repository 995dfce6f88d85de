"""Sums of ids and what becomes of them.

A range's fingerprint is the first half of the SHA-256 of two things: the sum of its ids as little-endian numbers of
256 bits, without what goes beyond, and the number of its items as a varint. So it can be had from sums alone.

A sum is kept as eight numbers of 64 bits, one for each four bytes of the ids, and nothing is carried from one to the
next before the end: four bytes can be added 2^32 times.
"""

from hashlib import sha256
from typing import Final

import numpy as np
import numpy.typing as npt

from orly.negentropy.encoding import varint
from orly.negentropy.ranges import FINGERPRINT_BYTES, ID_BYTES

__all__ = ["EMPTY", "LIMBS", "Sums", "fingerprints"]

LIMBS: Final = 8
"""Numbers in a sum."""

Sums = npt.NDArray[np.uint64]
"""Sums, one in a row of `LIMBS`."""

_LIMB_BITS: Final = np.uint64(32)
_LIMB_MASK: Final = np.uint64(2**32 - 1)


def fingerprints(sums: Sums, counts: list[int]) -> list[bytes]:
    """The fingerprints of ranges, by the sums of their ids and the numbers of their items."""
    limbs = np.empty(sums.shape, dtype="<u4")
    carry = np.zeros(len(sums), dtype=np.uint64)
    for column in range(LIMBS):
        total = sums[:, column] + carry
        limbs[:, column] = total & _LIMB_MASK
        carry = total >> _LIMB_BITS
    packed = limbs.tobytes()
    written = {count: varint(count) for count in set(counts)}
    return [
        sha256(packed[at : at + ID_BYTES] + written[count]).digest()[:FINGERPRINT_BYTES]
        for at, count in zip(range(0, len(packed), ID_BYTES), counts, strict=True)
    ]


EMPTY: Final = sha256(bytes(ID_BYTES) + varint(0)).digest()[:FINGERPRINT_BYTES]
"""The fingerprint of a range without items."""
