"""Labels from paths alone: what separates photos into two classes, and what is refused."""

from __future__ import annotations

import re
import time

import pytest

from catdog_search import text
from catdog_search.data.labels import Choice, Labelling, label
from catdog_search.data.layout import organises, split_named
from catdog_search.data.readings import prefix_of
from catdog_search.errors import DataError


def paths(*patterns: str, n: int = 6) -> list[str]:
    """Numbered files of each pattern; a pattern without {} is one file."""
    return sorted(p.format(i) for p in patterns for i in range(n if "{}" in p else 1))


def by_class(found: Labelling) -> dict[str, set[str]]:
    """What stands before the number, by the class that it was given."""
    shown: dict[str, set[str]] = {name: set() for name in found.class_names}
    for path, index in found.labels.items():
        shown[found.class_names[index]].add(re.sub(r"\.?\d*\.jpg$", "", path))
    return shown


TREES = {
    "folders": (["Cat/{}.jpg", "Dog/{}.jpg"], {"Cat": {"Cat/"}, "Dog": {"Dog/"}}),
    "below a folder of any name": (
        ["pets of mine/Cat/{}.jpg", "pets of mine/Dog/{}.jpg"],
        {"Cat": {"pets of mine/Cat/"}, "Dog": {"pets of mine/Dog/"}},
    ),
    "names": (["cat.{}.jpg", "dog.{}.jpg"], {"cat": {"cat"}, "dog": {"dog"}}),
    "Kaggle as it comes": (
        ["train/cat.{}.jpg", "train/dog.{}.jpg", "test1/{}.jpg"],
        {"cat": {"train/cat"}, "dog": {"train/dog"}},
    ),
    "names in two splits": (
        ["train/cat.{}.jpg", "train/dog.{}.jpg", "valid/cat.9{}.jpg", "valid/dog.9{}.jpg"],
        {"cat": {"train/cat", "valid/cat"}, "dog": {"train/dog", "valid/dog"}},
    ),
    "folders in three splits": (
        ["train/a/{}.jpg", "val/a/{}.jpg", "test/b/{}.jpg", "train/b/{}.jpg"],
        {"a": {"train/a/", "val/a/"}, "b": {"train/b/", "test/b/"}},
    ),
    "splits below classes": (
        ["a/train/{}.jpg", "a/val/{}.jpg", "b/train/{}.jpg", "b/test/{}.jpg"],
        {"a": {"a/train/", "a/val/"}, "b": {"b/train/", "b/test/"}},
    ),
    "twice the split": (
        ["training_set/training_set/a/{}.jpg", "test_set/test_set/b/{}.jpg"],
        {"a": {"training_set/training_set/a/"}, "b": {"test_set/test_set/b/"}},
    ),
    "folders below classes": (
        ["cats/persian/{}.jpg", "cats/siamese/{}.jpg", "dogs/beagle/{}.jpg", "dogs/pug/{}.jpg"],
        {"cats": {"cats/persian/", "cats/siamese/"}, "dogs": {"dogs/beagle/", "dogs/pug/"}},
    ),
    "one folder below each class": (
        ["cats/persian/{}.jpg", "dogs/beagle/{}.jpg"],
        {"cats": {"cats/persian/"}, "dogs": {"dogs/beagle/"}},
    ),
    "a folder below one class": (
        ["cats/{}.jpg", "cats/more/{}.jpg", "dogs/{}.jpg"],
        {"cats": {"cats/", "cats/more/"}, "dogs": {"dogs/"}},
    ),
    "classes at different depths": (
        ["cats/{}.jpg", "more/cats/{}.jpg", "more/dogs/{}.jpg"],
        {"cats": {"cats/", "more/cats/"}, "dogs": {"more/dogs/"}},
    ),
    "containers": (
        ["cats/images/{}.jpg", "dogs/raw/JPEGImages/{}.jpg"],
        {"cats": {"cats/images/"}, "dogs": {"dogs/raw/JPEGImages/"}},
    ),
    "folders of a camera and of days": (
        ["DCIM/100CANON/a_{}.jpg", "DCIM/101CANON/b_{}.jpg", "2024-05-01/a_{}.jpg"],
        {"a": {"DCIM/100CANON/a_", "2024-05-01/a_"}, "b": {"DCIM/101CANON/b_"}},
    ),
    "names and folders that say the same": (
        ["cats/cat.{}.jpg", "dogs/dog.{}.jpg"],
        {"cats": {"cats/cat"}, "dogs": {"dogs/dog"}},
    ),
    "what cameras write before a number": (
        ["cats/IMG_{}.jpg", "cats/DSC_{}.jpg", "dogs/IMG_{}.jpg", "dogs/DSC_{}.jpg"],
        {"cats": {"cats/IMG_", "cats/DSC_"}, "dogs": {"dogs/IMG_", "dogs/DSC_"}},
    ),
    "more prefixes than classes": (
        ["cats/tom{}.jpg", "cats/kit{}.jpg", "dogs/rex{}.jpg", "dogs/tom9{}.jpg"],
        {"cats": {"cats/tom", "cats/kit"}, "dogs": {"dogs/rex", "dogs/tom"}},
    ),
    "a photo that lies outside": (
        ["cats/{}.jpg", "dogs/{}.jpg", "cover.jpg"],
        {"cats": {"cats/"}, "dogs": {"dogs/"}},
    ),
    "one more folder around some names": (
        ["cat.{}.jpg", "dog.{}.jpg", "more/cat.9{}.jpg", "more/dog.9{}.jpg"],
        {"cat": {"cat", "more/cat"}, "dog": {"dog", "more/dog"}},
    ),
    "case and composed letters": (
        ["Bébé/{}.jpg", "y/be\u0301be\u0301/{}.jpg", "Chien/{}.jpg", "y/CHIEN/{}.jpg"],
        {"Bébé": {"Bébé/", "y/be\u0301be\u0301/"}, "CHIEN": {"Chien/", "y/CHIEN/"}},
    ),
    "backslashes, drives and roots": (
        ["C:\\x\\cats\\{}.jpg", "/x/dogs/{}.jpg", "../x/dogs/{}.jpg"],
        {"cats": {"C:\\x\\cats\\"}, "dogs": {"/x/dogs/", "../x/dogs/"}},
    ),
}  # fmt: skip


@pytest.mark.parametrize(("patterns", "expected"), TREES.values(), ids=TREES)
def test_label_takes_what_separates_into_two(
    patterns: list[str], expected: dict[str, set[str]]
) -> None:
    found = label(paths(*patterns), "here")
    assert by_class(found) == expected
    assert set(found.labels) | {key for key, _ in found.left_out} == set(paths(*patterns))


@pytest.mark.parametrize(
    ("patterns", "left_out"),
    [
        (["train/cat.{}.jpg", "train/dog.{}.jpg", "test1/{}.jpg"], 6),
        (["train/cats/{}.jpg", "train/dogs/{}.jpg", "test/{}.jpg", "cover.jpg"], 7),
        (["cat.{}.jpg", "dog.{}.jpg", "IMG_{}.jpg", "me.jpg"], 7),
    ],
)
def test_label_leaves_out_and_says_what_is_of_no_class(patterns: list[str], left_out: int) -> None:
    found = label(paths(*patterns), "here")
    assert len(found.left_out) == left_out
    assert all(reason.startswith("unlabelled: ") for _, reason in found.left_out)


SEVERAL = {
    "a name in the wrong folder": (["cats/cat.{}.jpg", "cats/dog.7.jpg", "dogs/dog.{}.jpg"],
        ["by folders: cats 7, dogs 6", "by names: cat 6, dog 7", "cats/dog.7.jpg", "--labels"]),
    "one such name among numbers": (["cats/{}.jpg", "cats/dog.7.jpg", "dogs/{}.jpg"],
        ["cats/dog.7.jpg", "by folders: cats 7, dogs 6", "--labels"]),
    "such a name without a number": (["cats/{}.jpg", "cats/Dog.jpg", "dogs/{}.jpg"],
        ["cats/Dog.jpg", "--labels"]),
    "names that say the opposite": (["cats/dog{}.jpg", "dogs/cat{}.jpg"],
        ["by folders: cats 6, dogs 6", "of 12 the name says another class"]),
    "names in one folder that says a class": (["cats/dog{}.jpg", "cats/cat{}.jpg"],
        ["by names: cat 6, dog 6", "of 6 the name says another class", "cats/dog0.jpg"]),
    "two levels": (["a/cats/{}.jpg", "a/dogs/{}.jpg", "b/cats/{}.jpg", "b/dogs/{}.jpg"],
        ["by folders: a 12, b 12", "by folders: cats 12, dogs 12", "--classes cats,dogs"]),
    "two classes below more folders": (
        ["a/in/{}.jpg", "a/out/{}.jpg", "b/in/{}.jpg", "b/out/{}.jpg", "c/in/{}.jpg"],
        ["by folders: in 18, out 12", "by folders: a 12, b 12, c 6", "--classes in,out"]),
    "names below more folders": (
        ["a/cat{}.jpg", "a/dog{}.jpg", "b/cat{}.jpg", "c/dog{}.jpg"],
        ["by names: cat 12, dog 12", "by folders: a 12, b 6, c 6", "--labels names"]),
    "names that cross folders": (
        ["cats/tom{}.jpg", "cats/kit{}.jpg", "dogs/tom9{}.jpg", "dogs/kit9{}.jpg"],
        ["by folders: cats 12, dogs 12", "by names: kit 12, tom 12"]),
    "folders of few, names of many": (
        ["a/1.jpg", "b/2.jpg", "cat{}.jpg", "dog{}.jpg"],
        ["by folders: a 1, b 1", "by names: cat 6, dog 6"]),
    "one class in the other": (["cats/{}.jpg", "dogs/{}.jpg", "cats/dogs/{}.jpg"],
        ["lie in the other", "cats 12, dogs 6", "cats 6, dogs 12"]),
}  # fmt: skip


@pytest.mark.parametrize(("patterns", "says"), SEVERAL.values(), ids=SEVERAL)
def test_label_refuses_two_readings_and_shows_them(patterns: list[str], says: list[str]) -> None:
    with pytest.raises(DataError, match=r"^here: [^\n]*$") as refused:
        label(paths(*patterns), "here")
    assert [text for text in says if text not in str(refused.value)] == []


@pytest.mark.parametrize(
    ("patterns", "says"),
    [
        (["cats/{}.jpg", "dogs/{}.jpg", "cows/{}.jpg"],
         ["3 classes, by folders: cats 6, cows 6, dogs 6", "--classes cats,cows"]),
        (["cat_{}.jpg", "dog_{}.jpg", "cow_{}.jpg"], ["3 classes, by names: cat 6, cow 6, dog 6"]),
        (["cats/{}.jpg"], ["one class alone, by folders: cats 6"]),
        (["train/{}.jpg", "test/{}.jpg"], ["no class", "(test, train)"]),
        (["{}.jpg"], ["no class", "--labels FILE.csv"]),
        (["photos/{}.jpg", "drawings/{}.jpg"], ["one class alone, by folders: drawings 6"]),
        (["trainA/{}.jpg", "trainB/{}.jpg", "testA/{}.jpg", "testB/{}.jpg"], ["4 classes"]),
    ],
)  # fmt: skip
def test_label_refuses_all_but_two_classes(patterns: list[str], says: list[str]) -> None:
    with pytest.raises(DataError, match=r"^here: [^\n]*$") as refused:
        label(paths(*patterns), "here")
    assert [text for text in says if text not in str(refused.value)] == []


@pytest.mark.parametrize(
    ("patterns", "choice", "expected"),
    [
        (["cats/cat{}.jpg", "cats/dog7.jpg", "dogs/dog{}.jpg"], Choice("folders"),
         {"cats": {"cats/cat", "cats/dog"}, "dogs": {"dogs/dog"}}),
        (["cats/cat{}.jpg", "cats/dog7.jpg", "dogs/dog{}.jpg"], Choice("names"),
         {"cat": {"cats/cat"}, "dog": {"cats/dog", "dogs/dog"}}),
        (["a/cats/{}.jpg", "a/dogs/{}.jpg", "b/cats/{}.jpg", "b/dogs/{}.jpg"],
         Choice(classes="cats,dogs"),
         {"cats": {"a/cats/", "b/cats/"}, "dogs": {"a/dogs/", "b/dogs/"}}),
        (["cats/{}.jpg", "dogs/{}.jpg"], Choice(classes="CATS=cat, dogs = dog"),
         {"cat": {"cats/"}, "dog": {"dogs/"}}),
        (["cats/{}.jpg", "dogs/{}.jpg", "cows/{}.jpg"], Choice(classes="cats,cows"),
         {"cats": {"cats/"}, "cows": {"cows/"}}),
        (["persian/{}.jpg", "siamese/{}.jpg", "pug/{}.jpg"],
         Choice(classes="persian=cat,siamese=cat,pug=dog"),
         {"cat": {"persian/", "siamese/"}, "dog": {"pug/"}}),
        (["persian_{}.jpg", "siamese_{}.jpg", "pug_{}.jpg"],
         Choice(classes="persian=cat,siamese=cat,pug=dog"),
         {"cat": {"persian_", "siamese_"}, "dog": {"pug_"}}),
        (["cats/persian/{}.jpg", "cats/tabby/{}.jpg", "dogs/{}.jpg"],
         Choice(classes="persian,tabby"),
         {"persian": {"cats/persian/"}, "tabby": {"cats/tabby/"}}),
        (["photos/{}.jpg", "drawings/{}.jpg"], Choice(classes="photos,drawings"),
         {"drawings": {"drawings/"}, "photos": {"photos/"}}),
        (["a, b/{}.jpg", "c/{}.jpg", "d/{}.jpg"], Choice(classes='"a, b=x",c'),
         {"c": {"c/"}, "x": {"a, b/"}}),
        (["b\udce9/{}.jpg", "c/{}.jpg", "d/{}.jpg"], Choice(classes="b\\xe9,c"),
         {"b\\xe9": {"b\udce9/"}, "c": {"c/"}}),
        (["cats/{}.jpg", "dogs/{}.jpg", "cats/mixed/dogs/{}.jpg"], Choice(labels="names",
         classes="x,y"), None),
    ],
)  # fmt: skip
def test_label_does_what_the_user_says(
    patterns: list[str], choice: Choice, expected: dict[str, set[str]] | None
) -> None:
    if expected is None:
        with pytest.raises(DataError, match="there is no class x, y"):
            label(paths(*patterns), "here", choice)
    else:
        assert by_class(label(paths(*patterns), "here", choice)) == expected


def test_label_counts_photos_of_other_classes() -> None:
    found = label(paths("a/{}.jpg", "b/{}.jpg", "c/{}.jpg"), "here", Choice(classes="a,b"))
    assert {reason for _, reason in found.left_out} == {"other class: c"}
    assert found.said() == "by folders: a 6, b 6, c 6; taken as a 6, b 6"


@pytest.mark.parametrize(
    ("classes", "says"),
    [
        ("cats", "two classes are wanted, and this makes cats;"),
        ("cats=x,dogs=x", "two classes are wanted, and this makes x;"),
        ("cats,dogs,cows", "and this makes cats, dogs, cows;"),
        ("cats=,dogs", "is not FOUND or FOUND=OURS"),
        ("cats,,dogs", "is not FOUND or FOUND=OURS"),
        ("cats,Cats=x", "given twice"),
        ("cats,dgos", "there is no class dgos; by folders: cats 6, dogs 6"),
        ("cats,6", "there is no class 6"),
    ],
)
def test_label_refuses_classes_that_are_not_there(classes: str, says: str) -> None:
    with pytest.raises(DataError, match="here: ") as refused:
        label(paths("cats/{}.jpg", "dogs/{}.jpg"), "here", Choice(classes=classes))
    assert says in str(refused.value)


def test_label_refuses_names_against_chosen_folders() -> None:
    tree = paths("cats/cat.{}.jpg", "cats/dog.9.jpg", "dogs/dog.{}.jpg")
    with pytest.raises(DataError, match=r"cats/dog\.9\.jpg"):
        label(tree, "here", Choice(classes="cats=cat,dogs=dog"))
    found = label(tree, "here", Choice("folders", "cats=cat,dogs=dog"))
    assert found.labels["cats/dog.9.jpg"] == 0


def test_label_says_which_folders_are_splits() -> None:
    found = label(paths("Train/a/{}.jpg", "val2/b/{}.jpg", "a/{}.jpg"), "here")
    assert found.folders == {"Train": 6, "val2": 6}
    assert {(path.split("/")[0], split) for path, split in found.splits.items()} == {
        ("Train", "train"),
        ("val2", "val"),
    }


@pytest.mark.parametrize(
    ("name", "split"),
    [
        *((n, "train") for n in ("train", "Training", "TRAIN_2", "train-v2", "训练集", "treino")),
        *((n, "val") for n in ("val", "valid", "Validation set", "dev", "eval", "val2017")),
        *((n, "test") for n in ("test", "test1", "Testing", "hold-out", "test_images", "テスト")),
        *((n, None) for n in ("images", "Photos (2)", "JPEGImages", "PetImages", "data-256x256")),
        *((n, None) for n in ("animals", "fold3", "101_PANA".replace("_", "_"), "2024", "@eaDir")),
        *((n, None) for n in (".git", "__MACOSX", "lost+found", "train_test", "imágenes")),
    ],
)
def test_organises_knows_what_is_never_a_class(name: str, split: str | None) -> None:
    assert organises(name)
    assert split_named(name) == split


@pytest.mark.parametrize(
    "name", ["cats", "0", "1", "trained", "contest", "trainA", "IMG-cats", "datura", "testa", "猫"]
)
def test_organises_takes_no_class_for_a_container(name: str) -> None:
    assert not organises(name)


@pytest.mark.parametrize(
    ("name", "prefix"),
    [
        *((n, "cat") for n in ("cat.1.jpg", "cat_001.jpg", "cat-12.png", "cat (3).jpg")),
        *((n, "cat") for n in ("cat12.jpg", "cat 7.jpeg", "cat(3).gif", "cat.1 (1).jpg")),
        *((n, "cat") for n in ("cat_2024_07.jpg", "cat.1 - Copy.jpg", "cat_1", "cat__1.jpg")),
        ("n02123045_12.JPEG", "n02123045"),
        ("great_pyrenees_12.jpg", "great_pyrenees"),
        *((n, None) for n in ("1.jpg", "2024-05-01.jpg", "cat.jpg", "IMG_1.jpg", "DSC0001.JPG")),
        *((n, None) for n in ("IMG-20240501-WA0001.jpg", "image (3).png", "train_1.jpg", "P1.jpg")),
        *((n, None) for n in ("photo_2024-05-01_12-00-00.jpg", "Screenshot 2.png", ".jpg")),
    ],
)  # fmt: skip
def test_prefix_of_is_what_stands_before_the_number(name: str, prefix: str | None) -> None:
    assert prefix_of(name) == prefix


@pytest.mark.parametrize(
    "patterns",
    [
        ["train/cat.{}.jpg", "train/dog.{}.jpg"],
        ["train/cats/{}.jpg", "val/dogs/{}.jpg"],
        ["a/p{}/1.jpg", "b/p{}/1.jpg"],
    ],
)
def test_label_is_fast_on_twenty_thousand(patterns: list[str]) -> None:
    tree = paths(*patterns, n=10_000)
    started = time.perf_counter()
    label(tree, "here")
    assert time.perf_counter() - started < 6  # a second where nobody else is at work


def test_how_many_classes_there_are_is_said_in_one_place(monkeypatch: pytest.MonkeyPatch) -> None:
    photos = [f"{name}/{n}.jpg" for name in ("cat", "cow", "dog") for n in range(3)]
    with pytest.raises(DataError, match="two classes are wanted, and this makes"):
        label(photos, "here", Choice(classes="cow,cat,dog"))
    monkeypatch.setattr(text, "N_CLASSES", 3)
    found = label(photos, "here", Choice(classes="cow,cat,dog"))
    assert found.class_names == ("cat", "cow", "dog")
    assert [found.labels[path] for path in photos] == [0, 0, 0, 1, 1, 1, 2, 2, 2]
