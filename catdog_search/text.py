"""Text of others (names of files, classes, recipes): compared in one way, printed in one way."""

from __future__ import annotations

import unicodedata

# Control characters, halves of surrogate pairs (bytes that are no text), ends of lines.
_UNPRINTABLE = frozenset(("Cc", "Cs", "Zl", "Zp"))
# What turns the direction of the text around it.
_TURNING = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
# How Python reads bytes of file names that are no UTF-8: as U+DC80 to U+DCFF.
_FIRST_BYTE, _LAST_BYTE, _BYTE_OFFSET = 0xDC80, 0xDCFF, 0xDC00


def printable(text: str) -> str:
    r"""One line that can be written anywhere: what a terminal would act on is spelled out.

    An escape becomes `\x1b`, a byte that is no UTF-8 `\xe9`, a mark that turns the direction
    `\u202e`. The result can be encoded as UTF-8 and holds no end of a line.
    """
    return "".join(map(_shown, text))


def _shown(char: str) -> str:
    if unicodedata.category(char) not in _UNPRINTABLE and char not in _TURNING:
        return char
    code = ord(char)
    if _FIRST_BYTE <= code <= _LAST_BYTE:
        code -= _BYTE_OFFSET
    return f"\\x{code:02x}" if code <= 0xFF else f"\\u{code:04x}"  # noqa: PLR2004  one byte


def name_key(text: str) -> str:
    """The same for names that people take for the same: letters composed or not, any case."""
    folded = unicodedata.normalize("NFC", text).casefold()
    return unicodedata.normalize("NFC", folded)
