"""Random trees of photos whose labels are known because of how they are built.

Nothing of the product is used here: what a tree's labels are is stated while it is made, photo by
photo, and whether they can be told from the paths follows from what was chosen for it.
"""

from __future__ import annotations

import random
import unicodedata
from dataclasses import dataclass, field
from typing import Literal

Must = Literal["label", "refuse", "either"]

PAIRS = (
    *(("cat", "dog"), ("Cats", "Dogs"), ("Hund", "Katze"), ("猫", "犬"), ("bébé", "chien")),
    *(("0", "1"), ("hot dog", "not hot dog"), ("ok", "defect"), ("with_mask", "without_mask")),
    *(("NORMAL", "PNEUMONIA"), ("a", "b"), ("n02123045", "n02110958"), ("muffin", "chihuahua")),
)
THIRDS = ("cow", "bird", "fox")
SPLITS = (
    *("train", "Training", "train_set", "TRAIN2", "val", "valid", "Validation", "validation_set"),
    *("test", "test1", "Testing", "dev", "eval", "holdout", "val2017", "test_images"),
)
CONTAINERS = ("images", "img", "Photos", "data", "dataset", "raw", "JPEGImages", "PetImages")
AROUND = ("pets", "my pictures of 2019", "dogs-vs-cats", "download (1)", "x", "archive")
BELOW = (
    "more",
    "extra",
    "2019-05",
    "images",
    "persian",
    "siamese",
    "beagle",
    "pug",
    "indoor",
    "b1",
)
TOOLS = ("__MACOSX", "@eaDir", ".ipynb_checkpoints", ".git", ".thumbs", "lost+found")
SUFFIXES = (".jpg", ".JPG", ".jpeg", ".png", ".ppm")
NUMBERED = (
    *("{}.{}", "{}_{:04}", "{}-{}", "{} ({})", "{} {}", "{}{:03}", "{}.{} (1)", "{}_{} - Copy"),
)  # fmt: skip
PLAIN = ("{}", "{:06}", "IMG_{:04}", "DSC{:05}", "IMG-20240501-WA{:04}", "P10{:05}", "image ({})")
MANY = ("tom", "kit", "rex", "bob", "ann", "zoe")


@dataclass
class Tree:
    """Photos, and what their labels are.

    Attributes:
        truth: By path, the class of every photo; None for one of no class.
        must: `label` where the labels can be told and have to be; `refuse` where two ways to read
            them contradict each other, or there are not two classes; `either` where both is fine.
        junk: Paths of files that are no photos, or that tools have made.
        why: What was chosen.
    """

    truth: dict[str, str | None] = field(default_factory=dict)
    must: Must = "label"
    junk: list[str] = field(default_factory=list)
    why: list[str] = field(default_factory=list)

    @property
    def paths(self) -> list[str]:
        return sorted(self.truth)


class _Builder:
    def __init__(self, seed: int, photos: int) -> None:
        self.rng = random.Random(seed)
        self.tree = Tree()
        self.photos = photos
        self.classes = list(self.rng.choice(PAIRS))
        self.number = self.rng.randrange(1000)
        self.around = self._around()
        self.splits = self._splits()
        self.splits_below = self.rng.random() < 0.25
        self.suffix = self.rng.choice(SUFFIXES)
        self.strewn = self.rng.random() < 0.2
        self.wrapped = self.rng.random() < 0.15

    def _around(self) -> str:
        """What all photos lie in."""
        names = [
            self.rng.choice((*CONTAINERS, *AROUND)) for _ in range(self.rng.choice((0, 0, 1, 2)))
        ]
        return "".join(f"{name}/" for name in names)

    def _splits(self) -> list[str]:
        if self.rng.random() < 0.4:
            return [""]
        chosen = self.rng.sample(SPLITS, self.rng.choice((1, 2, 3)))
        twice = self.rng.random() < 0.2  # training_set/training_set/
        return [f"{name}/{name}/" if twice else f"{name}/" for name in chosen]

    def spelled(self, name: str) -> str:
        """As people write the same name."""
        how = self.rng.random()
        if how < 0.05:
            return name.upper() if name.isascii() else name
        if how < 0.1:
            return unicodedata.normalize("NFD", name)
        return name

    def file(self, pattern: str, name: str = "") -> str:
        self.number += 1
        values = (name, self.number) if name else (self.number,)
        return pattern.format(*values) + self.suffix

    def put(self, folder: str, file: str, label: str | None) -> None:
        self.tree.truth[f"{self.around}{folder}{file}"] = label

    # Folders.

    def folders(self) -> None:
        """Each class in a folder of its own, whatever the files are called."""
        pattern = self.rng.choice(PLAIN)
        names = self.rng.choice(("plain", "plain", "same", "many"))
        below = {c: self._below(c) for c in self.classes}
        for label in self.classes:
            for n in range(self.photos):
                folder = self._class_folder(label, self.rng.choice(below[label]))
                self.put(folder, self._name(names, pattern, label, n), label)
        self.tree.why.append(f"folders, names {names}, below {below}")
        # The same two names below both classes are another way to read all of it.
        shared = [set(names) - {""} for names in below.values()]
        if len(below) == 2 and shared[0] & shared[1]:
            self.tree.must = "either"

    def _below(self, label: str) -> list[str]:
        how = self.rng.random()
        if how < 0.5:
            return [""]
        own = self.rng.sample([b for b in BELOW if b != label], self.rng.choice((1, 2)))
        return [*([""] if how < 0.75 else []), *(f"{name}/" for name in own)]

    def _class_folder(self, label: str, below: str) -> str:
        split = self.rng.choice(self.splits)
        name = f"{self.spelled(label)}/"
        parts = [name, split, below] if self.splits_below else [split, name, below]
        if self.strewn:  # containers here and there
            parts.insert(self.rng.randrange(3), f"{self.rng.choice(CONTAINERS)}/")
        if self.wrapped and self.rng.random() < 0.3:  # as when somebody has added some later
            parts.insert(0, "added later/")
        return "".join(parts)

    def _name(self, names: str, pattern: str, label: str, n: int) -> str:
        if names == "same":
            return self.file("{}_{}", label)
        if names == "many":
            return self.file("{}{}", MANY[n % len(MANY)])
        return self.file(pattern)

    # Names.

    def names(self) -> None:
        """All classes in the same folders, told by what stands before the number."""
        pattern = self.rng.choice(NUMBERED)
        if any(c[-1].isdigit() for c in self.classes) and not pattern.startswith(("{}.", "{}_")):
            pattern = "{}.{}"
        for label in self.classes:
            for _ in range(self.photos):
                self.put(
                    self.rng.choice(self.splits), self.file(pattern, self.spelled(label)), label
                )
        if self.classes[0] in ("0", "a"):  # numbers are no names; one letter may be anybody's
            self.tree.must = "either"
        self.tree.why.append(f"names {pattern}")

    # What makes it harder.

    def unlabelled(self) -> None:
        """Photos of no class, where somebody keeps those that are to be told."""
        folder = self.rng.choice(("test1/", "test/", "unlabelled/", ""))
        pattern = self.rng.choice(PLAIN)
        for _ in range(self.rng.randrange(1, self.photos)):
            self.put(folder, self.file(pattern), None)
        self.tree.why.append(f"unlabelled in {folder!r}")

    def disagreement(self) -> None:
        """Photos of one class's folder whose names say the other."""
        one, other = self.classes
        pattern = self.rng.choice(NUMBERED[:6]) if not other[-1].isdigit() else "{}.{}"
        for label in self.classes:
            for _ in range(self.photos):
                self.put(self._class_folder(label, ""), self.file("{}.{}", label), label)
        numbers = other.isdigit()  # which say nothing
        for _ in range(self.rng.choice((1, 2, self.photos // 3))):
            folder = self._class_folder(one, "")
            self.put(folder, self.file(pattern, other), one if numbers else None)
        self.tree.must = "label" if numbers else "refuse"
        self.tree.why.append("a name in the other's folder")

    def two_levels(self) -> None:
        """Every class of one level below every class of another."""
        outer = self.rng.choice((("site A", "site B"), ("indoor", "outdoor"), ("alice", "bob")))
        for place in outer:
            for label in self.classes:
                for _ in range(self.photos // 2):
                    self.put(f"{place}/{label}/", self.file("{}"), None)
        self.tree.must = "refuse"
        self.tree.why.append("two levels")

    def third(self) -> None:
        """A third class, told as the others are."""
        self.classes.append(self.rng.choice(THIRDS))
        self.folders() if self.rng.random() < 0.5 else self.names()
        self.tree.must = "refuse"
        self.tree.why.append("a third class")

    def one(self) -> None:
        """One class alone."""
        self.classes.pop()
        if self.rng.random() < 0.5:
            self.names()
        else:
            for _ in range(self.photos):
                self.put(self._class_folder(*self.classes, ""), self.file("{}"), None)
        self.tree.must = "refuse"
        self.tree.why.append("one class")

    def nothing(self) -> None:
        """Nothing tells what is in a photo."""
        for _ in range(2 * self.photos):
            self.put(self.rng.choice(self.splits), self.file(self.rng.choice(PLAIN)), None)
        self.tree.must = "refuse"
        self.tree.why.append("no class")

    def scattered(self) -> None:
        """Names that tell, in folders of which nobody knows what they are."""
        places = self.rng.sample(("alice", "bob", "q1", "q2", "left", "right", "z/y"), 3)
        for label in self.classes:
            for _ in range(self.photos):
                self.put(f"{self.rng.choice(places)}/", self.file("{}.{}", label), label)
        self.tree.must = "either"
        self.tree.why.append("scattered")

    def junk(self) -> None:
        """Files beside photos that are none, and copies that tools have made."""
        folders = sorted({path.rpartition("/")[0] for path in self.tree.truth})
        for _ in range(self.rng.randrange(6)):
            folder = self.rng.choice(folders)
            name = self.rng.choice(("Thumbs.db", "notes.txt", ".DS_Store", "labels.json", "a.mp4"))
            self.tree.junk.append(f"{folder}/{name}".lstrip("/"))
        if self.rng.random() < 0.3:
            folder, tool = self.rng.choice(folders), self.rng.choice(TOOLS)
            file = self.rng.choice(self.tree.paths).rpartition("/")[2]
            self.tree.junk.append(f"{folder}/{tool}/{file}".lstrip("/"))


def make(seed: int, photos: int = 12) -> Tree:
    """A random tree; the same for the same seed.

    Args:
        seed: Any.
        photos: Of each class, about.
    """
    builder = _Builder(seed, photos)
    rng = builder.rng
    hard = (
        *(builder.disagreement, builder.two_levels, builder.third, builder.one),
        *(builder.nothing, builder.scattered),
    )
    if rng.random() < 0.6:
        builder.folders() if rng.random() < 0.6 else builder.names()
        if rng.random() < 0.35:
            builder.unlabelled()
    else:
        rng.choice(hard)()
    builder.junk()
    return builder.tree
