"""Groups of duplicates, the splits they share, and what the audit says and draws."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from catdog_search import cli
from catdog_search.data import audit, packing
from catdog_search.data.groups import NEAR_BITS, find_groups
from catdog_search.data.manifest import assign_splits, split_of
from catdog_search.data.sources import FolderSource, SyntheticSource, open_source

LIMIT = 10**9


def flip(phash: int, bits: int, rng: random.Random) -> str:
    for bit in rng.sample(range(64), bits):
        phash ^= 1 << bit
    return f"{phash:016x}"


@pytest.mark.parametrize("bits", [0, 1, NEAR_BITS])
def test_find_groups_finds_every_near_pair(bits: int) -> None:
    rng = random.Random(bits)
    hashes = [rng.getrandbits(64) for _ in range(300)]
    near = [flip(h, bits, rng) for h in hashes[:100]]
    phashes = [f"{h:016x}" for h in hashes] + near
    groups = find_groups([str(i) for i in range(400)], phashes)
    assert groups == [[i, 300 + i] for i in range(100)]


def test_find_groups_leaves_farther_ones_apart() -> None:
    rng = random.Random(1)
    hashes = [rng.getrandbits(64) for _ in range(200)]
    phashes = [f"{h:016x}" for h in hashes] + [flip(h, NEAR_BITS + 1, rng) for h in hashes]
    assert find_groups([str(i) for i in range(400)], phashes) == []


def test_find_groups_agrees_with_comparing_all_pairs() -> None:
    rng = random.Random(2)
    base = [rng.getrandbits(64) for _ in range(20)]
    phashes = [flip(rng.choice(base), rng.randrange(12), rng) for _ in range(300)]
    values = np.array([int(h, 16) for h in phashes], np.uint64)
    close = np.bitwise_count(values[:, None] ^ values[None, :]) <= NEAR_BITS
    labels = np.arange(300)
    for _ in range(300):  # spread the smallest number over each connected part
        labels = np.array([labels[row].min() for row in close])
    parts = [np.flatnonzero(labels == n).tolist() for n in np.unique(labels)]
    assert find_groups([str(i) for i in range(300)], phashes) == [p for p in parts if len(p) > 1]


def test_find_groups_joins_equal_files_and_ignores_missing_hashes() -> None:
    assert find_groups(["a", "b", "a", "c"], ["", "", "", ""]) == [[0, 2]]


def test_find_groups_is_fast_on_twenty_thousand() -> None:
    rng = random.Random(3)
    phashes = [f"{rng.getrandbits(64):016x}" for _ in range(20_000)]
    assert find_groups([str(i) for i in range(20_000)], phashes) == []


def shas(n: int) -> list[str]:
    return [hashlib.sha256(str(i).encode()).hexdigest() for i in range(n)]


def test_assign_splits_keeps_a_group_together_whatever_its_order() -> None:
    names = shas(300)
    groups = [[i, i + 100, i + 200] for i in range(100)]
    splits = assign_splits(names, groups, {})
    turned = assign_splits(names[::-1], [[299 - i for i in g] for g in groups], {})
    assert all(len({splits[i] for i in g}) == 1 for g in groups)
    assert splits == turned[::-1]
    assert {"train", "val", "test"} == set(splits)


def test_assign_splits_follows_the_first_known_member() -> None:
    names = shas(3)
    other = next(s for s in ("train", "val", "test") if s != split_of(names[0]))
    assert assign_splits(names, [[0, 1]], {names[1]: other})[:2] == [other, other]  # type: ignore[dict-item]
    # Two that were apart before they were found alike: nobody moves.
    known = {names[0]: "train", names[1]: "test"}
    assert assign_splits(names, [[0, 1, 2]], known) == ["train", "test", "train"]  # type: ignore[arg-type]


@pytest.fixture
def messy(photo_folder: Path) -> Path:
    """The folder with what people have among their photos."""
    cats, dogs = photo_folder / "Cat", photo_folder / "Dog"
    first = sorted(cats.glob("*.ppm"))[0]
    shutil.copy(first, cats / "copy.ppm")
    shutil.copy(first, dogs / "wrong-label.ppm")
    with Image.open(sorted(dogs.glob("*.ppm"))[3]) as image:
        image.save(dogs / "near.jpg", quality=70)
        image.convert("L").save(dogs / "grey.png")
    (cats / "empty.jpg").write_bytes(b"")
    (cats / "text.jpg").write_text("no image")
    whole = (dogs / "near.jpg").read_bytes()
    (dogs / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (cats / "Thumbs.db").write_bytes(b"x")
    return photo_folder


def test_audit_counts_what_is_there(messy: Path, tmp_path: Path) -> None:
    manifest = packing.load(FolderSource(messy), 16, tmp_path / "cache", LIMIT).manifest
    found = audit.summary(manifest)
    assert (found["files"], found["usable"]) == (108, 104)
    assert found["left_out"] == {"empty": 1, "not an image": 2, "truncated": 1}
    assert found["noticed"] == {"grey": 1}
    assert found["duplicates"]["groups"] == 2
    assert found["duplicates"]["byte_identical"] == 2
    ((first, *others),) = found["duplicates"]["both_labels"]
    assert [first.split("/")[0], *others] == ["Cat", "Cat/copy.ppm", "Dog/wrong-label.ppm"]
    said = "\n".join(audit.lines(manifest))
    assert "104 of 108 files are usable" in said
    assert "under both labels: " in said


def test_groups_stay_on_one_side(messy: Path, tmp_path: Path) -> None:
    manifest = packing.load(FolderSource(messy), 16, tmp_path / "cache", LIMIT).manifest
    assert all(len({p.split for p in photos}) == 1 for photos in manifest.groups().values())


def test_drawn_pictures_are_no_duplicates_of_each_other(tmp_path: Path) -> None:
    manifest = packing.load(SyntheticSource(400), 16, tmp_path, LIMIT).manifest
    assert manifest.groups() == {}


def test_audit_command_prints_draws_and_exits_0(messy: Path, tmp_path: Path) -> None:
    picture = tmp_path / "audit.png"
    done = CliRunner().invoke(cli.main, ["data", "audit", str(messy), "--picture", str(picture)])
    assert done.exit_code == 0, done.output
    assert "left out: Dog/cut.jpg: truncated" in done.output
    with Image.open(picture) as image:
        colours = image.convert("RGB").getcolors(10**6)
    assert colours is not None
    assert (0xC2, 0x41, 0x0C) in [colour for _, colour in colours]  # the frame of both labels


def test_audit_command_as_json_is_one_object(messy: Path, tmp_path: Path) -> None:
    arguments = ["data", "audit", str(messy), "--json", "--picture", str(tmp_path / "a.png")]
    found = json.loads(CliRunner().invoke(cli.main, arguments).stdout)
    assert found["usable"] == 104
    assert {row["key"] for row in found["files_left_out"]} == {
        "Cat/Thumbs.db",
        "Cat/empty.jpg",
        "Cat/text.jpg",
        "Dog/cut.jpg",
    }


def test_contact_sheet_shows_class_0_above_class_1(drawn: SyntheticSource, tmp_path: Path) -> None:
    loaded = packing.load(drawn, 16, tmp_path, LIMIT)
    sheet = np.asarray(audit.contact_sheet(loaded, "train", columns=6, rows=1))
    assert sheet.shape == (2 * 20 + 4, 6 * 20 + 4, 3)
    photos, pixels = loaded.manifest.photos, loaded.pixels()
    for label, top in ((0, 4), (1, 24)):
        row = next(i for i in loaded.rows("train") if photos[i].label == label)
        assert np.array_equal(sheet[top : top + 16, 4:20], pixels[row])


def test_pet_images_zip_is_read_as_microsoft_packs_it(
    drawn: SyntheticSource, tmp_path: Path
) -> None:
    path = tmp_path / "kagglecatsanddogs_5340.zip"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("PetImages/", "")
        for i, (key, label) in enumerate(drawn.labels.items()):
            name = ("Cat", "Dog")[label]
            file.writestr(f"PetImages/{name}/{i}.jpg", drawn.read(key))
        file.writestr("PetImages/Cat/666.jpg", b"")
        file.writestr("PetImages/Dog/11702.jpg", b"")
        file.writestr("PetImages/Cat/Thumbs.db", b"x")
        file.writestr("readme[1].txt", b"x")
        file.writestr("MSR-LA - 3467.docx", b"x")
    source = open_source(str(path))
    assert source.class_names == ("Cat", "Dog")
    manifest = packing.load(source, 8, tmp_path / "cache", LIMIT).manifest
    assert len(manifest.photos) == 100
    assert dict(manifest.left_out)["PetImages/Cat/666.jpg"] == "empty"
    assert len(manifest.left_out) == 5


def test_prepare_and_cache_commands(
    photo_zip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CATDOG_CACHE", str(tmp_path / "cache"))
    run = CliRunner()
    sizes = ["--image-size", "8", "--image-size", "16"]
    prepared = run.invoke(cli.main, ["data", "prepare", str(photo_zip), *sizes])
    assert prepared.exit_code == 0, prepared.output
    shown = run.invoke(cli.main, ["data", "cache"])
    assert f"{photo_zip}: 8 px, 16 px" in shown.output
    as_json = json.loads(run.invoke(cli.main, ["data", "cache", "--json"]).stdout)
    assert as_json["bytes"] > 100 * (8 * 8 + 16 * 16) * 3
    cleared = json.loads(run.invoke(cli.main, ["data", "cache", "--clear", "--json"]).stdout)
    assert (cleared["removed"], cleared["bytes"]) == (1, 0)


def test_audit_of_the_real_photos_finds_what_is_known(real_photos: Path, tmp_path: Path) -> None:
    manifest = packing.load(open_source(str(real_photos)), 32, tmp_path, LIMIT).manifest
    found = audit.summary(manifest)
    assert (found["usable"], found["left_out"]) == (20_000, {})
    assert found["duplicates"]["byte_identical"] == 3
    assert found["duplicates"]["groups"] == 22
    assert len(found["duplicates"]["both_labels"]) == 1  # "photo unavailable", cat and dog


def test_run_says_in_one_line_what_the_audit_finds(
    messy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CATDOG_CACHE", str(tmp_path / "cache"))
    done = CliRunner().invoke(cli.main, ["data", "prepare", str(messy), "--image-size", "16"])
    assert done.exit_code == 0, done.output
    (line,) = [line for line in done.output.splitlines() if line.startswith("audit: ")]
    assert "104 of 108 files are usable" in line
    assert "left out: empty 1, not an image 2, truncated 1" in line
    assert "noticed: grey 1" in line
    assert "groups under both labels: 1, such as Cat/" in line
    assert "labels: by folders: Cat 53, Dog 54" in done.output


def test_what_most_files_have_in_common_is_said_first(messy: Path, tmp_path: Path) -> None:
    for number in range(200):
        (messy / "Cat" / f"iphone{number}.heic").write_bytes(b"\0\0\0\x18ftypheic")
    manifest = packing.load(FolderSource(messy), 16, tmp_path / "cache", LIMIT).manifest
    says = "204 of 308 files are left out: 200 HEIC, such as Cat/iphone0.heic: read with pillow"
    assert audit.in_short(manifest).startswith(f"audit: {says}")
    assert audit.lines(manifest)[0].startswith(says)


def test_audit_lists_some_files_of_each_kind_and_json_all(messy: Path, tmp_path: Path) -> None:
    for number in range(30):
        (messy / "Cat" / f"{number}.jpg").write_bytes(b"")
    files = ["--picture", str(tmp_path / "a.png")]
    said = CliRunner().invoke(cli.main, ["data", "audit", str(messy), *files]).output
    assert said.count(".jpg: empty") == 5
    assert "left out: 26 more empty; --json lists them" in said
    assert "left out: Dog/cut.jpg: truncated" in said
    done = CliRunner().invoke(cli.main, ["data", "audit", str(messy), *files, "--json"])
    found = json.loads(done.stdout)
    assert len(found["files_left_out"]) == 34
    assert found["labels"]["classes"] == {"Cat": 83, "Dog": 54}
    assert found["left_out"] == {"empty": 31, "not an image": 2, "truncated": 1}


def test_audit_as_json_has_the_readings_and_the_splits_found(
    photo_folder: Path, tmp_path: Path
) -> None:
    for number, photo in enumerate(sorted(photo_folder.rglob("*.ppm"))):
        folder = photo_folder / ("train", "valid")[number % 2] / photo.parent.name / "more"
        folder.mkdir(parents=True, exist_ok=True)
        photo.rename(folder / f"{('tom', 'kit')[number >= 50]}{number}.ppm")
    arguments = ["data", "audit", str(photo_folder), "--picture", str(tmp_path / "a.png")]
    found = json.loads(CliRunner().invoke(cli.main, [*arguments, "--json"]).stdout)
    labels = found["labels"]
    assert (labels["by"], labels["taken"]) == ("folders", {"Cat": 50, "Dog": 50})
    assert {"by": "names", "classes": {"kit": 50, "tom": 50}} in labels["other_readings"]
    assert found["splits_found"] == {"train": 50, "valid": 50}


@pytest.mark.parametrize("as_json", [False, True])
def test_audit_tells_what_it_found_where_nothing_can_be_written(
    messy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, as_json: bool
) -> None:
    def denied(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(audit.Image.Image, "save", denied)
    more = ["--json"] if as_json else []
    done = CliRunner().invoke(cli.main, ["data", "audit", str(messy), *more])
    assert done.exit_code == 0, done.output
    assert "104" in done.stdout
    assert "no picture was drawn: --picture audit.png: Permission denied" in done.stderr
    asked = ["data", "audit", str(messy), *more, "--picture", str(tmp_path / "x.png")]
    done = CliRunner().invoke(cli.main, asked)
    assert done.exit_code == 2
    assert "104" in done.stdout
    assert "x.png: Permission denied" in done.stderr


def test_second_audit_takes_its_own_picture_for_no_class(
    messy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(messy)
    for _ in range(2):
        done = CliRunner().invoke(cli.main, ["data", "audit", "."])
        assert done.exit_code == 0, done.output
    assert "passed over: pictures drawn by catdog-search 1" in done.output


def test_page_of_the_audit_holds_all_it_shows(messy: Path, tmp_path: Path) -> None:
    page = tmp_path / "audit.html"
    files = ["--picture", str(tmp_path / "a.png"), "--html", str(page)]
    done = CliRunner().invoke(cli.main, ["data", "audit", str(messy), *files])
    assert done.exit_code == 0, done.output
    text = page.read_text(encoding="utf-8")
    assert text.count('<img alt="" src="data:image/png;base64,') == text.count("<img")
    for said in ("train: Cat", "val: Dog", "Noticed: grey", "104 of 108", "Dog/cut.jpg: truncated"):
        assert said in text
    assert text.count('<figure class="framed">') == 3  # the photos under both labels
    assert "http" not in text
