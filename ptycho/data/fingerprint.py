"""What a computation begins from, in one hash: a checkpoint is gone on with only where it is the same."""

import hashlib
from collections.abc import Iterator, Sequence

import numpy as np

from ptycho.data.scan import Scan


def fingerprint(*things: np.ndarray | str) -> str:
    """SHA-256, in hexadecimal, of arrays (their values, types and shapes) and texts, in this order."""
    total = hashlib.sha256()
    for thing in things:
        array = np.asarray(thing)
        total.update(f"{array.dtype.str} {array.shape} ".encode())
        total.update(np.ascontiguousarray(array).tobytes())
    return total.hexdigest()


def measured(scans: Sequence[Scan]) -> Iterator[np.ndarray]:
    """What tells scans apart from others: counts of each frame, positions and masks. Probes may be found on the way."""
    for scan in scans:
        yield from (scan.frame_counts, scan.positions, scan.mask)
