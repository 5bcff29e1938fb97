"""What a file is by its first bytes, whatever its name, and what to do if it is not a photo."""

from __future__ import annotations

import re
from dataclasses import dataclass

from catdog_search.data.formats import reads_heic

# Enough to recognise everything below; a tar's magic is at 257.
HEAD = 512


@dataclass(frozen=True)
class Kind:
    """A kind of file.

    Attributes:
        name: Name of the format, for display.
        is_photo: Whether it can be decoded here.
        advice: Advice for a file that can't be decoded; empty where nothing can be done.
    """

    name: str
    is_photo: bool = False
    advice: str = ""

    def reason(self) -> str:
        """Why a file of this kind is left out; it starts with the kind."""
        return f"{self.name}: {self.advice}" if self.advice else f"not an image: {self.name}"


def _photo(name: str) -> Kind:
    return Kind(name, is_photo=True)


_EXPORT = "export it as JPEG or PNG"
_RAW = Kind("camera's raw file", advice=_EXPORT)
_RARE = Kind("rare format", advice=_EXPORT)
_VIDEO = Kind("video", advice="not a photo; take frames out of it, or leave it")
_ARCHIVE = Kind("archive", advice="unpack it, or if it is a zip give it alone with --data")
_HTML = Kind("HTML page", advice="a server's answer where a photo was meant; download it again")
_TEXT = Kind("text")
_LFS = Kind("Git LFS pointer", advice="the photo is elsewhere; fetch it with `git lfs pull`")
_SHORTCUT = Kind("shortcut", advice="it only points to a file; copy the photo itself")

# Regular expressions over the first bytes; the first match counts.
_SIGNATURES: tuple[tuple[bytes, Kind], ...] = (
    (rb"version https://git-lfs\.github\.com/spec", _LFS),
    (rb"\xff\xd8\xff", _photo("JPEG")),
    (rb"\x89PNG\r\n\x1a\n", _photo("PNG")),
    (rb"GIF8[79]a", _photo("GIF")),
    (rb"RIFF....WEBP", _photo("WebP")),
    (rb"BM.{4}\0\0\0\0", _photo("BMP")),
    (rb"FUJIFILMCCD-RAW|IIRO|IIRS|MMOR|IIU\0|II\*\0.{4}CR|\0MRM|.{4}ftypcrx", _RAW),
    (rb"II\*\0|MM\0\*|II\+\0|MM\0\+", _photo("TIFF")),
    (rb"P([1-6][\s#]|[Ff]\s)", _photo("PNM")),
    (rb"\0\0\0\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51", _photo("JPEG 2000")),
    (rb".{4}ftypavi[fs]", _photo("AVIF")),
    (rb"\xff\x0a|\0\0\0\x0cJXL \r\n\x87\n", Kind("JPEG XL", advice=_EXPORT)),
    (rb"8BPS", Kind("Photoshop file", advice=_EXPORT)),
    (rb"qoif|DDS |icns|\x01\xda\x01|\x0a[\0-\x05]\x01|gimp xcf|\x76\x2f\x31\x01|.{128}DICM", _RARE),
    (rb"%PDF", Kind("PDF", advice="export its pictures as JPEG or PNG")),
    (
        rb"%!PS|\xc5\xd0\xd3\xc6",
        Kind("PostScript", advice="a program, which isn't run; " + _EXPORT),
    ),
    (rb"\0\0[\x01\x02]\0[^\0]\0", Kind("icon", advice=_EXPORT)),
    (rb"L\0\0\0\x01\x14\x02\0|book\0\0\0\0mark", _SHORTCUT),
    (rb".{4}(ftyp|moov|mdat)|RIFF....AVI |\x1aE\xdf\xa3|FLV\x01|\0\0\x01[\xb3\xba]|OggS", _VIDEO),
    (rb"PK(\x03\x04|\x05\x06)|\x1f\x8b|7z\xbc\xaf|Rar!|BZh|\xfd7zXZ|\x28\xb5\x2f\xfd", _ARCHIVE),
    (rb".{257}ustar", _ARCHIVE),
    (rb"(?i)\s*(<!--.*?-->\s*)?<(!doctype html|html|head|body)", _HTML),
    (rb"(?i)\s*(<\?xml.{0,300})?<svg", Kind("SVG", advice="a drawing, not a photo; " + _EXPORT)),
    (rb".\0[\x02\x03\x0a\x0b]\0{5}.{8}[\x08\x10\x18\x20]", _RARE),  # TGA, which has no magic number
    (rb"\0{64}", Kind("zeros", advice="its content was lost; copy or download it again")),
)
_COMPILED = tuple((re.compile(mark, re.DOTALL), kind) for mark, kind in _SIGNATURES)
_HEIC = re.compile(rb".{4}ftyp(hei[cxms]|hev[cxms]|mif1|msf1)", re.DOTALL)
_BOM = b"\xef\xbb\xbf"


def kind_of(head: bytes) -> Kind | None:
    """The kind of file that begins with these bytes; None where they tell nothing.

    If it is HEIC and pillow-heif is installed, Pillow can read it from now on.

    Args:
        head: The first `HEAD` bytes of a file, or all of a smaller one.
    """
    head = head.removeprefix(_BOM)
    if _HEIC.match(head):
        return _heic()
    found = next((kind for mark, kind in _COMPILED if mark.match(head)), None)
    return found or (_TEXT if _is_text(head) else None)


def _is_text(head: bytes) -> bool:
    if not head or b"\0" in head:
        return False
    try:
        head[: max(len(head) - 3, 1)].decode()
    except UnicodeDecodeError:
        return False
    return True


def _heic() -> Kind:
    if reads_heic():
        return _photo("HEIC")
    return Kind("HEIC", advice="read with pillow-heif: pip install 'catdog-search[heic]'")


def why_no_photo(head: bytes) -> str:
    """Why a file can't be decoded here, judging by its first bytes; empty where it may be."""
    kind = kind_of(head)
    return "" if kind is None or kind.is_photo else kind.reason()
