"""The cache believes content alone, checks what it reads, and keeps what is in use."""

from __future__ import annotations

import errno
import json
import os
import pickle
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from catdog_search.data import cache, decoders, packing
from catdog_search.data.dataset import Dataset
from catdog_search.data.decode import decode
from catdog_search.data.sources import FolderSource, SyntheticSource, ZipSource, open_source
from catdog_search.errors import CacheLostError
from catdog_search.places import Hold, file_lock, nobody_holds

LIMIT = 10**9


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory, drawn: SyntheticSource) -> Path:
    folder = tmp_path_factory.mktemp("once")
    packing.load(drawn, 8, folder, LIMIT)
    return folder


@pytest.fixture
def kept(once: Path, tmp_path: Path) -> Path:
    """A cache folder that holds the drawn pictures."""
    return Path(shutil.copytree(once, tmp_path / "kept"))


@pytest.fixture
def examined(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Keys of the files that were decoded."""
    seen: list[str] = []
    real = decoders.examine

    def note(content: bytes, key: str, *more: Any) -> Any:
        seen.append(key)
        return real(content, key, *more)

    monkeypatch.setattr(decoders, "examine", note)
    return seen


@pytest.fixture
def packed(photo_folder: Path, tmp_path: Path) -> Callable[..., Dataset]:
    """Loads a folder, by default that of the photos, into one cache."""

    def load(root: Path = photo_folder, size: int = 8, **options: Any) -> Dataset:
        return packing.load(open_source(str(root)), size, tmp_path / "cache", LIMIT, **options)

    return load


def assert_right(loaded: Dataset, root: Path) -> None:
    """Every photo's pixels are those of the file that lies there now."""
    expected = [decode((root / p.key).read_bytes(), 8) for p in loaded.manifest.photos]
    assert np.array_equal(loaded.pixels(), np.stack(expected))


def put_in_place(content: bytes, path: Path) -> None:
    """Other content, the same inode, size and time of modification."""
    stat = path.stat()
    assert len(content) == stat.st_size
    with path.open("r+b") as file:
        file.write(content)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def put_beside(content: bytes, path: Path) -> None:
    """Other content as `cp -p`, `rsync -t` and `tar` put it: the old time of modification."""
    stat = path.stat()
    fresh = path.with_suffix(".new")
    fresh.write_bytes(content)
    os.utime(fresh, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    fresh.replace(path)


@pytest.mark.parametrize("put", [put_in_place, put_beside])
def test_photo_that_was_replaced_is_noticed_whatever_its_time_says(
    put: Callable[[bytes, Path], None], packed: Callable[..., Dataset], photo_folder: Path
) -> None:
    before = packed()
    photos = sorted(photo_folder.rglob("*.ppm"))
    other = next(p for p in photos[1:] if p.stat().st_size == photos[0].stat().st_size)
    put(bytes(reversed(other.read_bytes()[20:])).join([other.read_bytes()[:20], b""]), photos[0])
    after = packed()
    assert_right(after, photo_folder)
    assert after.digest != before.digest


def test_folders_that_differ_in_content_alone_are_not_taken_for_one_another(
    packed: Callable[..., Dataset], photo_folder: Path, tmp_path: Path
) -> None:
    twin = tmp_path / "twin"
    shutil.copytree(photo_folder, twin)
    photos = sorted(twin.rglob("*.ppm"))
    turned = [p.read_bytes() for p in photos]
    for path, content in zip(photos, turned[1:] + turned[:1], strict=True):
        path.write_bytes(content)
    for root in (photo_folder, twin):
        for path in root.rglob("*.ppm"):
            os.utime(path, (10**9, 10**9))
    first, second = packed(photo_folder), packed(twin)
    assert_right(first, photo_folder)
    assert_right(second, twin)
    assert [d.manifest.location for d in (first, second)] == [str(photo_folder), str(twin)]
    # One takes the other's place.
    shutil.rmtree(photo_folder)
    twin.rename(photo_folder)
    assert_right(packed(photo_folder), photo_folder)


def test_unchanged_source_is_not_read(
    packed: Callable[..., Dataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = packed()
    monkeypatch.setattr(FolderSource, "read", lambda self, key: pytest.fail("read again"))
    assert packed() == before


def touch_all(root: Path) -> Path:
    for path in root.rglob("*.*"):
        os.utime(path)
    return root


def copied(root: Path) -> Path:
    return Path(shutil.copytree(root, root.with_name("copied")))


def moved(root: Path) -> Path:
    return root.rename(root.with_name("moved"))


@pytest.mark.parametrize("change", [touch_all, copied, moved])
def test_same_photos_elsewhere_or_later_are_not_decoded_again(
    change: Callable[[Path], Path],
    packed: Callable[..., Dataset],
    photo_folder: Path,
    examined: list[str],
) -> None:
    before = packed()
    examined.clear()
    root = change(photo_folder)
    after = packed(root)
    assert examined == []
    assert (after.digest, after.folder) == (before.digest, before.folder)
    assert after.manifest.location == str(root)


def test_moved_zip_is_not_decoded_again(
    photo_zip: Path, tmp_path: Path, examined: list[str]
) -> None:
    before = packing.load(ZipSource(photo_zip), 8, tmp_path / "cache", LIMIT)
    examined.clear()
    moved = Path(shutil.move(photo_zip, tmp_path / "moved.zip"))
    after = packing.load(ZipSource(moved), 8, tmp_path / "cache", LIMIT)
    assert examined == []
    assert after.digest == before.digest
    assert after.manifest.location == str(moved)


def test_moved_photos_keep_their_split_where_duplicates_arrive(
    packed: Callable[..., Dataset], photo_folder: Path
) -> None:
    before = {p.sha256: p.split for p in packed().manifest.photos}
    root = moved(photo_folder)
    for path in sorted(root.rglob("*.ppm"))[::3]:
        path.with_suffix(".pgm.ppm").write_bytes(path.read_bytes() + b"\n")
    after = {p.sha256: p.split for p in packed(root).manifest.photos}
    assert len(after) > len(before)
    assert before.items() <= after.items()


def test_part_of_other_photos_is_settled_by_itself(
    packed: Callable[..., Dataset], photo_folder: Path, tmp_path: Path
) -> None:
    packed()
    part = copied(photo_folder)
    for path in sorted(part.rglob("*.ppm"))[::4]:
        path.unlink()
    alone = packing.load(FolderSource(part), 8, tmp_path / "another", LIMIT)
    assert packed(part).digest == alone.digest


def test_renamed_photo_gets_the_flags_of_its_new_name(
    packed: Callable[..., Dataset], photo_folder: Path
) -> None:
    packed()
    path = next(photo_folder.rglob("*.ppm"))
    path.rename(path.with_suffix(".png"))
    photos = {p.key: p.flags for p in packed().manifest.photos}
    assert [key for key, flags in photos.items() if flags == ("lying extension",)] == [
        path.with_suffix(".png").relative_to(photo_folder).as_posix()
    ]


ERRORS = {
    "Permission denied": PermissionError(errno.EACCES, "Permission denied", "/secret/1.ppm"),
    "Input/output error": OSError(errno.EIO, "Input/output error", "/secret/1.ppm"),
    "Too many open files": OSError(errno.EMFILE, "Too many open files", "/secret/1.ppm"),
    "No such file or directory": FileNotFoundError(
        errno.ENOENT, "No such file or directory", "/secret/1.ppm"
    ),
    "memory ran out": MemoryError(),
}


@pytest.mark.parametrize("said", ERRORS)
def test_passing_error_is_tried_again_each_time(
    said: str,
    packed: Callable[..., Dataset],
    photo_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    keys = sorted(p.relative_to(photo_folder).as_posix() for p in photo_folder.rglob("*.ppm"))[:30]
    real = FolderSource.read

    def fails(self: FolderSource, key: str) -> bytes:
        if key in keys:
            raise ERRORS[said]
        return real(self, key)

    with monkeypatch.context() as patched:
        patched.setattr(FolderSource, "read", fails)
        for _ in range(2):
            lacking = packed()
            assert dict(lacking.manifest.left_out) == dict.fromkeys(keys, f"unreadable: {said}")
            assert len(lacking.manifest.photos) == 70
        keys.pop()
        assert len(packed().manifest.photos) == 71
    whole = packed()
    assert whole.manifest.left_out == ()
    assert len(whole.manifest.photos) == 100


def test_memory_that_ran_out_while_decoding_is_no_fact_either(
    packed: Callable[..., Dataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr("PIL.Image.Image.convert", _out_of_memory)
        patched.setattr("PIL.Image.Image.resize", _out_of_memory)
        with pytest.raises(packing.DataError):
            packed()
    assert packed().manifest.left_out == ()


def _out_of_memory(*_: object, **__: object) -> None:
    raise MemoryError


def test_file_that_vanished_after_it_was_listed_is_left_out(
    photo_folder: Path, tmp_path: Path
) -> None:
    source = FolderSource(photo_folder)
    gone = sorted(source.labels)[3]
    (photo_folder / gone).unlink()
    manifest = packing.load(source, 8, tmp_path / "cache", LIMIT).manifest
    assert manifest.left_out == ((gone, "unreadable: No such file or directory"),)


def test_what_decodes_is_looked_at_again_with_another_decoder(
    packed: Callable[..., Dataset], photo_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (photo_folder / "Cat" / "new.ppm").write_bytes(b"a format of tomorrow")
    assert len(packed().manifest.left_out) == 1
    monkeypatch.setattr(packing.metadata, "version", lambda name: "tomorrow's")
    picture = next(photo_folder.rglob("*.ppm")).read_bytes()
    real = decoders.examine
    monkeypatch.setattr(
        decoders,
        "examine",
        lambda content, *more: real(picture if content.startswith(b"a format") else content, *more),
    )
    assert packed().manifest.left_out == ()


def flip(path: Path, at: float) -> None:
    """Turn one bit."""
    content = bytearray(path.read_bytes())
    content[int(len(content) * at)] ^= 1
    path.write_bytes(content)


def cut(path: Path, at: float) -> None:
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * at)])


@pytest.mark.parametrize("damage", [flip, cut])
@pytest.mark.parametrize("file", ["pixels-0008.u8", "pixels-0008.sums", "manifest.json"])
@pytest.mark.parametrize("at", [0.0, 0.5, 0.7])
def test_damaged_entry_is_noticed_and_made_again(
    damage: Callable[[Path, float], None],
    file: str,
    at: float,
    drawn: SyntheticSource,
    kept: Path,
) -> None:
    before = packing.load(drawn, 8, kept, LIMIT)
    pixels, labels = before.split("train")
    damage(before.folder / file, at)
    said: list[str] = []
    after = packing.load(drawn, 8, kept, LIMIT, say=said.append)
    assert np.array_equal(after.split("train")[0], pixels)
    assert np.array_equal(after.split("train")[1], labels)
    assert after == before
    assert len(said) == 1
    assert "damaged; made again" in said[0]
    assert packing.load(drawn, 8, kept, LIMIT, say=pytest.fail) == before


@pytest.mark.parametrize("damage", [flip, cut])
def test_damaged_pixels_are_not_trained_on(
    damage: Callable[[Path, float], None], drawn: SyntheticSource, kept: Path
) -> None:
    loaded = packing.load(drawn, 8, kept, LIMIT)
    damage(loaded.folder / "pixels-0008.u8", 0.4)
    with pytest.raises(CacheLostError, match="its pixels at 8 px are gone or damaged"):
        loaded.split("train")


def test_damaged_pixels_are_not_taken_over(
    packed: Callable[..., Dataset], photo_folder: Path
) -> None:
    before = packed()
    flip(before.folder / "pixels-0008.u8", 0.5)
    shutil.copy(next(photo_folder.rglob("*.ppm")), photo_folder / "Dog" / "one-more.ppm")
    assert_right(packed(), photo_folder)


def test_rows_are_read_as_they_are_packed(drawn: SyntheticSource, tmp_path: Path) -> None:
    loaded = packing.load(drawn, 120, tmp_path, LIMIT)  # 24 photos a chunk
    for rows in ([0], [99], [23, 24, 25, 71, 72], list(range(100)), []):
        assert np.array_equal(loaded.read(rows), loaded.pixels()[rows])


@pytest.mark.parametrize("elsewhere", [False, True])
def test_what_is_in_use_is_neither_evicted_nor_cleared(
    elsewhere: bool, drawn: SyntheticSource, kept: Path
) -> None:
    loaded: Any = packing.load(drawn, 8, kept, LIMIT)
    folder, content = loaded.folder, pickle.dumps(loaded)
    if elsewhere:
        code = "import pickle, sys; held = pickle.load(sys.stdin.buffer); print(1, flush=True)\n"
        user = subprocess.Popen(
            [sys.executable, "-c", f"{code}import time; time.sleep(60)"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert user.stdin is not None
        assert user.stdout is not None
        with user.stdin, user.stdout:
            user.stdin.write(content)
            user.stdin.close()
            user.stdout.readline()
            loaded = None
            assert cache.evict(kept, 0) == []
            user.kill()
            user.wait()
    else:
        assert cache.evict(kept, 0) == []
        # A second source under a limit that is too small for both.
        packing.load(SyntheticSource(60), 8, kept, 1)
        assert loaded.split("val")[0].any()
        loaded = None
    assert folder in cache.evict(kept, 0)


def test_dataset_is_cheap_to_pickle(drawn: SyntheticSource, kept: Path) -> None:
    loaded = packing.load(drawn, 8, kept, LIMIT, subset=20)
    content = pickle.dumps(loaded)
    assert len(content) < 500
    again = pickle.loads(content)
    assert again == loaded
    assert again.rows("train") == loaded.rows("train")


def test_cache_that_is_emptied_while_it_is_packed_is_made_again(
    drawn: SyntheticSource, tmp_path: Path
) -> None:
    folder = tmp_path / "cache"

    def empty(done: int, total: int) -> None:
        if not emptied:
            emptied.append(done)
            shutil.rmtree(folder)

    emptied: list[int] = []
    loaded = packing.load(drawn, 8, folder, LIMIT, empty)
    assert emptied == [100]
    assert len(loaded.split("train")[0]) == len(loaded.rows("train"))


def test_clearing_beside_packing_takes_nothing_away(drawn: SyntheticSource, tmp_path: Path) -> None:
    cleared: list[list[Path]] = []

    def clear(done: int, total: int) -> None:
        cleared.append(cache.evict(tmp_path, 0))

    loaded = packing.load(drawn, 8, tmp_path, LIMIT, clear)
    assert cleared == [[]]
    assert loaded.is_there()


def test_entry_that_two_sources_share_is_packed_beside_its_users(
    photo_folder: Path, tmp_path: Path
) -> None:
    first = packing.load(FolderSource(photo_folder), 8, tmp_path / "cache", LIMIT)
    second = packing.load(FolderSource(copied(photo_folder)), 16, tmp_path / "cache", LIMIT)
    assert second.folder == first.folder
    assert first.is_there()
    assert second.is_there()
    assert len(cache.entries(tmp_path / "cache")) == 1


def test_hold_is_renewed_where_the_entry_was_made_anew(drawn: SyntheticSource, kept: Path) -> None:
    loaded = packing.load(drawn, 8, kept, LIMIT)
    shutil.rmtree(kept / "datasets")
    assert not loaded.is_there()
    assert len(loaded.manifest.photos) == 100  # what it is, it knows
    packing.load(drawn, 8, kept, LIMIT)
    assert loaded.is_there()
    assert cache.evict(kept, 0) == []


def test_cache_names_the_source_that_had_an_entry_last(
    packed: Callable[..., Dataset], photo_folder: Path, tmp_path: Path
) -> None:
    packed()
    root = moved(photo_folder)
    packed(root)
    (entry,) = cache.entries(tmp_path / "cache")
    assert cache.describe(entry) == f"{root}: 8 px"


def test_note_of_what_is_gone_goes_too(drawn: SyntheticSource, kept: Path) -> None:
    packing.load(drawn, 8, kept, LIMIT)
    assert len(list((kept / "sources").glob("*.json"))) == 1
    cache.evict(kept, 0)
    assert list((kept / "sources").glob("*.json")) == []


@pytest.mark.parametrize("text", ["", "{", "[]", '{"seen": 1}', "null"])
def test_damaged_note_is_written_anew(text: str, drawn: SyntheticSource, kept: Path) -> None:
    before = packing.load(drawn, 8, kept, LIMIT)
    (note,) = (kept / "sources").glob("*.json")
    note.write_text(text)
    assert packing.load(drawn, 8, kept, LIMIT) == before
    assert json.loads(note.read_text())["entry"]


def test_lock_that_is_removed_lets_nobody_in_beside_the_next_holder(tmp_path: Path) -> None:
    path, inside, most = tmp_path / "lock", [0], [0]
    waits = threading.Event()

    def enter() -> None:
        waits.set()
        with file_lock(path):
            inside[0] += 1
            most[0] = max(most[0], inside[0])
            time.sleep(0.05)
            inside[0] -= 1

    waiting = threading.Thread(target=enter)
    with file_lock(path):
        waiting.start()
        waits.wait()
        time.sleep(0.05)  # until it waits for the file that is removed now
        path.unlink()
        others = [threading.Thread(target=enter) for _ in range(3)]
        others[0].start()
        time.sleep(0.02)
    for other in others[1:]:
        other.start()
    for thread in (waiting, *others):
        thread.join()
    assert most == [1]


def test_nobody_holds_says_what_is_held(tmp_path: Path) -> None:
    paths = [tmp_path / "a", tmp_path / "b"]
    for path in paths:
        path.touch()
    held = Hold(paths[1])
    with nobody_holds(paths) as free:
        assert not free
    held.close()
    with nobody_holds(paths) as free:
        assert free
    with pytest.raises(FileNotFoundError):
        Hold(tmp_path / "c")
