"""Colours of all figures, and matplotlib's default style."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator

import matplotlib as mpl

TRAIN, VAL, MARK = "#7a869a", "#0b66c3", "#c2410c"


@contextlib.contextmanager
def plain_style() -> Iterator[None]:
    """Plot and save with matplotlib's defaults.

    A `matplotlibrc` in the current folder, or the user's own, is ignored, since it could have every
    text set by TeX; letters that the font lacks silently become boxes.
    """
    with mpl.rc_context(), warnings.catch_warnings():
        mpl.rcdefaults()
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield
