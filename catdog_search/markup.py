"""External text made literal for what would interpret it: figures, Markdown, tables."""

from __future__ import annotations

import html
import re

from catdog_search.text import printable

# What begins or ends something in a line of Markdown, as MLflow and GitHub read it.
_MARKUP = re.compile(r"([\\`*_\[\]|~#])")


def as_figure_text(text: str, most: int = 100) -> str:
    r"""One line that matplotlib draws as it is.

    Matplotlib counts `$` and `\$`; with as many of each, there is no formula, and `$` is drawn.

    Args:
        text: Any text.
        most: Characters that leave room for the figure; a longer text is cut.
    """
    line = printable(text)
    shown = line if len(line) <= most else f"{line[: most - 1]}…"
    return shown.replace("$", r"\$")


def as_markdown(text: str) -> str:
    """Lines that Markdown shows literally."""
    return "\n".join(map(_line, text.split("\n")))


def without_escapes(markdown: str) -> str:
    """Our own Markdown for a terminal: the inverse of `as_markdown`, with headings and tables."""
    return html.unescape(re.sub(r"\\([\\`*_\[\]|~#])", r"\1", markdown))


def _line(text: str) -> str:
    plain = printable(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _MARKUP.sub(r"\\\1", plain)
