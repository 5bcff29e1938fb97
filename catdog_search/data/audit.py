"""What is in a dataset, counted and drawn, so that one can trust it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from PIL import Image, ImageDraw

from catdog_search.data.dataset import Dataset
from catdog_search.data.manifest import Manifest, Photo, Split

_GAP = 4
_TEXT = 12


def summary(manifest: Manifest) -> dict[str, Any]:
    """Count what the audit found; plain values, for JSON.

    Returns:
        files, usable, left_out (by kind), noticed (by flag), duplicates (groups and photos, those
        that are equal byte for byte, and the keys of groups under both labels), splits and
        imbalances.
    """
    groups = manifest.groups().values()
    reasons = Counter(reason.split(":")[0] for _, reason in manifest.left_out)
    return {
        "location": manifest.location,
        "digest": manifest.digest,
        "class_names": list(manifest.class_names),
        "files": len(manifest.photos) + len(manifest.left_out),
        "usable": len(manifest.photos),
        "left_out": dict(sorted(reasons.items())),
        "noticed": dict(sorted(Counter(f for p in manifest.photos for f in p.flags).items())),
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
    duplicates = found["duplicates"]
    groups, shared = duplicates["groups"], duplicates["photos"]
    out = [
        f"{found['usable']} of {found['files']} files are usable, "
        f"classes {' and '.join(manifest.class_names)}",
        f"left out: {_counted(found['left_out'])}",
        f"noticed: {_counted(found['noticed'])}",
        f"duplicates: {shared} photos in {groups} groups, "
        f"{duplicates['byte_identical']} equal byte for byte; a group stays in one split"
        if groups
        else "duplicates: none",
    ]
    out += [f"under both labels: {', '.join(keys)}" for keys in duplicates["both_labels"]]
    out += [f"note: {note}" for note in manifest.notes]
    for split, by_class in found["splits"].items():
        out.append(f"{split}: {_counted(by_class)}")
    balance = found["imbalances"] or ["classes are shared alike in every split, within 1 point"]
    return [*out, *balance, f"digest {manifest.digest}"]


def _counted(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {n}" for name, n in counts.items()) or "none"


def _both_labels(photos: Sequence[Photo]) -> bool:
    return len({photo.label for photo in photos}) > 1


def contact_sheet(dataset: Dataset, split: Split, columns: int = 12, rows: int = 3) -> Image.Image:
    """Photos of one split as training sees them: class 0 above, class 1 below."""
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

    Test isn't drawn: it is for promotion alone.
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


def _side_by_side(strips: Sequence[list[int]], columns: int) -> list[list[int]]:
    """Fill lines of `columns` cells with strips; -1 is an empty cell between two."""
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
        draw.text((_GAP, top + _GAP), title, fill="black")
        top += _TEXT + 2 * _GAP
        stacked.paste(sheet, (0, top))
        top += sheet.height
    return stacked
