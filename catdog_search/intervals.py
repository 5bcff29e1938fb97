"""How far a share that was counted may be from the true one."""

from __future__ import annotations

import math

_95_PERCENT = 1.96


def wilson(right: int, n: int) -> tuple[float, float]:
    """The 95 % interval of a share, good near 0 and 1 too.

    Source: Wilson 1927, J. Am. Stat. Assoc. 22.

    Args:
        right: Number of right answers, 0 to n.
        n: Number of answers, at least 1.
    """
    z, share = _95_PERCENT, right / n
    middle = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return max(0.0, middle - half), min(1.0, middle + half)
