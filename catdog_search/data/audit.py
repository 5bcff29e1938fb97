"""What is in a dataset, counted and plotted, so that one can trust it."""

from __future__ import annotations

import base64
import html
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from catdog_search.data import own
from catdog_search.data.causes import kinds, shrinkage
from catdog_search.data.dataset import Dataset
from catdog_search.data.lettering import lettered
from catdog_search.data.manifest import Manifest, Photo, Split
from catdog_search.text import printable

_GAP = 4
_TEXT = 12
# Photos of each kind shown on the page.
_SHOWN = 36
_STYLE = (
    "body{font:14px sans-serif;margin:2em;color:#111827}"
    "figure{display:inline-block;margin:2px;width:72px;vertical-align:top}"
    "figcaption{font-size:9px;overflow-wrap:anywhere}.framed img{outline:2px solid #c2410c}"
)
# From this share of files left out, that is said first.
_MOST = 0.5


def summary(manifest: Manifest) -> dict[str, Any]:
    """Count what the audit found; plain values, for JSON.

    Returns:
        files, usable, left_out (by kind), noticed (by flag), duplicates (groups, photos, those
        equal byte for byte, and the keys of groups under both labels), splits and imbalances.
    """
    groups, used = manifest.groups().values(), manifest.used()
    return {
        "location": manifest.location,
        "digest": manifest.digest,
        "class_names": list(manifest.class_names),
        "files": len(used) + len(manifest.left_out),
        "usable": len(used),
        "left_out": dict(sorted(kinds(manifest.left_out).items())),
        "noticed": dict(sorted(Counter(f for p in used for f in p.flags).items())),
        "duplicates": {
            "groups": len(groups),
            "photos": sum(len(photos) for photos in groups),
            "byte_identical": sum(len(p) - len({photo.sha256 for photo in p}) for p in groups),
            "both_labels": [[p.key for p in photos] for photos in groups if _both_labels(photos)],
        },
        "notes": list(manifest.notes),
        "splits": manifest.counts(),
        "imbalances": manifest.imbalances(),
    }


def lines(manifest: Manifest) -> list[str]:
    """The summary for people."""
    found = summary(manifest)
    usable, classes, *rest = _said(found)
    out = [*shrinkage(manifest, _MOST), f"{usable}, {classes}", *rest]
    both = found["duplicates"]["both_labels"]
    out += [f"under both labels: {', '.join(keys)}" for keys in both]
    out += [f"note: {note}" for note in manifest.notes]
    for split, by_class in found["splits"].items():
        out.append(f"{split}: {_counted(by_class)}")
    balance = found["imbalances"] or ["classes are shared alike in every split, within 1 point"]
    return [*out, *balance, f"digest {manifest.digest}"]


def in_short(manifest: Manifest) -> str:
    """The summary in one line; first why files were left out, if most of them were."""
    found = summary(manifest)
    usable, _, *rest = _said(found)
    both = found["duplicates"]["both_labels"]
    if both:
        rest.append(f"groups under both labels: {len(both)}, such as {' and '.join(both[0][:2])}")
    return f"audit: {'; '.join((*shrinkage(manifest, _MOST), usable, *rest))}"


def _said(found: Mapping[str, Any]) -> tuple[str, ...]:
    duplicates = found["duplicates"]
    groups, shared = duplicates["groups"], duplicates["photos"]
    return (
        f"{found['usable']} of {found['files']} files are usable",
        f"classes {' and '.join(found['class_names'])}",
        f"left out: {_counted(found['left_out'])}",
        f"noticed: {_counted(found['noticed'])}",
        f"duplicates: {shared} photos in {groups} group{'s' * (groups > 1)} that look alike, "
        f"exact copies of another: {duplicates['byte_identical']}; a group stays in one split"
        if groups
        else "duplicates: none",
    )


def _counted(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {n}" for name, n in counts.items()) or "none"


def _both_labels(photos: Sequence[Photo]) -> bool:
    return len({photo.label for photo in photos}) > 1


def contact_sheet(dataset: Dataset, split: Split, columns: int = 12, rows: int = 3) -> Image.Image:
    """Photos of one split as training sees them: one class below the other."""
    manifest = dataset.manifest
    chosen: list[list[int]] = []
    for label in range(len(manifest.class_names)):
        members = [i for i in dataset.rows(split) if manifest.photos[i].label == label]
        step = max(len(members) // (columns * rows), 1)
        members = members[::step][: columns * rows]
        chosen += [members[i : i + columns] for i in range(0, len(members), columns)]
    return _sheet(dataset, chosen, columns)


def audit_picture(dataset: Dataset, columns: int = 12, most_groups: int = 48) -> Image.Image:
    """Contact sheets of train and val, then the groups of duplicates; both labels are framed.

    Test isn't shown: it is for promotion alone.
    """
    shown: tuple[Split, ...] = ("train", "val")
    sheets = [contact_sheet(dataset, split, columns, 2) for split in shown]
    manifest = dataset.manifest
    row_of = {photo.key: row for row, photo in enumerate(manifest.photos)}
    groups = sorted(manifest.groups().values(), key=lambda p: not _both_labels(p))
    strips = [[row_of[photo.key] for photo in photos[:columns]] for photos in groups[:most_groups]]
    titles = [f"{split}: {_counted(manifest.counts()[split])}" for split in shown]
    if strips:
        sheets.append(_sheet(dataset, _side_by_side(strips, columns), columns, framed=True))
        titles.append(f"{len(groups)} groups of duplicates, {len(strips)} shown")
    return _stack(sheets, titles)


def write(
    dataset: Dataset, notes: Sequence[str], picture: Path, page: Path | None
) -> dict[str, str]:
    """Draw the picture, and write the page where one is wanted.

    Returns:
        Why `picture` or `html` could not be written, by name, where that is so.
    """
    problems = {}
    try:
        audit_picture(dataset).save(picture, format="PNG", pnginfo=own.mark())
    except OSError as error:
        problems["picture"] = error.strerror or str(error)
    if page is not None:
        try:
            write_page(dataset, notes, page)
        except OSError as error:
            problems["html"] = error.strerror or str(error)
    return problems


def write_page(dataset: Dataset, notes: Sequence[str], file: Path) -> None:
    """Write everything the audit found as one self-contained page, with the pictures.

    Test isn't shown: it is for promotion alone.

    Args:
        dataset: The photos.
        notes: Lines on how labels and splits are read.
        file: HTML file to write.

    Raises:
        OSError: It can't be written.
    """
    manifest = dataset.manifest
    shown = _Shown(dataset)
    sections = [("What was found", _list([*notes, *lines(manifest)]))]
    for split in ("train", "val"):
        for label, name in enumerate(manifest.class_names):
            rows = [r for r in dataset.rows(split) if manifest.photos[r].label == label]
            step = max(len(rows) // _SHOWN, 1)
            sections.append((f"{split}: {name}", shown.photos(rows[::step][:_SHOWN])))
    groups = sorted(manifest.groups().values(), key=lambda p: not _both_labels(p))[:_SHOWN]
    strips = [shown.photos([shown.row_of[p.key] for p in g], _both_labels(g)) for g in groups]
    sections.append(("Duplicates; those under both labels are framed", "<hr>".join(strips)))
    for flag in sorted({flag for photo in manifest.photos for flag in photo.flags}):
        rows = [r for r in shown.visible if flag in manifest.photos[r].flags]
        sections.append((f"Noticed: {flag}", shown.photos(rows[:_SHOWN])))
    left_out = [f"{key}: {reason}" for key, reason in manifest.left_out]
    sections.append(("Left out", _list(left_out)))
    title = f"Audit of {manifest.location}"
    body = "".join(f"<h2>{_html(head)}</h2>{text or 'none'}" for head, text in sections)
    file.write_text(
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{_html(title)}</title>'
        f"<style>{_STYLE}</style><h1>{_html(title)}</h1>{body}</html>\n",
        encoding="utf-8",
    )


class _Shown:
    """Photos of a dataset as HTML.

    Attributes:
        row_of: A photo's row, by its key.
        visible: Rows of train and val.
    """

    def __init__(self, dataset: Dataset) -> None:
        self._photos, self._pixels = dataset.manifest.photos, dataset.pixels()
        self.row_of = {photo.key: row for row, photo in enumerate(self._photos)}
        self.visible = [row for row, photo in enumerate(self._photos) if photo.split != "test"]

    def photos(self, rows: Sequence[int], is_framed: bool = False) -> str:
        """Thumbnails with their keys."""
        frame = ' class="framed"' if is_framed else ""
        return "".join(
            f'<figure{frame}><img alt="" src="{self._as_url(row)}"><figcaption>'
            f"{_html(self._photos[row].key)}</figcaption></figure>"
            for row in rows
        )

    def _as_url(self, row: int) -> str:
        out = io.BytesIO()
        Image.fromarray(self._pixels[row]).save(out, format="PNG")
        return "data:image/png;base64," + base64.b64encode(out.getvalue()).decode()


def _list(texts: Sequence[str]) -> str:
    items = "".join(f"<li>{_html(text)}</li>" for text in texts)
    return f"<ul>{items}</ul>" if items else ""


def _html(text: str) -> str:
    return html.escape(printable(text))


def _side_by_side(strips: Sequence[list[int]], columns: int) -> list[list[int]]:
    """Fill lines of `columns` cells with strips; -1 is an empty cell between two strips."""
    out: list[list[int]] = [[]]
    for strip in strips:
        if out[-1] and len(out[-1]) + 1 + len(strip) > columns:
            out.append([])
        out[-1] += [-1, *strip] if out[-1] else strip
    return out


def _sheet(
    dataset: Dataset, cells: Sequence[Sequence[int]], columns: int, framed: bool = False
) -> Image.Image:
    pixels, photos, side = dataset.pixels(), dataset.manifest.photos, dataset.image_size
    mixed = {n for n, members in dataset.manifest.groups().items() if _both_labels(members)}
    step = side + _GAP
    sheet = Image.new("RGB", (columns * step + _GAP, len(cells) * step + _GAP), "white")
    for y, line in enumerate(cells):
        for x, row in enumerate(line):
            if row < 0:
                continue
            corner = (_GAP + x * step, _GAP + y * step)
            sheet.paste(Image.fromarray(pixels[row]), corner)
            if framed and photos[row].group in mixed:
                box = (corner[0] - 2, corner[1] - 2, corner[0] + side + 1, corner[1] + side + 1)
                ImageDraw.Draw(sheet).rectangle(box, outline="#c2410c", width=2)
    return sheet


def _stack(sheets: Sequence[Image.Image], titles: Sequence[str]) -> Image.Image:
    width = max(sheet.width for sheet in sheets)
    height = sum(sheet.height + _TEXT + 2 * _GAP for sheet in sheets)
    stacked = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(stacked)
    top = 0
    for sheet, title in zip(sheets, titles, strict=True):
        letters = lettered(title)
        font = ImageFont.truetype(letters.font, _TEXT - 2) if letters.font else None
        draw.text((_GAP, top + _GAP), letters.text, fill="black", font=font)
        top += _TEXT + 2 * _GAP
        stacked.paste(sheet, (0, top))
        top += sheet.height
    return stacked
