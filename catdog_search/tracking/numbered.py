"""Keys of consecutive tags, `PREFIX0001.<hex>`, which sort in the order of writing.

The hex digits keep two concurrent writers from taking the same key.
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
    """The key that follows the existing ones.

    Args:
        prefix: Prefix of all keys.
        keys: Existing keys.
        unique: Text that no concurrent writer uses.
    """
    last = max((number(prefix, key) for key in keys), default=0)
    return f"{prefix}{last + 1:0{_DIGITS}d}.{unique}"
