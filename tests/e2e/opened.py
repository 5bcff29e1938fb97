"""What the tests of the page share: an opened page, and pictures as files."""

from __future__ import annotations

import io
from dataclasses import dataclass, field

import numpy as np
from PIL import Image
from playwright.sync_api import ConsoleMessage, Page

SIDE = 64


@dataclass
class Opened:
    """A page, and all that it asked for and complained of.

    Attributes:
        page: Playwright's.
        complaints: Errors and warnings of its console.
        asked: Addresses that it asked for.
    """

    page: Page
    complaints: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    def hear(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(message.text)


def photo(red: float, green: float, blue: float, kind: str = "PNG") -> bytes:
    """A picture of one colour with a grey corner, as a file."""
    pixels = np.full((SIDE, SIDE * 3 // 2, 3), (red, green, blue), np.uint8)
    pixels[: SIDE // 4, : SIDE // 4] = 128
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()
