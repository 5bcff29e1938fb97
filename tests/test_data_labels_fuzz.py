"""Random trees against what their labels are known to be: never a wrong one without a word.

`python tests/test_data_labels_fuzz.py --trees 5000 --commands 200` runs more of them.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import zipfile
from collections import Counter
from pathlib import Path
from typing import Literal

import pytest
from label_trees import Tree, make

from catdog_search.data.labels import label
from catdog_search.data.sources import SyntheticSource, open_source
from catdog_search.errors import DataError

Outcome = Literal["labelled", "refused"]
SEEDS = 300
ON_DISK = 40


def check(tree: Tree, class_names: tuple[str, ...], labels: dict[str, int]) -> None:
    """Every label is that of the photo's class, and no photo of no class has one."""
    pairs = {(tree.truth[path], index) for path, index in labels.items()}
    assert tree.must != "refuse", (tree.why, class_names)
    assert None not in {truth for truth, _ in pairs}, (tree.why, class_names)
    assert len(pairs) == 2 == len({t for t, _ in pairs}) == len({i for _, i in pairs}), tree.why
    if tree.must == "label":
        labelled = {path for path, truth in tree.truth.items() if truth is not None}
        assert set(labels) == labelled, (tree.why, class_names)


def check_refusal(tree: Tree, error: DataError) -> None:
    """A refusal is one line, and there is reason for it."""
    assert "\n" not in str(error)
    assert tree.must != "label", (tree.why, str(error))


def in_process(seed: int) -> Outcome:
    tree = make(seed)
    try:
        found = label(tree.paths, "here")
    except DataError as error:
        check_refusal(tree, error)
        return "refused"
    check(tree, found.class_names, found.labels)
    assert {*found.labels, *dict(found.left_out)} == set(tree.truth)
    return "labelled"


@pytest.mark.parametrize("start", range(0, SEEDS, 50))
def test_labels_are_never_wrong_without_a_word(start: int) -> None:
    outcomes = Counter(in_process(seed) for seed in range(start, start + 50))
    assert min(outcomes["labelled"], outcomes["refused"]) >= 5


def lay_out(tree: Tree, root: Path, seed: int, contents: list[bytes]) -> Path:
    """The tree as a folder, with links, or as a zip; how, the seed says."""
    rng = random.Random(seed)
    files = dict(zip(tree.paths, contents, strict=False))
    files.update(dict.fromkeys(tree.junk, b"junk"))
    if rng.random() < 0.3:
        return _zipped(files, root / "photos.zip", rng)
    folder = root / "photos"
    for path, content in files.items():
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    inner = sorted({(folder / path).parent for path in tree.paths} - {folder})
    if inner and rng.random() < 0.3:  # a folder that a link leads to
        moved = rng.choice(inner)
        moved.rename(root / "elsewhere")
        moved.symlink_to(root / "elsewhere")
    if rng.random() < 0.2:
        (folder / rng.choice(("loop", "again"))).symlink_to(rng.choice((".", "..", "nowhere")))
    return folder


def _zipped(files: dict[str, bytes], path: Path, rng: random.Random) -> Path:
    around, mark = rng.choice(("", "photos/")), rng.choice("//\\")
    method = rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
    with zipfile.ZipFile(path, "w", method) as file:
        for name, content in files.items():
            file.writestr(f"{around}{name}".replace("/", mark), content)
    return path


def on_disk(seed: int, root: Path) -> Outcome:
    tree = make(seed)
    place = lay_out(tree, root, seed, [b"\xff\xd8\xff photo"] * len(tree.truth))
    try:
        source = open_source(str(place))
    except DataError as error:
        check_refusal(tree, error)
        return "refused"
    around = "photos/" if all(key.startswith("photos/") for key in source.labels) else ""
    labels = {key.removeprefix(around): index for key, index in source.labels.items()}
    check(tree, source.class_names, labels)
    return "labelled"


@pytest.mark.parametrize("seed", range(10_000, 10_000 + ON_DISK))
def test_labels_on_disk_are_never_wrong_without_a_word(seed: int, tmp_path: Path) -> None:
    on_disk(seed, tmp_path)


def by_command(seed: int, root: Path, contents: list[bytes]) -> Outcome:
    """The same through the command line, with photos that decode."""
    tree = make(seed, photos=70)
    place = lay_out(tree, root, seed, contents)
    command = [sys.executable, "-m", "catdog_search", "data", "audit", str(place), "--json"]
    done = subprocess.run(
        [*command, "--picture", str(root / "audit.png")],
        capture_output=True,
        check=False,
        text=True,
        env={**os.environ, "CATDOG_CACHE": str(root / "cache")},
    )
    assert "Traceback" not in done.stderr, done.stderr
    assert "bug:" not in done.stderr, done.stderr
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if not line.startswith("packing")]
        assert done.returncode == 1, done.stderr
        assert len(lines) == 1, lines
        assert lines[0].startswith("error: "), lines
        check_refusal(tree, DataError(lines[0]))
        return "refused"
    found = json.loads(done.stdout)
    truth = Counter(truth for truth in tree.truth.values() if truth is not None)
    assert tree.must != "refuse", (tree.why, found["labels"])
    assert sorted(found["labels"]["taken"].values()) == sorted(truth.values()), tree.why
    assert found["usable"] == sum(truth.values()), (tree.why, found["left_out"])
    return "labelled"


def main() -> None:
    """Run as many as are asked for, and say what came of them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--trees", type=int, default=5000)
    parser.add_argument("--commands", type=int, default=200)
    parser.add_argument("--first", type=int, default=0)
    asked = parser.parse_args()
    seeds = range(asked.first, asked.first + asked.trees)
    print("in process:", dict(Counter(map(in_process, seeds))))
    drawn = SyntheticSource(500)
    contents = [drawn.read(key) for key in drawn.labels]
    outcomes: Counter[Outcome] = Counter()
    for seed in range(asked.first, asked.first + asked.commands):
        with tempfile.TemporaryDirectory() as folder:
            outcomes[by_command(seed, Path(folder), contents)] += 1
    print("by command:", dict(outcomes))


if __name__ == "__main__":
    main()
