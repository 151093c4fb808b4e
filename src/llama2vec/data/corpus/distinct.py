"""Which ids have been seen, in 12 to 24 bytes each: a Python set of numbers takes about 90."""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt

_FIRST_BITS, _TAIL = 12, 1 << 10
_FULL = 2 / 3


def id_key(passage_id: str) -> int:
    """Return a hash of an id, of 64 bits, which stands for it where millions are compared.

    A UnicodeEncodeError if the id is not Unicode.
    """
    return int.from_bytes(hashlib.blake2b(passage_id.encode(), digest_size=8).digest(), "little")


class DistinctIds:
    """A set of eight-byte hashes of ids, open addressing with linear probing.

    A false alarm among ten million ids has a chance of about 3 in a million.

    >>> seen = DistinctIds()
    >>> seen.add("a"), seen.add("b"), seen.add("a"), len(seen), "b" in seen, "c" in seen
    (True, True, False, 2, True, False)
    """

    def __init__(self) -> None:
        self._count = 0
        self._place(np.empty(0, dtype=np.uint64), _FIRST_BITS)

    def __len__(self) -> int:
        return self._count

    def add(self, passage_id: str) -> bool:
        """Take in an id; return False if it was there. A UnicodeEncodeError if it is not Unicode."""
        # 0 marks a free slot.
        key = id_key(passage_id) or 1
        slots, place = self._slots, key >> self._shift
        while place < len(slots) and (found := slots[place]):
            if found == key:
                return False
            place += 1
        if place == len(slots) or self._count >= self._most:
            self._grow()
            return self.add(passage_id)
        slots[place] = key
        self._count += 1
        return True

    def __contains__(self, passage_id: str) -> bool:
        """Tell whether an id was added."""
        key = id_key(passage_id) or 1
        slots, place = self._slots, key >> self._shift
        while place < len(slots) and (found := slots[place]):
            if found == key:
                return True
            place += 1
        return False

    def _grow(self) -> None:
        table = np.asarray(self._slots)
        self._place(table[table > 0], 64 - self._shift + 1)

    def _place(self, keys: npt.NDArray[np.uint64], bits: int) -> None:
        """Make a table of 2^bits slots: a key's first bits are its slot, or else it stands in the next free one."""
        self._shift, self._most = 64 - bits, int(_FULL * 2**bits)
        # In order, each key stands in its own slot or after the one before it.
        keys.sort()
        steps, places = np.arange(len(keys)), (keys >> np.uint64(self._shift)).astype(np.int64)
        places -= steps
        np.maximum.accumulate(places, out=places)
        places += steps
        table = np.zeros(max(2**bits + _TAIL, int(places.max(initial=0)) + 1), dtype=np.uint64)
        table[places] = keys
        # A memoryview, which gives plain integers, faster than an array.
        self._slots = table.data
