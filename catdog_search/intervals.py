"""How far an observed share may be from the true one."""

from __future__ import annotations

import bisect
import math

_95_PERCENT = 1.96


def wilson(right: int, n: int) -> tuple[float, float]:
    """The 95 % interval of a share, accurate near 0 and 1 too.

    Source: Wilson 1927, J. Am. Stat. Assoc. 22.

    Args:
        right: Number of right answers, 0 to n.
        n: Number of answers, at least 1.
    """
    z, share = _95_PERCENT, right / n
    middle = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return max(0.0, middle - half), min(1.0, middle + half)


def needed_for(bound: float) -> int | None:
    """How many answers it takes for `wilson`'s lower bound to be able to exceed a bound.

    It then does if all of them are right. None where no number would do: a share is at most 1.
    """
    if bound >= 1:
        return None
    # The lower bound for n of n is n / (n + z²).
    return max(math.floor(bound * _95_PERCENT**2 / (1 - bound)) + 1, 1)


def clopper_pearson_upper(wrong: int, n: int, level: float = 0.95) -> float:
    """A one-sided upper bound of a share, which holds at least as often as its level says.

    Source: Clopper & Pearson 1934, Biometrika 26. It is 1 where all are wrong, or there are none.

    Args:
        wrong: Number of wrong answers, 0 to n.
        n: Number of answers, at least 0.
        level: How often the bound is to hold, above 0 and below 1.
    """
    from scipy.special import betaincinv

    return 1.0 if wrong == n else float(betaincinv(wrong + 1, n - wrong, level))


def paired_difference(gained: int, lost: int, n: int) -> tuple[float, float]:
    """The 95 % interval of the difference in the shares of questions that two answer right.

    The adjusted Wald interval, which adds one to each kind of disagreement so as not to collapse
    where there is none. Source: Bonett & Price 2012, J. Educ. Behav. Stat. 37.

    Args:
        gained: Number that the first has right and the second wrong, 0 to n.
        lost: Number that the second has right and the first wrong, 0 to n - gained.
        n: Number of questions, at least 1.

    Returns:
        Bounds of (gained - lost) / n, each -1 to 1.
    """
    up, down = (gained + 1) / (n + 2), (lost + 1) / (n + 2)
    half = _95_PERCENT * math.sqrt((up + down - (up - down) ** 2) / (n + 2))
    return max(-1.0, up - down - half), min(1.0, up - down + half)


def needed_to_tie(share: float, margin: float) -> int | None:
    """How many questions it takes to show a tie between two that are equally good.

    Args:
        share: Share of the questions that only one of them has right, 0 to 1.
        margin: How far `paired_difference`'s lower bound may be below 0.

    Returns:
        The fewest with which the bound is above `-margin`; None where no number would do.
    """
    if margin <= 0:
        return None

    def is_enough(n: int) -> bool:
        half = round(share * n / 2)
        return paired_difference(half, half, n)[0] > -margin

    high = 1
    while not is_enough(high):
        high *= 2
    return bisect.bisect_left(range(high + 1), True, lo=1, key=is_enough)


def mcnemar(gained: int, lost: int) -> float:
    """P-value of a gain and loss at least this uneven if neither is better: 0 to 1.

    McNemar's test, exact and two-sided. It is 1 where nothing was gained or lost.
    """
    from scipy.special import bdtr

    return min(1.0, 2 * float(bdtr(min(gained, lost), gained + lost, 0.5)))
