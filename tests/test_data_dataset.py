"""Packing: whole or not at all, in order, bounded, and the same the second time."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from catdog_search.data import cache, decoders, packing
from catdog_search.data.budget import Reserve
from catdog_search.data.decode import Decoded, decode
from catdog_search.data.reference import DataReference
from catdog_search.data.sources import FolderSource, SyntheticSource
from catdog_search.errors import CacheLostError, DataError

LIMIT = 10**9


def test_split_holds_each_photo_under_its_label(drawn: SyntheticSource, tmp_path: Path) -> None:
    loaded = packing.load(drawn, 16, tmp_path, LIMIT)
    for split in ("train", "val", "test"):
        photos = [p for p in loaded.manifest.photos if p.split == split]
        pixels, labels = loaded.split(split)
        expected = np.stack([decode(drawn.read(p.key), 16) for p in photos])
        assert np.array_equal(pixels, expected)
        assert labels.ravel().tolist() == [p.label for p in photos]
        assert (pixels.dtype, labels.dtype, labels.ndim) == (np.uint8, np.float32, 2)


def test_second_load_decodes_nothing(
    drawn: SyntheticSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = packing.load(drawn, 16, tmp_path, LIMIT)
    monkeypatch.setattr(SyntheticSource, "read", lambda self, key: pytest.fail("decoded again"))
    second = packing.load(SyntheticSource(100), 16, tmp_path, LIMIT)
    assert second.digest == first.digest


def test_digest_is_the_same_at_every_image_size(drawn: SyntheticSource, tmp_path: Path) -> None:
    sizes = [packing.load(drawn, size, tmp_path, LIMIT) for size in (8, 16)]
    assert sizes[0].digest == sizes[1].digest
    assert sizes[0].split("val")[0].shape[1:] == (8, 8, 3)


def test_pack_that_was_cut_short_is_made_again(drawn: SyntheticSource, tmp_path: Path) -> None:
    loaded = packing.load(drawn, 16, tmp_path, LIMIT)
    before = loaded.split("train")[0]
    pack = next(loaded.folder.glob("*.u8"))
    pack.write_bytes(pack.read_bytes()[:-1])
    assert np.array_equal(packing.load(drawn, 16, tmp_path, LIMIT).split("train")[0], before)


def test_failed_packing_leaves_no_pack(
    drawn: SyntheticSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> bytes:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(packing, "_decode_all", full)
    with pytest.raises(DataError, match="No space left on device"):
        packing.load(drawn, 16, tmp_path, LIMIT)
    files = [p.name for p in tmp_path.rglob("*") if p.is_file() and p.suffix != ".lock"]
    assert files == []


@pytest.mark.parametrize("content", [b"", b"not an image", b"\xff\xd8\xff\xe0 cut"])
def test_file_that_is_no_image_is_listed_and_left_out(photo_folder: Path, content: bytes) -> None:
    (photo_folder / "Cat" / "bad.jpg").write_bytes(content)
    loaded = packing.load(FolderSource(photo_folder), 8, photo_folder.parent / "cache", LIMIT)
    assert [key for key, _ in loaded.manifest.left_out] == ["Cat/bad.jpg"]
    assert len(loaded.manifest.photos) == 100


def test_load_refuses_photos_too_few_to_split(photo_folder: Path) -> None:
    for photo in sorted(photo_folder.rglob("*.ppm"))[4:-4]:
        photo.unlink()
    with pytest.raises(DataError, match="are too few: split"):
        packing.load(FolderSource(photo_folder), 8, photo_folder.parent / "cache", LIMIT)


def test_progress_ends_at_the_total(drawn: SyntheticSource, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    packing.load(drawn, 8, tmp_path, LIMIT, lambda done, total: seen.append((done, total)))
    assert seen[-1] == (100, 100)


def test_cache_evicts_the_longest_unused_first(tmp_path: Path) -> None:
    entries = [packing.load(SyntheticSource(n), 8, tmp_path, LIMIT).folder for n in (80, 90, 100)]
    cache.touch(entries[0])
    one = cache.size_bytes(tmp_path) // 3
    removed = cache.evict(tmp_path, cache.size_bytes(tmp_path) - one // 2, keep=entries[2])
    assert removed == [entries[1]]
    assert entries[0].exists()


def test_cache_never_evicts_what_is_in_use(drawn: SyntheticSource, tmp_path: Path) -> None:
    loaded = packing.load(drawn, 8, tmp_path, limit=1)
    assert loaded.split("train")[0].shape[0] > 0


def test_added_photos_move_nobody_and_known_ones_are_not_decoded_again(
    photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = packing.load(FolderSource(photo_folder), 8, tmp_path / "cache", LIMIT)
    pixels = before.split("train")[0]
    more = SyntheticSource(140)
    for key in list(more.labels)[50:70]:
        (photo_folder / "Cat" / f"more-{key}").write_bytes(more.read(key))
    examined: list[str] = []
    real = decoders.examine

    def note(content: bytes, key: str, image_size: int, reserve: Reserve) -> Decoded:
        examined.append(key)
        return real(content, key, image_size, reserve)

    monkeypatch.setattr(decoders, "examine", note)
    after = packing.load(FolderSource(photo_folder), 8, tmp_path / "cache", LIMIT)
    assert len(examined) == 20
    assert all(key.startswith("Cat/more-") for key in examined)
    was = {p.sha256: p.split for p in before.manifest.photos}
    now = {p.sha256: p.split for p in after.manifest.photos}
    assert len(now) == 120
    assert {sha: now[sha] for sha in was} == was
    # Who holds the earlier dataset goes on with what it was.
    assert np.array_equal(before.split("train")[0], pixels)
    assert after.digest != before.digest


def test_duplicate_added_later_joins_the_split_of_the_first(
    photo_folder: Path, tmp_path: Path
) -> None:
    before = packing.load(FolderSource(photo_folder), 8, tmp_path / "cache", LIMIT)
    originals = [p for p in before.manifest.photos if p.split != "train"][:12]
    for photo in originals:
        with Image.open(photo_folder / photo.key) as image:
            image.save(photo_folder / f"{photo.key}.again.jpg", quality=80)
    after = packing.load(FolderSource(photo_folder), 8, tmp_path / "cache", LIMIT).manifest
    split = {p.key: p.split for p in after.photos}
    group = {p.key: p.group for p in after.photos}
    for photo in originals:
        again = f"{photo.key}.again.jpg"
        assert group[again] == group[photo.key] is not None
        assert split[again] == split[photo.key] == photo.split


def test_file_that_is_no_image_by_name_and_content_is_listed(
    photo_folder: Path, tmp_path: Path
) -> None:
    (photo_folder / "Cat" / "Thumbs.db").write_bytes(b"x")
    (photo_folder / "readme.txt").write_text("x")
    (photo_folder / ".DS_Store").write_bytes(b"x")
    manifest = packing.load(FolderSource(photo_folder), 8, tmp_path / "cache", LIMIT).manifest
    reason = "not an image: by its name and its content"
    assert manifest.left_out == (("Cat/Thumbs.db", reason), ("readme.txt", reason))


@pytest.mark.parametrize("n", [2, 10, 33, 60])
def test_subset_is_stratified_and_nested(drawn: SyntheticSource, tmp_path: Path, n: int) -> None:
    part = packing.load(drawn, 8, tmp_path, LIMIT, subset=n)
    larger = packing.load(drawn, 8, tmp_path, LIMIT, subset=n + 5)
    whole = packing.load(drawn, 8, tmp_path, LIMIT)
    x, y = part.split("train")
    assert len(x) == n
    share = whole.split("train")[1].mean()
    assert abs(y.mean() - share) <= 1 / n
    assert set(part.rows("train")) < set(larger.rows("train")) < set(whole.rows("train"))
    assert part.rows("val") == whole.rows("val")


def test_hashes_of_a_subset_leave_out_what_is_not_trained_on(
    drawn: SyntheticSource, tmp_path: Path
) -> None:
    part = packing.load(drawn, 8, tmp_path, LIMIT, subset=10)
    hashes, whole = part.hashes(), part.manifest.hashes()
    assert len(hashes["train"]) == 10 < len(whole["train"])
    assert set(hashes["train"]) <= set(whole["train"])
    assert {**hashes, "train": whole["train"]} == whole


def test_subset_larger_than_train_is_refused(drawn: SyntheticSource, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="subset 100 is more than"):
        packing.load(drawn, 8, tmp_path, LIMIT, subset=100)


_PACK = """
import sys
from pathlib import Path
from catdog_search.data import packing
from catdog_search.data.sources import SyntheticSource

def say(done, total):
    print(done, flush=True)

loaded = packing.load(SyntheticSource(1200), 16, Path(sys.argv[1]), 10**9, say)
print("digest", loaded.digest, loaded.split("val")[0].sum())
"""


def packing_process(folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", _PACK, str(folder)], stdout=subprocess.PIPE, text=True
    )


def test_packing_killed_in_the_middle_leaves_nothing_and_starts_again(tmp_path: Path) -> None:
    with packing_process(tmp_path) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "256\n"
        process.kill()
    assert list(tmp_path.rglob("pixels-*.u8")) == []
    assert list(tmp_path.rglob("manifest.json")) == []
    loaded = packing.load(SyntheticSource(1200), 16, tmp_path, LIMIT)
    assert list(tmp_path.rglob("*.partial")) == []
    assert len(loaded.manifest.photos) == 1200


def test_two_processes_pack_once(tmp_path: Path) -> None:
    with packing_process(tmp_path) as first, packing_process(tmp_path) as second:
        outputs = [process.communicate()[0] for process in (first, second)]
    digests = {output.splitlines()[-1] for output in outputs}
    assert len(digests) == 1
    assert sorted("256" in output.split() for output in outputs) == [False, True]


def test_full_disk_is_one_line_and_leaves_no_cache(tmp_path: Path) -> None:
    # A limit on the size of files stands in for the end of the disk.
    code = (
        "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code + _PACK, str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("catdog_search.errors.DataError: cache ")
    assert "File too large" in last
    assert [p for p in tmp_path.rglob("*") if p.suffix in (".u8", ".partial", ".json")] == []


def test_cache_names_what_it_holds(drawn: SyntheticSource, tmp_path: Path) -> None:
    for size in (8, 16):
        packing.load(drawn, size, tmp_path, LIMIT)
    (found,) = cache.entries(tmp_path)
    assert cache.describe(found) == "100 drawn pictures: 8 px, 16 px"


def test_damaged_manifest_of_the_cache_is_made_again(
    drawn: SyntheticSource, tmp_path: Path
) -> None:
    loaded = packing.load(drawn, 8, tmp_path, LIMIT)
    (loaded.folder / "manifest.json").write_text("{")
    assert packing.load(drawn, 8, tmp_path, LIMIT).digest == loaded.digest


def test_reference_finds_what_it_names_by_digest_where_its_folder_is_not(
    drawn: SyntheticSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = packing.load(drawn, 8, tmp_path / "cache", LIMIT)
    assert DataReference.to(packed).at(8) == packed
    elsewhere = DataReference(packed.digest, tmp_path / "another", 10, "another machine")
    monkeypatch.setenv("CATDOG_CACHE", str(tmp_path / "cache"))
    found = elsewhere.at(8)
    assert (found.folder, found.subset) == (packed.folder, 10)
    assert found.manifest.location == "another machine"
    monkeypatch.setenv("CATDOG_CACHE", str(tmp_path / "empty"))
    with pytest.raises(CacheLostError, match="another"):
        elsewhere.at(8).split("train")
