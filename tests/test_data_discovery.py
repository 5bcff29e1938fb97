"""What is found below folders and in zips: followed, read by content, or named with its reason."""

from __future__ import annotations

import io
import os
import stat
import struct
import sys
import tarfile
import time
import types
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image

from catdog_search.data import discovery, formats, packing, signatures
from catdog_search.data.sources import FolderSource, ZipSource, open_source
from catdog_search.errors import DataError

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(200)


def encoded(form: str, mode: str = "RGB", colour: int = 90) -> bytes:
    out = io.BytesIO()
    picture = Image.linear_gradient("L").resize((24, 24)).point(lambda v: (v + colour) % 256)
    picture.convert(mode).save(out, form)
    return out.getvalue()


def reasons(source: FolderSource | ZipSource) -> dict[str, str]:
    return dict(source.left_out)


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """Three cats and three dogs."""
    root = tmp_path / "pets"
    for name in ("cats", "dogs"):
        (root / name).mkdir(parents=True)
        for number in range(3):
            photo = encoded("JPEG", colour=10 * number + len(list(root.iterdir())))
            (root / name / f"{number}.jpg").write_bytes(photo)
    return root


def test_links_to_folders_are_classes_too(pets: Path, tmp_path: Path) -> None:
    root = tmp_path / "links"
    root.mkdir()
    for name in ("cats", "dogs"):
        (root / name).symlink_to(pets / name)
    source = FolderSource(root)
    assert source.class_names == ("cats", "dogs")
    assert len(source.labels) == 6
    assert source.read("cats/0.jpg") == (pets / "cats" / "0.jpg").read_bytes()


def test_links_to_folders_are_part_of_a_class(pets: Path, tmp_path: Path) -> None:
    more = tmp_path / "elsewhere"
    (pets / "dogs").rename(more)
    (pets / "dogs").mkdir()
    (pets / "dogs" / "0.jpg").write_bytes((more / "0.jpg").read_bytes())
    (pets / "dogs" / "more").symlink_to(more)
    source = FolderSource(pets)
    assert sum(source.labels.values()) == 4
    assert reasons(source) == {}


@pytest.mark.parametrize("target", [".", "..", "../..", "../dogs", "/"])
def test_links_that_loop_or_lead_around_are_told(pets: Path, target: str) -> None:
    (pets / "cats" / "again").symlink_to(target)
    source = FolderSource(pets)
    assert len(source.labels) == 6
    assert reasons(source)["cats/again"].startswith("link: it leads to a folder that is ")


def test_folder_of_links_among_each_other_ends(pets: Path) -> None:
    for number in range(12):
        for other in range(12):
            (pets / "cats" / f"{number}").mkdir(exist_ok=True)
            (pets / "cats" / f"{number}" / f"to{other}").symlink_to(f"../{other}")
    assert len(FolderSource(pets).labels) == 6


def test_broken_links_pipes_and_loops_of_links_are_told(pets: Path) -> None:
    (pets / "cats" / "gone.jpg").symlink_to("nowhere.jpg")
    (pets / "cats" / "lost").symlink_to("/no/such/folder")
    (pets / "cats" / "self").symlink_to("self")
    os.mkfifo(pets / "dogs" / "pipe.jpg")
    found = reasons(FolderSource(pets))
    assert {key: reason.split(":")[0] for key, reason in found.items()} == {
        "cats/gone.jpg": "broken link",
        "cats/lost": "broken link",
        "cats/self": "broken link",
        "dogs/pipe.jpg": "no file",
    }


@pytest.fixture
def locked(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """Denies a folder, as permissions would to anybody but root."""
    real = os.scandir

    def lock(folder: Path) -> None:
        def scandir(path: str) -> Iterator[os.DirEntry[str]]:
            if os.path.realpath(path) == str(folder):
                raise PermissionError(13, "Permission denied")
            return real(path)

        monkeypatch.setattr(discovery.os, "scandir", scandir)

    return lock


def test_unreadable_folder_is_told(pets: Path, locked: Callable[[Path], None]) -> None:
    (pets / "cats" / "private").mkdir()
    locked(pets / "cats" / "private")
    told = reasons(FolderSource(pets))["cats/private"]
    assert told == "unreadable folder: Permission denied; its photos are missing"


def test_unreadable_source_is_one_line(pets: Path, locked: Callable[[Path], None]) -> None:
    locked(pets)
    with pytest.raises(DataError, match=r"pets: can't be read: Permission denied$"):
        FolderSource(pets)


@pytest.mark.parametrize(
    "name",
    [".ipynb_checkpoints", "@eaDir", "__MACOSX", ".git", "Thumbnails", ".thumbs", ".Trash-0"],
)
def test_folders_of_tools_are_passed_over(pets: Path, tmp_path: Path, name: str) -> None:
    for around in (pets, pets / "cats"):
        (around / name).mkdir()
        (around / name / "0-checkpoint.jpg").write_bytes(encoded("JPEG"))
    for source in (FolderSource(pets), ZipSource(zipped(pets, tmp_path))):
        assert source.class_names == ("cats", "dogs")
        assert len(source.labels) == 6
        assert sum(source.facts["passed_over"].values()) == 2
        assert any(note.startswith("passed over: ") for note in source.notes)


def zipped(folder: Path, tmp_path: Path) -> Path:
    path = tmp_path / "photos.zip"
    with zipfile.ZipFile(path, "w") as file:
        for photo in sorted(folder.rglob("*")):
            file.write(photo, photo.relative_to(folder))
    return path


@pytest.mark.parametrize(
    ("name", "form", "mode"),
    [
        ("a.avif", "AVIF", "RGB"),
        ("a.pgm", "PPM", "L"),
        ("a.pnm", "PPM", "RGB"),
        ("a.jpe", "JPEG", "RGB"),
        ("a.jp2", "JPEG2000", "RGB"),
        ("a", "PNG", "RGB"),
        ("a.photo", "JPEG", "RGB"),
        ("a.1", "GIF", "P"),
        ("a.bin", "WEBP", "RGB"),
        ("a.JPG_large", "JPEG", "RGB"),
        ("a.dat", "TIFF", "RGB"),
        ("a.old", "BMP", "RGB"),
    ],
)
def test_photos_are_known_by_content(
    pets: Path, tmp_path: Path, name: str, form: str, mode: str
) -> None:
    (pets / "cats" / name).write_bytes(encoded(form, mode))
    for source in (FolderSource(pets), ZipSource(zipped(pets, tmp_path))):
        assert source.labels[f"cats/{name}"] == 0
        assert reasons(source) == {}
    assert f"cats/{name}" in {p.key for p in packing.decode(FolderSource(pets), 16).photos}


OTHERS = {
    "notes.txt": (b"about the photos", "not an image"),
    "Thumbs.db": (b"\xd0\xcf\x11\xe0", "not an image"),
    "photos.zip": (b"PK\3\4rest", "archive"),
    "photos.tar.gz": (b"\x1f\x8brest", "archive"),
    "photos.tar": (b"x".ljust(257, b"\0") + b"ustar", "archive"),
    "photos.7z": (b"7z\xbc\xaf\x27\x1c", "archive"),
    "photos.rar": (b"Rar!\x1a\x07", "archive"),
    "clip.mp4": (b"\0\0\0\x18ftypmp42", "video"),
    "clip.avi": (b"RIFF....AVI LIST", "video"),
    "a.jxl": (b"\xff\x0a\xfa\x7f", "JPEG XL"),
    "a.heic": (HEIC, "HEIC"),
    "a.tga": (bytes((0, 0, 10)) + bytes(9) + b"\x18\0\x18\0\x18\x20", "rare format"),
    "a.qoi": (b"qoif\0\0\0\x18", "rare format"),
    "a.ico": (b"\0\0\1\0\1\0\x18\x18", "icon"),
    "a.psd": (b"8BPS\0\1", "Photoshop file"),
    "a.svg": (b"<?xml version='1.0'?>\n<svg xmlns='x'/>", "SVG"),
    "a.pdf": (b"%PDF-1.7", "PDF"),
    "a.cr2": (b"II*\0\x10\0\0\0CR\2\0", "camera's raw file"),
    "a.lnk": (b"L\0\0\0\x01\x14\x02\0", "shortcut"),
    "empty": (b"", "not an image"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_files_are_named_by_what_they_are(pets: Path, tmp_path: Path, name: str) -> None:
    content, kind = OTHERS[name]
    (pets / "cats" / name).write_bytes(content)
    for source in (FolderSource(pets), ZipSource(zipped(pets, tmp_path))):
        assert len(source.labels) == 6
        assert reasons(source)[f"cats/{name}"].split(":")[0] == kind


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (LFS, "80 Git LFS pointer, such as cats/0.jpg: the photo is elsewhere; fetch it with"),
        (HEIC, "80 HEIC, such as cats/0.jpg: read with pillow-heif: pip install 'catdog"),
        (b"<!DOCTYPE html><html>not found", "80 HTML page, such as cats/0.jpg: a server's answer"),
        (b"", "80 empty, such as cats/0.jpg: copy or download it again"),
        (bytes(5000), "80 zeros, such as cats/0.jpg: its content was lost"),
        (b"\0\0\0\x18ftypisom", "80 video, such as cats/0.jpg: not a photo"),
        (encoded("JPEG")[:200], "80 corrupt, such as cats/0.jpg"),
        (b'{"error": "quota exceeded"}', "80 not an image, such as cats/0.jpg: text"),
    ],
)  # fmt: skip
def test_too_few_photos_are_told_by_their_cause_first(
    pets: Path, tmp_path: Path, content: bytes, says: str
) -> None:
    for number in range(40):
        for name in ("cats", "dogs"):
            (pets / name / f"{number}.jpg").write_bytes(content)
    with pytest.raises(DataError, match=r"^[^\n]*$") as refused:
        packing.load(FolderSource(pets), 8, tmp_path / "cache", 10**9)
    said = str(refused.value)
    assert says in said
    assert f"{pets}: 80 of 80 files are left out: " in said
    assert said.index(says) < said.index("are too few")
    with pytest.raises(DataError) as refused:
        packing.decode(FolderSource(pets), 8)
    assert says in str(refused.value)


def test_copies_are_told_where_they_are_why_photos_are_too_few(pets: Path, tmp_path: Path) -> None:
    for number in range(40):
        for name in ("cats", "dogs"):
            (pets / name / f"{number}.jpg").write_bytes(encoded("JPEG"))
    with pytest.raises(DataError, match=r"80 of 80 photos are in 1 groups of duplicates, such as"):
        packing.load(FolderSource(pets), 8, tmp_path / "cache", 10**9)


def test_source_without_a_readable_photo_says_what_there_is(tmp_path: Path) -> None:
    (tmp_path / "dogs-vs-cats").mkdir()
    for name in ("train.zip", "test1.zip"):
        with zipfile.ZipFile(tmp_path / "dogs-vs-cats" / name, "w") as file:
            file.writestr("cat.1.jpg", b"x")
    says = r"holds no photo that can be read: 2 archive, such as test1\.zip: unpack it"
    with pytest.raises(DataError, match=says):
        FolderSource(tmp_path / "dogs-vs-cats")
    with pytest.raises(DataError, match=says):
        ZipSource(zipped(tmp_path / "dogs-vs-cats", tmp_path))


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda p: p.with_suffix(".heic").write_bytes(HEIC), "3 of 6 files are left out: 3 HEIC"),
        (lambda p: p.with_suffix(".jxl").write_bytes(b"\xff\x0a"), "3 JPEG XL, such as dogs/0.jxl"),
        (lambda p: p.symlink_to("/nowhere/x.jpg"), "3 broken link, such as dogs/0.jpg"),
    ],
)
def test_class_that_is_left_out_whole_is_told_first(
    pets: Path, spoil: Callable[[Path], object], says: str
) -> None:
    for photo in sorted((pets / "dogs").iterdir()):
        photo.unlink()
        spoil(photo)
    with pytest.raises(DataError, match=r"^[^\n]*$") as refused:
        FolderSource(pets)
    said = str(refused.value)
    assert says in said
    assert said.index(says) < said.index("one class alone, by folders: cats 3")


def test_class_in_an_unreadable_folder_is_told_first(
    pets: Path, locked: Callable[[Path], None]
) -> None:
    locked(pets / "dogs")
    with pytest.raises(DataError, match=r"pets: 1 of 4 files .* 1 unreadable folder, such as dogs"):
        FolderSource(pets)


def test_source_of_hidden_files_says_so(tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / f".IMG_{number}.HEIC.icloud").write_bytes(b"bplist00")
    with pytest.raises(DataError, match="no image file; 3 hidden files and folders of tools"):
        FolderSource(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("x.tar.gz", b"\x1f\x8b\x08", "another archive; unpack it and give the folder"),
        ("x.7z", b"7z\xbc\xaf\x27\x1c", "another archive"),
        ("x.jpg", encoded("JPEG"), "a picture (JPEG); give the folder it lies in"),
        ("x.csv", b"a,b", "is not a usable zip"),
        ("x.zip", b"PK\3\4cut", "is not a usable zip"),
        ("x.zip", b"", "is not a usable zip"),
        ("x.zip", b"<html>login", "HTML page: a server's answer"),
    ],
)
def test_open_source_says_what_a_file_is_that_is_no_zip(
    tmp_path: Path, name: str, content: bytes, says: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=r"^[^\n]*$") as refused:
        open_source(str(tmp_path / name))
    assert says in str(refused.value)


def test_tar_of_photos_is_named(pets: Path, tmp_path: Path) -> None:
    path = tmp_path / "pets.tar"
    with tarfile.open(path, "w") as file:
        file.add(pets, "pets")
    with pytest.raises(DataError, match="another archive; unpack it"):
        open_source(str(path))


def entry(name: str, **fields: int) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    for field, value in fields.items():
        setattr(info, field, value)
    return info


def two_classes_and(path: Path, *entries: tuple[zipfile.ZipInfo, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        for name in ("cats", "dogs"):
            file.writestr(f"{name}/1.jpg", encoded("JPEG"))
        for info, content in entries:
            file.writestr(info, content)
    return path


def test_entries_that_are_links_are_told(tmp_path: Path) -> None:
    link = entry("cats/2.jpg", create_system=3, external_attr=(stat.S_IFLNK | 0o777) << 16)
    source = ZipSource(two_classes_and(tmp_path / "x.zip", (link, b"../pool/2.jpg")))
    assert reasons(source)["cats/2.jpg"].startswith("link: ")


def patched(path: Path, name: str, offset: int, value: int) -> Path:
    """Another value of 2 bytes in an entry of the directory."""
    content = bytearray(path.read_bytes())
    at = content.rindex(name.encode()) - 46
    struct.pack_into("<H", content, at + offset, value)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("offset", "value", "kind"),
    [(8, 1, "encrypted"), (10, 9, "unreadable compression"), (10, 99, "unreadable compression")],
)
def test_entries_that_cannot_be_read_are_told(
    tmp_path: Path, offset: int, value: int, kind: str
) -> None:
    path = two_classes_and(tmp_path / "x.zip", (entry("cats/2.jpg"), b"x"))
    source = ZipSource(patched(path, "cats/2.jpg", offset, value))
    assert reasons(source)["cats/2.jpg"].split(":")[0] == kind
    assert len(source.labels) == 2


def test_zip_whose_entries_are_all_encrypted_says_so(tmp_path: Path) -> None:
    path = two_classes_and(tmp_path / "x.zip")
    for name in ("cats/1.jpg", "dogs/1.jpg"):
        patched(path, name, 8, 1)
    with pytest.raises(DataError, match="no photo that can be read: 2 encrypted, such as cats/1"):
        ZipSource(path)


@pytest.mark.parametrize(
    ("raw", "name"),
    [
        ("bébé".encode(), "bébé"),
        ("猫".encode(), "猫"),
        ("bébé".encode("cp1252"), "bébé"),
        ("bébé".encode("cp437"), "bébé"),
        ("Hündin".encode("cp1252"), "Hündin"),
        ("Hündin".encode("cp437"), "Hündin"),
        (b"cats", "cats"),
    ],
)
def test_names_without_an_encoding_are_read_as_they_were_meant(
    tmp_path: Path, raw: bytes, name: str
) -> None:
    path = tmp_path / "x.zip"
    place = b"?" * len(raw)
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(f"{place.decode()}/1.jpg", encoded("JPEG"))
        file.writestr("zebra/1.jpg", encoded("JPEG"))
    path.write_bytes(path.read_bytes().replace(place, raw))
    source = ZipSource(path)
    assert set(source.class_names) == {name, "zebra"}
    assert all(source.read(key) for key in source.labels)


def test_backslashes_in_a_zip_part_folders(tmp_path: Path) -> None:
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w") as file:
        for name in ("cats", "dogs"):
            file.writestr(f"pets\\{name}\\1.jpg", encoded("JPEG"))
        file.writestr("pets\\empty\\", b"")
    source = ZipSource(path)
    assert set(source.labels) == {"pets/cats/1.jpg", "pets/dogs/1.jpg"}
    assert all(source.read(key) for key in source.labels)


def test_names_of_entries_are_keys_and_nothing_else(tmp_path: Path) -> None:
    odd = [
        "../../cats/1.jpg",
        "/etc/dogs/1.jpg",
        "C:\\cats\\2.jpg",
        "./dogs/2.jpg",
        "a//dogs/3.jpg",
    ]
    path = tmp_path / "in" / "x.zip"
    path.parent.mkdir()
    with zipfile.ZipFile(path, "w") as file:
        for number, name in enumerate(odd):
            file.writestr(entry(name), encoded("JPEG", colour=number))
    source = ZipSource(path)
    assert source.class_names == ("cats", "dogs")
    assert sorted(source.labels.values()) == [0, 0, 1, 1, 1]
    assert len(packing.decode(source, 8).photos) == 5
    assert [p.name for p in tmp_path.rglob("*")] == ["in", "x.zip"]


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_entry_that_a_later_one_replaces_is_told(tmp_path: Path) -> None:
    last = encoded("JPEG", colour=200)
    source = ZipSource(two_classes_and(tmp_path / "x.zip", (entry("cats/1.jpg"), last)))
    assert reasons(source) == {"cats/1.jpg": "replaced: a later entry of the zip has the same name"}
    assert source.read("cats/1.jpg") == last


def test_heic_is_read_where_pillow_heif_is_installed(
    pets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    stand_in = types.ModuleType("pillow_heif")
    stand_in.register_heif_opener = lambda: calls.append("registered")  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pillow_heif", stand_in)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    signatures.reads_heic.cache_clear()
    (pets / "cats" / "iphone.heic").write_bytes(HEIC)
    try:
        assert "cats/iphone.heic" in FolderSource(pets).labels
    finally:
        signatures.reads_heic.cache_clear()
    assert calls == ["registered"]


def test_process_that_decodes_knows_heic_from_its_first_photo(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stand_in = types.ModuleType("pillow_heif")
    known = dict(Image.OPEN)
    stand_in.register_heif_opener = lambda: known.update(HEIF=())  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pillow_heif", stand_in)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    monkeypatch.setattr(Image, "OPEN", known)
    signatures.reads_heic.cache_clear()
    try:
        assert "HEIF" in formats.openable()
    finally:
        signatures.reads_heic.cache_clear()


def test_names_that_are_no_utf_8_are_read_and_printable(tmp_path: Path) -> None:
    folder = os.fsencode(tmp_path / "x") + b"\xff"
    for name in (b"b\xe9b\xe9", b"chien"):
        os.makedirs(folder + b"/" + name)
        with open(folder + b"/" + name + b"/1\xe9.jpg", "wb") as file:
            file.write(encoded("JPEG"))
    source = open_source(os.fsdecode(folder))
    assert source.class_names == ("b\\xe9b\\xe9", "chien")
    assert source.location.endswith("x\\xff")
    loaded = packing.decode(source, 8)
    assert [photo.key for photo in loaded.photos] == [
        "b\udce9b\udce9/1\udce9.jpg",
        "chien/1\udce9.jpg",
    ]


def test_folder_of_five_thousand_is_found_at_once(tmp_path: Path) -> None:
    for name in ("cats", "dogs"):
        (tmp_path / name).mkdir()
        for number in range(2500):
            (tmp_path / name / f"{number}.jpg").touch()
    started = time.perf_counter()
    assert len(FolderSource(tmp_path).labels) == 5000
    assert time.perf_counter() - started < 1.5  # a tenth of it where nobody else is at work
