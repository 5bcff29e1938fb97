"""Keys of tags that are written one after the other, `PREFIX0001.<hex>`: they sort as written.

The hex digits keep two who write at once from taking the same key.
"""

from __future__ import annotations

from collections.abc import Iterable

_DIGITS = 4


def number(prefix: str, key: str) -> int:
    """The number in a key.

    Raises:
        ValueError: There is none.
    """
    return int(key.removeprefix(prefix).split(".")[0])


def next_key(prefix: str, keys: Iterable[str], unique: str) -> str:
    """The key after those that there are.

    Args:
        prefix: Prefix of all of them.
        keys: The keys that there are.
        unique: Text that nobody else uses who writes at the same time.
    """
    last = max((number(prefix, key) for key in keys), default=0)
    return f"{prefix}{last + 1:0{_DIGITS}d}.{unique}"
