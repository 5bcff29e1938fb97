"""Labels from a CSV file, whatever program wrote it: matched, or listed on either side."""

from __future__ import annotations

from pathlib import Path

import pytest

from catdog_search.data import label_file
from catdog_search.data.labels import Choice
from catdog_search.data.sources import FolderSource
from catdog_search.errors import DataError

PATHS = ["train/1.jpg", "train/2.jpg", "test/1.png", "train/beagle 7.jpg"]


def matched(tmp_path: Path, text: str | bytes, paths: list[str] = PATHS) -> label_file.Matched:
    path = tmp_path / "labels.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return label_file.match(label_file.read(str(path)), paths, "labels.csv")


@pytest.mark.parametrize(
    "text",
    [
        "train/1.jpg,cat\ntrain/2.jpg,dog\n",
        "path,label\ntrain/1.jpg,cat\ntrain/2.jpg,dog\n",
        "train/1.jpg;cat\r\ntrain/2.jpg;dog\r\n",
        "file\tclass\ntrain/1.jpg\tcat\ntrain/2.jpg\tdog",
        "\ufefffile,class\ntrain/1.jpg,cat\n\n  train/2.jpg , dog \n",
        '"train/1.jpg","cat"\n"train/2.jpg","dog"\n',
        "1.jpg,cat\n2.jpg,dog",
        "./train/1.jpg,cat,\ntrain\\2.jpg,dog,",
        "/home/me/photos/train/1.jpg,cat\nC:\\photos\\train\\2.jpg,dog",
        "TRAIN/1.JPG,cat\ntrain/2.Jpg,dog",
        "train/1,cat\n2,dog",
        "id,label\n2,dog\ntrain/1.jpg,cat",
        "train/1.jpg,cat\ntrain/1.jpg,Cat\n2.jpg,dog",
    ],
)
def test_rows_are_matched_with_the_photos_that_they_name(tmp_path: Path, text: str) -> None:
    found = matched(tmp_path, text)
    assert {k: v.casefold() for k, v in found.labels.items()} == {
        "train/1.jpg": "cat",
        "train/2.jpg": "dog",
    }
    assert found.unmatched == ()


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
def test_file_is_read_in_the_encoding_that_it_has(tmp_path: Path, encoding: str) -> None:
    text = "bébé/1.jpg;bébé\nchien/1.jpg;chien\n".encode(encoding)
    assert matched(tmp_path, text, ["bébé/1.jpg", "chien/1.jpg"]).labels == {
        "bébé/1.jpg": "bébé",
        "chien/1.jpg": "chien",
    }


def test_label_with_the_other_mark_in_it_parts_no_column(tmp_path: Path) -> None:
    found = matched(tmp_path, "train/1.jpg;cat, black\ntrain/2.jpg;dog\nbeagle 7.jpg;dog")
    assert found.labels["train/1.jpg"] == "cat, black"


def test_rows_that_name_no_photo_are_listed(tmp_path: Path) -> None:
    found = matched(tmp_path, "train/1.jpg,cat\nlost.jpg,cat\ntrain/9.jpg,dog\n2.jpg,dog")
    assert len(found.labels) == 2
    assert [name for name, _ in found.unmatched] == ["lost.jpg", "train/9.jpg"]
    assert found.unmatched[0][1].endswith("line 2")


def test_first_row_that_names_no_photo_is_no_header_if_its_label_is_one(tmp_path: Path) -> None:
    found = matched(tmp_path, "lost.jpg,cat\ntrain/1.jpg,cat\n2.jpg,dog")
    assert [name for name, _ in found.unmatched] == ["lost.jpg"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("1,cat\n2.jpg,dog", "line 1: 1 is the name of 2 photos, such as train/1.jpg and test/1"),
        ("2.jpg,cat\n2.jpg,dog", "line 2: train/2.jpg is dog, but cat above"),
        ("1.jpg,cat,0.9\n2.jpg,dog,0.8", "line 1: 3 columns; two are wanted"),
        ("1.jpg\n2.jpg", "line 1: 1 columns; two are wanted"),
        ("1.jpg,cat\nx,y,z\n2.jpg,dog", "line 2: 3 columns"),
    ],
)
def test_file_that_says_no_one_thing_is_refused(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(DataError, match=r"^--labels [^\n]*$") as refused:
        matched(tmp_path, text)
    assert says in str(refused.value)


@pytest.fixture
def flat(photo_folder: Path) -> Path:
    """Drawn pictures in one folder, which says nothing of them."""
    for number, photo in enumerate(sorted(photo_folder.rglob("*.ppm"))):
        photo.rename(photo_folder / f"{number}.ppm")
    return photo_folder


def rows(*labels: str) -> str:
    return "\n".join(f"{number}.ppm,{label}" for number, label in enumerate(labels))


def test_source_takes_its_labels_from_a_file(flat: Path, tmp_path: Path) -> None:
    file = tmp_path / "labels.csv"
    file.write_text(rows("cat", "cat", "dog", "") + "\nlost.ppm,cat")
    source = FolderSource(flat, Choice(str(file)))
    assert source.labels == {"0.ppm": 0, "1.ppm": 0, "2.ppm": 1}
    kinds = [reason.split(":")[0] for _, reason in source.left_out]
    assert (kinds.count("unlabelled"), kinds.count("no such photo")) == (97, 1)
    assert "labels: by file: cat 2, dog 1" in source.notes


def test_file_of_more_labels_is_chosen_from(flat: Path, tmp_path: Path) -> None:
    file = tmp_path / "labels.csv"
    file.write_text(rows("persian", "siamese", "pug", "cow"))
    with pytest.raises(DataError, match="4 classes, by file: cow 1, persian 1, pug 1, siamese 1"):
        FolderSource(flat, Choice(str(file)))
    choice = Choice(str(file), "persian=cat,siamese=cat,pug=dog")
    assert FolderSource(flat, choice).labels == {"0.ppm": 0, "1.ppm": 0, "2.ppm": 1}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("x.jpg,cat\ny.jpg,dog", "none of its 2 rows names one of the 100 photos in "),
        ("0.ppm,cat\n1.ppm,cat", "by file: cat 2; two classes are wanted"),
        ("", "none of its 0 rows"),
        (None, "No such file or directory"),
    ],
)
def test_file_that_gives_no_two_classes_is_refused(
    flat: Path, tmp_path: Path, text: str | None, says: str
) -> None:
    if text is not None:
        (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(DataError, match=r"^[^\n]*$") as refused:
        FolderSource(flat, Choice(str(tmp_path / "labels.csv")))
    assert says in str(refused.value)
