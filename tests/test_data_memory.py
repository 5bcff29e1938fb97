"""Sizes are looked at before bytes, pixels before they are decoded; decoders share one budget."""

from __future__ import annotations

import bz2
import io
import struct
import subprocess
import sys
import threading
import zipfile
import zlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from catdog_search.data import decode, decoders, files
from catdog_search.data.budget import Budget, BudgetError, Reserve, unlimited
from catdog_search.data.decode import UndecodableError, examine
from catdog_search.data.decoders import Task
from catdog_search.data.files import FileTooLargeError
from catdog_search.data.sources import FolderSource, ZipSource
from catdog_search.data.synthetic import draw

MB = 10**6
only_linux = pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="only Linux tells a peak of memory"
)


def peak_of(action: Callable[[], object]) -> int:
    """By how many bytes the memory that is held grows meanwhile, at most."""

    def held(name: str) -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))

    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
    before = held("VmRSS")
    action()
    return held("VmHWM") - before


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def stripes(width: int, height: int, dtype: type = np.uint8) -> Image.Image:
    top = np.iinfo(dtype).max
    return Image.fromarray(np.tile(np.linspace(0, top, width).astype(dtype), (height, 1)))


def noted(said: list[int]) -> Reserve:
    """Grants everything, and notes what was asked for."""

    def reserve(n_bytes: int) -> AbstractContextManager[None]:
        said.append(n_bytes)
        return unlimited(n_bytes)

    return reserve


# Turned by 90 degrees.
SIDEWAYS = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06" + bytes(6)
LARGE = stripes(4000, 3000)
N = LARGE.width * LARGE.height


@only_linux
@pytest.mark.parametrize(
    ("image", "kind", "options"),
    [
        (LARGE.convert("RGB"), "JPEG", {}),
        (LARGE.convert("RGB"), "JPEG", {"progressive": True, "subsampling": 0}),
        (LARGE.convert("CMYK"), "JPEG", {}),
        (LARGE.convert("RGB"), "PNG", {"exif": SIDEWAYS}),
        (LARGE.convert("RGBA"), "PNG", {}),
        (LARGE.convert("P"), "PNG", {"transparency": 3}),
        (stripes(4000, 3000, np.uint16), "PNG", {}),
        (stripes(4000, 3000, np.int32), "TIFF", {}),
        (Image.fromarray(np.asarray(LARGE) / np.float32(255)), "TIFF", {}),
        (LARGE.convert("RGB"), "TIFF", {"compression": "tiff_adobe_deflate", "strip_size": 10**9}),
        (LARGE.convert("RGB"), "WEBP", {"method": 0}),
        (LARGE.convert("RGB"), "JPEG2000", {}),
        (LARGE.convert("RGB"), "GIF", {}),
    ],
)  # fmt: skip
def test_decoding_takes_no_more_than_its_header_lets_expect(
    image: Image.Image, kind: str, options: dict[str, object]
) -> None:
    content = encoded(image, kind, **options)
    expected: list[int] = []
    # Pillow's resize and what is decoded in strips take some more, whatever the photo's size.
    assert peak_of(lambda: examine(content, "a", 1024, noted(expected))) < max(expected) + 40 * MB
    assert max(expected) <= 28 * N


@only_linux
def test_16_bit_photo_of_a_hundred_million_pixels_takes_less_than_half_a_gigabyte() -> None:
    content = encoded(stripes(10_000, 10_000, np.uint16))
    assert len(content) < MB
    assert peak_of(lambda: examine(content, "a.png", 64)) < 450 * MB


@only_linux
def test_jpeg_of_a_phone_is_scaled_while_it_is_decoded() -> None:
    content = encoded(stripes(12_000, 9_000), "JPEG")
    found: list[decode.Decoded] = []
    assert peak_of(lambda: found.append(examine(content, "a.jpg", 64))) < 30 * MB
    assert found[0].flags == ("grey", "huge")
    ramp = found[0].pixels[0, :, 0].astype(int)
    assert np.abs(ramp - (np.arange(64) + 0.5) * 255 / 64).max() <= 2


@pytest.mark.parametrize(
    ("size", "kind", "is_taken"),
    [
        ((16_400, 12_300), "JPEG", True),
        ((16_400, 12_300), "MPO", True),
        ((12_000, 9_000), "PNG", False),
        ((24_000, 18_000), "JPEG", False),
    ],
)
def test_pixels_are_counted_as_they_are_decoded(
    size: tuple[int, int], kind: str, is_taken: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # All a fourth of the side, and so are the limits: the way is the same and takes no time.
    monkeypatch.setattr(decode, "MAX_PIXELS", decode.MAX_PIXELS // 16)
    monkeypatch.setattr(decode, "MAX_CODED_PIXELS", decode.MAX_CODED_PIXELS // 16)
    content = encoded(stripes(size[0] // 4, size[1] // 4).convert("RGB"), kind)
    for target in (16, 2048):
        if is_taken:
            assert examine(content, "a.jpg", target).pixels.shape == (target, target, 3)
        else:
            with pytest.raises(UndecodableError, match=r"^too large: "):
                examine(content, "a.jpg", target)


def lying_png(width: int, height: int) -> bytes:
    content = encoded(Image.new("L", (8, 8)))
    header = b"IHDR" + struct.pack(">II", width, height) + content[24:29]
    return content[:12] + header + zlib.crc32(header).to_bytes(4, "big") + content[33:]


@only_linux
@pytest.mark.parametrize(
    "content",
    [
        lying_png(90_000, 90_000),
        b"P6 100000 100000 255\n" + bytes(100),
        b"GIF89a" + struct.pack("<HH", 65_000, 65_000) + b"\0\0\0,\0\0\0\0" + bytes(20),
        b"BM" + bytes(8) + struct.pack("<IIiiHHI", 54, 40, 90_000, 90_000, 1, 24, 0) + bytes(24),
        b"II*\0\x08\0\0\0" + b"\xff\xff" + bytes(60),
    ],
)
def test_lying_header_takes_no_memory(content: bytes) -> None:
    def refused() -> None:
        with pytest.raises(UndecodableError):
            examine(content, "a.png", 64)

    assert peak_of(refused) < 20 * MB


@only_linux
@pytest.mark.parametrize("content", [lying_png(5000, 4000), b"P5 5000 4000 65535\n" + bytes(100)])
def test_lying_header_takes_no_more_memory_than_it_says(content: bytes) -> None:
    said: list[int] = []

    def refused() -> None:
        with pytest.raises(UndecodableError, match="truncated"):
            examine(content, "a.png", 64, noted(said))

    assert peak_of(refused) < max(said) + 40 * MB


def test_budget_is_never_exceeded_by_threads() -> None:
    held, most, lock = 0, 0, threading.Lock()

    def take(budget: Budget, size: int) -> None:
        nonlocal held, most
        for _ in range(20):
            with budget.taken(size):
                with lock:
                    held += size
                    most = max(most, held)
                with lock:
                    held -= size

    with Budget.of_free_memory(4) as budget:
        shares = (0.9, 0.6, 0.3, 0.2, 0.01, 1.0)
        threads = [
            threading.Thread(target=take, args=(budget, int(share * budget.total)))
            for share in shares
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        assert not any(thread.is_alive() for thread in threads)
        assert 0 < most <= budget.total


def test_budget_is_shared_with_processes() -> None:
    code = (
        "import sys; from catdog_search.data.budget import Budget\n"
        "with Budget({}, 0, {}).taken({}): print('has it', flush=True); sys.stdin.read()"
    )
    with Budget.of_free_memory(2) as budget:
        most = budget.total * 3 // 4
        command = [sys.executable, "-c", code.format(budget.total, budget.descriptors, most)]
        pipe = subprocess.PIPE
        with subprocess.Popen(
            command, stdin=pipe, stdout=pipe, pass_fds=budget.descriptors
        ) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            assert process.stdout.readline() == b"has it\n"
            with budget.taken(budget.total // 8):
                pass
            waiting = threading.Thread(target=lambda: budget.taken(most).__enter__())
            waiting.start()
            waiting.join(0.2)
            assert waiting.is_alive()
            process.stdin.close()
            waiting.join(10)
            assert not waiting.is_alive()


def test_more_than_the_budget_is_refused_at_once_and_is_no_fault_of_the_photo() -> None:
    content = encoded(draw(0, 0).resize((900, 900)), "WEBP")
    with Budget.of_free_memory(1) as budget:
        small = Budget(MB, MB, budget.descriptors)
        with pytest.raises(UndecodableError, match=r"^too little memory: takes about ") as caught:
            examine(content, "a.webp", 8, small.taken)
        assert caught.value.kind == "too little memory"
        with pytest.raises(BudgetError), small.for_file(2 * MB):
            pass


def test_large_file_is_held_and_decoded_alone() -> None:
    with Budget.of_free_memory(2) as budget, budget.for_file(budget.file_bytes + 1) as reserve:
        with reserve(budget.total // 2):  # without waiting for itself
            pass
        with pytest.raises(BudgetError), reserve(budget.total):
            pass


def test_memory_that_the_system_refuses_is_no_fault_of_the_photo(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: object) -> None:
        raise MemoryError

    content = encoded(draw(0, 0))
    monkeypatch.setattr(Image.Image, "resize", refuse)
    monkeypatch.setattr(Image.Image, "load", refuse)
    with pytest.raises(UndecodableError, match=r"^too little memory"):
        examine(content, "a.png", 8)


def left_out(source: FolderSource | ZipSource) -> dict[str, str]:
    with Budget.of_free_memory(1) as budget:
        found = Task(source, 8, frozenset(), budget).examine(list(source.labels))
    return {each.key: each.reason for each in found if each.reason}


@pytest.fixture
def two_classes(tmp_path: Path) -> Path:
    for name, label in (("cat", 0), ("dog", 1)):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for index in range(2):
            draw(label, index).save(tmp_path / "photos" / name / f"{index}.png")
    return tmp_path / "photos"


def zipped(folder: Path, compression: int = zipfile.ZIP_DEFLATED) -> Path:
    path = folder.with_suffix(".zip")
    with zipfile.ZipFile(path, "w", compression) as file:
        for photo in sorted(folder.rglob("*.*")):
            file.write(photo, photo.relative_to(folder))
    return path


@only_linux
def test_file_of_gigabytes_is_not_read(two_classes: Path) -> None:
    with (two_classes / "cat" / "sparse.jpg").open("wb") as file:
        file.truncate(3 * 10**9)
    found: dict[str, str] = {}
    assert peak_of(lambda: found.update(left_out(FolderSource(two_classes)))) < 40 * MB
    assert found == {"cat/sparse.jpg": "too large: 3.0 GB, at most 0.4 are read"}


def test_file_read_past_its_size_is_refused(
    two_classes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "MAX_FILE_BYTES", 100)
    with pytest.raises(FileTooLargeError):
        FolderSource(two_classes).read("cat/0.png")
    with pytest.raises(FileTooLargeError):
        ZipSource(zipped(two_classes)).read("cat/0.png")


def patched(path: Path, name: str, **fields: int) -> Path:
    """The zip with other numbers in the directory's entry of `name`."""
    content = bytearray(path.read_bytes())
    start = content.index(b"PK\1\2", content.index(b"PK\1\2"))
    while content[start + 46 : start + 46 + len(name)] != name.encode():
        start = content.index(b"PK\1\2", start + 1)
    where = {"version": (6, "<H"), "flags": (8, "<H"), "method": (10, "<H"), "size": (24, "<I")}
    for field, value in fields.items():
        offset, form = where[field]
        struct.pack_into(form, content, start + offset, value)
    path.write_bytes(content)
    return path


@only_linux
@pytest.mark.parametrize("compression", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
@pytest.mark.parametrize(
    ("says", "reason"), [(2 * 10**9, "too large: 2.0 GB"), (900, "unreadable")]
)
def test_bomb_in_a_zip_takes_no_memory_whatever_it_says(
    two_classes: Path, compression: int, says: int, reason: str
) -> None:
    (two_classes / "cat" / "bomb.jpg").write_bytes(bytes(150 * MB))
    path = patched(zipped(two_classes, compression), "cat/bomb.jpg", size=says)
    assert path.stat().st_size < MB
    found: dict[str, str] = {}
    assert peak_of(lambda: found.update(left_out(ZipSource(path)))) < 40 * MB
    assert found["cat/bomb.jpg"].startswith(reason)
    assert len(found) == 1


@only_linux
def test_few_bytes_of_bzip2_are_not_expanded_beyond_what_they_say(two_classes: Path) -> None:
    # 4 KiB, which zipfile expands at once: here to 2 GB.
    (two_classes / "cat" / "bomb.jpg").write_bytes(b"to be replaced")
    path = two_classes.with_suffix(".zip")
    coded = bz2.compress(bytes(45 * MB)) * 40
    with zipfile.ZipFile(path, "w") as file:
        for photo in sorted(two_classes.rglob("*.*")):
            name = str(photo.relative_to(two_classes))
            file.writestr(name, coded if photo.stem == "bomb" else photo.read_bytes())
    path = patched(path, "cat/bomb.jpg", method=zipfile.ZIP_BZIP2, size=900)
    found: dict[str, str] = {}
    assert peak_of(lambda: found.update(left_out(ZipSource(path)))) < 40 * MB
    assert found["cat/bomb.jpg"].startswith("unreadable: ")


@pytest.mark.parametrize(
    "fields",
    [
        {"version": 99},
        {"flags": 0x800},  # a name that says it is UTF-8, and isn't
        {"flags": 0x1},  # encrypted
        {"flags": 0x40},  # strongly
        {"method": 77},
        {"method": zipfile.ZIP_LZMA},
        {"method": zipfile.ZIP_BZIP2},
        {"size": 0xFFFFFFFF},
    ],
)
def test_one_bad_entry_does_not_end_all(two_classes: Path, fields: dict[str, int]) -> None:
    name = "cat/caf\xe9.png"
    path = two_classes.with_suffix(".zip")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for photo in sorted(two_classes.rglob("*.png")):
            file.write(photo, photo.relative_to(two_classes))
        file.write(two_classes / "cat" / "0.png", "cat/caf_.png")
    content = path.read_bytes().replace(b"cat/caf_.png", name.encode("latin-1"))
    path.write_bytes(content)
    source = ZipSource(patched(path, "cat/caf", **fields))
    keys = {*source.labels, *dict(source.left_out)}
    assert len(keys) == 5
    bad = next(key for key in keys if "caf" in key)
    reasons = {**dict(source.left_out), **left_out(source)}
    assert set(reasons) <= {bad}
    assert bool(reasons) == (fields not in ({"version": 99}, {"flags": 0x800}))


@pytest.mark.parametrize(
    "extra", [b"\1\0\xff\0", b"\1\0\x08\0" + bytes(8), b"up\x09\0\1\0\0\0\0\xff\xfe\xfd\xfc"]
)
def test_bad_extra_field_does_not_end_all(two_classes: Path, extra: bytes) -> None:
    path = two_classes.with_suffix(".zip")
    with zipfile.ZipFile(path, "w") as file:
        for photo in sorted(two_classes.rglob("*.png")):
            info = zipfile.ZipInfo(str(photo.relative_to(two_classes)))
            if photo.stem == "1":
                info.extra = b"\x99\x99" + struct.pack("<H", len(extra) - 4) + extra[4:]
            file.writestr(info, photo.read_bytes())
    marked = b"\x99\x99" + struct.pack("<H", len(extra) - 4) + extra[4:]
    path.write_bytes(path.read_bytes().replace(marked, extra))
    assert len(ZipSource(path).labels) == 4
    assert set(left_out(ZipSource(path))) <= {"cat/1.png", "dog/1.png"}


@pytest.mark.parametrize("compression", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_entries_are_read_as_zipfile_reads_them(two_classes: Path, compression: int) -> None:
    (two_classes / "cat" / "large.png").write_bytes(encoded(stripes(3000, 1000), "BMP"))
    source = ZipSource(zipped(two_classes, compression))
    for key in source.labels:
        assert source.read(key) == (two_classes / key).read_bytes()


def test_damaged_entries_are_left_out_one_by_one(two_classes: Path) -> None:
    rng = np.random.default_rng(0)
    for compression in (zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        path = zipped(two_classes, compression)
        with zipfile.ZipFile(path) as file:
            info = file.getinfo("cat/0.png")
        whole = path.read_bytes()
        start = info.header_offset + 30 + len(info.filename)
        for _ in range(20):
            content = bytearray(whole)
            for at in rng.integers(start, start + info.compress_size, 3):
                content[at] ^= 1 << int(rng.integers(8))
            path.write_bytes(content)
            found = left_out(ZipSource(path))
            assert set(found) == {"cat/0.png"}
            assert found["cat/0.png"].startswith("unreadable: ")


def test_processes_share_the_budget_of_the_one_that_asks(
    two_classes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoders, "_PER_PROCESS", 1)
    monkeypatch.setattr("catdog_search.machine.cores.count", lambda: 2)
    monkeypatch.setattr("catdog_search.data.budget._LEAST_BYTES", 1000)
    monkeypatch.setattr("catdog_search.data.budget.free_bytes", lambda: 2 * 200_000)
    for index in range(6):
        draw(0, index).resize((400, 400)).save(two_classes / "cat" / f"large{index}.webp")
    source = FolderSource(two_classes)
    found = {f.key: f.reason for f in decoders.examine_all(Task(source, 8, frozenset()))}
    refused = {key for key, reason in found.items() if reason.startswith("too little memory")}
    assert refused == {f"cat/large{index}.webp" for index in range(6)}
