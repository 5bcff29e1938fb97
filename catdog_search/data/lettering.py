"""Text of any script in pictures: in a font that has its letters, or spelled out."""

from __future__ import annotations

import functools
from dataclasses import dataclass

from catdog_search.markup import as_figure_text
from catdog_search.text import printable

# The font that comes with matplotlib: the first choice, and what figures are set in.
_FIRST = "DejaVu Sans"
# Ignored: it has a box for every letter there is.
_NO_FONT = "Last Resort"


@dataclass(frozen=True)
class Lettered:
    r"""Text that the fonts can show.

    Attributes:
        text: Text as it is shown; letters that no font has are spelled out, as in `\u732b`.
        font: Path of a font that has its letters; None where any does.
    """

    text: str
    font: str | None


@functools.lru_cache(maxsize=256)
def lettered(text: str) -> Lettered:
    """Text as the fonts can show it, and which font to use."""
    text = printable(text)
    if text.isascii():
        return Lettered(text, None)
    wanted = frozenset(map(ord, text)) - {ord(" ")}
    for path in _fonts():
        if wanted <= _letters(path):
            return Lettered(text, path)
    first = _fonts()[0]
    known = _letters(first)
    spelled = (char if ord(char) in known or char == " " else _spelled(char) for char in text)
    return Lettered("".join(spelled), first)


def in_figure(text: str, most: int = 100) -> str:
    """Text for matplotlib: never parsed as a formula, and in fonts that have its letters.

    Args:
        text: Any text.
        most: See `as_figure_text`.
    """
    import matplotlib as mpl
    from matplotlib import font_manager

    letters = lettered(text)
    if letters.font is not None and letters.font != _fonts()[0]:
        name = font_manager.get_font(letters.font).family_name
        if name not in mpl.rcParams["font.family"]:
            mpl.rcParams["font.family"] = [*mpl.rcParams["font.family"], name]
    return as_figure_text(letters.text, most)


def _spelled(char: str) -> str:
    code = ord(char)
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"  # noqa: PLR2004  the basic plane


@functools.cache
def _fonts() -> tuple[str, ...]:
    """Paths of the fonts on this machine, upright regular ones first."""
    from matplotlib import font_manager

    fonts = [font for font in font_manager.fontManager.ttflist if _NO_FONT not in font.name]
    fonts.sort(
        key=lambda font: (
            font.name != _FIRST,
            font.style != "normal",
            str(font.weight) not in ("400", "normal", "regular"),
            font.fname,
        )
    )
    return tuple(font.fname for font in fonts)


@functools.cache
def _letters(path: str) -> frozenset[int]:
    from matplotlib import font_manager

    return frozenset(font_manager.get_font(path).get_charmap())
