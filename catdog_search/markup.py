"""Text of others, as literal text for what would interpret it: figures, Markdown, tables."""

from __future__ import annotations

import re

from catdog_search.text import printable

# What begins or ends something in a line of Markdown, as MLflow and GitHub read it.
_MARKUP = re.compile(r"([\\`*_\[\]|~#])")


def as_figure_text(text: str, most: int = 100) -> str:
    r"""One line that matplotlib draws as it is.

    It counts `$` and `\$`; where both are as many, nothing is a formula, and it draws `$`.

    Args:
        text: Anybody's.
        most: Characters that leave room for the figure; of a longer text the beginning is shown.
    """
    line = printable(text)
    shown = line if len(line) <= most else f"{line[: most - 1]}…"
    return shown.replace("$", r"\$")


def as_markdown(text: str) -> str:
    """Lines that Markdown shows as they are."""
    return "\n".join(map(_line, text.split("\n")))


def _line(text: str) -> str:
    plain = printable(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _MARKUP.sub(r"\\\1", plain)
