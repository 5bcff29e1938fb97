"""`evaluate`: what a model is worth on photos, and what it has seen of them."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tiny_study import TABLE, call, register_best

from catdog_search.data.manifest import short_hash
from catdog_search.data.sources import SyntheticSource
from catdog_search.evaluation.evaluate import _which_is_which
from catdog_search.places import StateFolder
from catdog_search.search.study import views
from catdog_search.search.study.relocate import relocate
from catdog_search.tracking import vocabulary
from catdog_search.tracking.ledger import Ledger
from catdog_search.tracking.store import Store


@pytest.fixture(scope="module")
def trained(
    tmp_path_factory: pytest.TempPathFactory, drawn: SyntheticSource, empty_mlflow: Path
) -> tuple[StateFolder, Path, Path]:
    """A study with a real model, the photos that it knows, and others."""
    root = tmp_path_factory.mktemp("trained")
    known = {drawn.read(key): label for key, label in drawn.labels.items()}
    more = SyntheticSource(160)
    others = {
        content: label
        for key, label in more.labels.items()
        if (content := more.read(key)) not in known
    }
    for name, photos in (("known", known), ("others", others)):
        for number, (content, label) in enumerate(photos.items()):
            folder = root / name / ("Cat", "Dog")[label]
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{number}.ppm").write_bytes(content)
    state = StateFolder.at(str(root / "state"))
    state.create()
    shutil.copy(empty_mlflow, state.mlflow_db)
    study = root / "tiny.toml"
    table = {**TABLE, "image_size": 16, "trials": 1}
    study.write_text(_toml(table))
    call("run", "--study", str(study), "--data", str(root / "known"), "--state", str(state.root))
    register_best(state)
    return state, root / "known", root / "others"


def _toml(table: dict[str, Any]) -> str:
    """Enough of TOML for a study of numbers."""
    plain = {k: v for k, v in table.items() if not isinstance(v, dict)}
    lines = [f"{key} = {json.dumps(value)}" for key, value in plain.items()]
    lines += ["[training]", "epochs = 2", "[pruner]", 'name = "none"', "[space]"]
    lines += ["n_blocks = { low = 1, high = 2 }", "filters = 4", "dense_units = 0"]
    return "\n".join(lines)


def test_evaluate_scores_new_photos(
    trained: tuple[StateFolder, Path, Path], tmp_path: Path
) -> None:
    state, _, others = trained
    where = ["--data", str(others), "--state", str(state.root)]
    found = json.loads(call("evaluate", "catdog", *where, "--json").stdout)
    n = len(list(others.rglob("*.ppm")))
    assert found["n"] == n == sum(map(sum, found["confusion"]))
    right = found["confusion"][0][0] + found["confusion"][1][1]
    assert found["scores"]["accuracy"] == pytest.approx(right / n)
    assert set(found["scores"]) == {
        "accuracy", "balanced_accuracy", "loss", "precision", "recall", "f1", "auc",
        "calibration_error",
    }  # fmt: skip
    assert found["seen"] == {"train": 0, "calibration": 0, "val": 0, "test": 0, "new": n}
    assert found["interval"][0] < right / n < found["interval"][1]
    best = views.load_view(state, "tiny").best
    assert best is not None
    folder = tmp_path / "figures"
    said = call("evaluate", f"run:{best.run_id}", *where, "--figures", str(folder)).output
    assert f"seen before: 0 in train, 0 in val, 0 in test; new to it: {n}" in said
    assert {p.name for p in folder.iterdir()} == {"confusion_matrix.png", "most_wrong.png"}


def test_evaluate_lists_what_it_left_out_and_takes_classes_in_any_case(
    trained: tuple[StateFolder, Path, Path], tmp_path: Path
) -> None:
    state, _, others = trained
    for name in ("Cat", "Dog"):
        shutil.copytree(others / name, tmp_path / name.upper())
    (tmp_path / "CAT" / "torn.jpg").write_bytes(b"torn")
    where = ["--data", str(tmp_path), "--state", str(state.root)]
    found = json.loads(call("evaluate", "catdog", *where, "--json").stdout)
    assert found["n"] == len(list(others.rglob("*.ppm")))
    assert [key for key, _ in found["left_out"]] == ["CAT/torn.jpg"]
    said = call("evaluate", "catdog", *where).output
    assert f"left out: CAT/torn.jpg: {found['left_out'][0][1]}" in said


def test_a_repeated_promotion_changes_nothing(trained: tuple[StateFolder, Path, Path]) -> None:
    state, _, _ = trained
    again = register_best(state)
    assert (again.version, again.created, again.previous) == (1, False, None)


def test_evaluate_refuses_photos_of_test_unless_forced(
    trained: tuple[StateFolder, Path, Path],
) -> None:
    state, known, _ = trained
    where = ["--data", str(known), "--state", str(state.root)]
    refused = call("evaluate", "catdog", *where, code=1)
    assert "are of the test split, which is for promotion" in refused.output
    best = views.load_view(state, "tiny").best
    assert best is not None
    client = Store.of(state).client()
    assert "test_looked_at" not in client.get_run(best.run_id).data.tags
    found = json.loads(call("evaluate", "catdog", *where, "--force", "--json").stdout)
    manifest = {k: sum(v.values()) for k, v in _counts(known).items()}
    assert found["seen"] == {**manifest, "calibration": 0, "new": 0}
    parts = found["by_split"]
    assert {name: part["n"] for name, part in parts.items()} == {
        name: n for name, n in found["seen"].items() if n
    }
    right = sum(part["n"] * part["accuracy"] for part in parts.values())
    assert right / found["n"] == pytest.approx(found["scores"]["accuracy"])
    tag = client.get_run(best.run_id).data.tags["test_looked_at"]
    assert tag == f"evaluate --force, {manifest['test']} photos"


def _counts(folder: Path) -> dict[str, dict[str, int]]:
    from catdog_search import places
    from catdog_search.data import packing
    from catdog_search.data.sources import open_source

    packed = packing.load(open_source(str(folder)), 16, places.cache_folder(), 10**9)
    return {str(k): v for k, v in packed.manifest.counts().items()}


def as_json(*arguments: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(call("evaluate", *arguments, "--json").stdout)
    return found


@pytest.fixture
def fresh(trained: tuple[StateFolder, Path, Path], tmp_path: Path) -> StateFolder:
    """The same state with a ledger that nobody has written to, its photos in the cache."""
    _counts(trained[1])
    state = StateFolder.at(str(tmp_path / "fresh"))
    shutil.copytree(trained[0].root, state.root)
    relocate(state)
    shutil.rmtree(state.root / "looks", ignore_errors=True)
    client = Store.of(state).client()
    if any(each.name == vocabulary.LEDGER for each in client.search_registered_models()):
        client.delete_registered_model(vocabulary.LEDGER)
    return state


def ledger(state: StateFolder) -> Ledger:
    return Ledger(state, Store.of(state))


def splits(state: StateFolder) -> dict[str, list[str]]:
    (path,) = state.artifacts.rglob("splits.json")
    found: dict[str, list[str]] = json.loads(path.read_text())
    return found


def test_evaluate_takes_a_split_from_the_cache(
    fresh: StateFolder, trained: tuple[StateFolder, Path, Path]
) -> None:
    _, known, _ = trained
    where = ["--state", str(fresh.root)]
    n = len(splits(fresh)["val"])
    found = as_json("catdog", "--split", "val", *where)
    assert (found["n"], found["seen"]["val"], found["not_found"]) == (n, n, 0)
    best = views.load_view(fresh, "tiny").best
    assert best is not None
    assert found["scores"]["accuracy"] == pytest.approx(best.value)
    assert (found["look"], found["looks"]["n"]) == (None, 0)
    assert as_json("catdog", "--split", "val", "--data", str(known), *where)["n"] == n
    said = call("evaluate", "catdog", "--split", "val", *where).output
    assert f"on {n} photos of val\n" in said
    assert "looks" not in said
    assert not (fresh.root / "looks").exists()


def test_evaluate_of_an_earlier_study_of_a_subset_says_how_many_it_took(
    fresh: StateFolder,
) -> None:
    with contextlib.closing(sqlite3.connect(fresh.mlflow_db)) as connection, connection:
        connection.execute("update params set value = '20' where key = 'subset'")
    n = len(splits(fresh)["train"])
    said = call("evaluate", "catdog", "--split", "train", "--state", str(fresh.root)).output
    assert f"{n} in train (its training took 20 photos of train; which ones isn't" in said


def test_evaluate_says_how_many_photos_of_a_split_it_did_not_find(
    fresh: StateFolder, trained: tuple[StateFolder, Path, Path], tmp_path: Path
) -> None:
    _, known, others = trained
    shutil.copytree(known, tmp_path / "some")
    train = set(splits(fresh)["train"])
    paths = [p for p in (tmp_path / "some").rglob("*.ppm") if short(p) in train]
    paths[0].unlink()
    shutil.copy(paths[1], paths[0])  # a copy is scored too, and finds nothing new
    where = ["--state", str(fresh.root), "--split", "train"]
    said = call("evaluate", "catdog", "--data", str(tmp_path / "some"), *where).output
    assert f"on {len(train)} photos of train\nnot found: 1 photo of train\n" in said
    refused = call("evaluate", "catdog", "--data", str(others), *where, code=1).output
    assert "holds no photo of the train split of model catdog" in refused


def short(path: Path) -> str:
    return short_hash(hashlib.sha256(path.read_bytes()).hexdigest())


def test_evaluate_of_test_is_recorded_first_and_a_second_look_is_forced_and_marked(
    fresh: StateFolder, trained: tuple[StateFolder, Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    test = splits(fresh)["test"]
    where = ["--split", "test", "--state", str(fresh.root)]
    with monkeypatch.context() as patch:
        patch.setattr("catdog_search.evaluation.evaluate._scored", _killed)
        call("evaluate", "catdog", *where, code=130)
    (first,) = ledger(fresh).looks(test).known
    assert (first.command, first.again) == ("evaluate catdog --split test", False)
    assert first.n == len(test)
    best = views.load_view(fresh, "tiny").best
    assert best is not None
    assert first.run_id == best.run_id
    # The same model by another name.
    refused = call("evaluate", f"run:{best.run_id}", *where, code=1).output
    assert f"was shown photos of test that are among these before ({first})" in refused
    assert len(refused.splitlines()) == 1
    assert ledger(fresh).looks(test).known == (first,)
    found = as_json("catdog", *where, "--force")
    assert (found["n"], found["seen"]["test"]) == (len(test), len(test))
    assert [each["key"] for each in found["looks"]["looks"]] == [first.key]
    assert (found["looks"]["n"], found["look"]["again"]) == (1, True)
    said = call("evaluate", "catdog", *where, "--force").output
    assert "looks: these photos have been looked at 2 times before (last: " in said
    assert ", evaluate catdog --split test --force)\n" in said
    assert "looks: this model was shown them before" in said
    tag = Store.of(fresh).client().get_run(best.run_id).data.tags["test_looked_at"]
    assert tag == f"evaluate --split test --force, {len(test)} photos"
    # All of its photos at once, forced: the look is at those of test alone.
    _, known, _ = trained
    said = call(
        "evaluate", "catdog", "--data", str(known), "--force", "--state", str(fresh.root)
    ).output
    assert (
        f"looks: {len(test)} of the photos are of test; these photos have been looked at 3" in said
    )
    last = ledger(fresh).looks(test).known[-1]
    assert (last.digest, last.n, last.again) == (first.digest, len(test), True)


def _killed(*_: Any, **__: object) -> None:
    raise KeyboardInterrupt


def test_evaluate_of_test_twice_at_once_is_one_look(fresh: StateFolder) -> None:
    command = [sys.executable, "-m", "catdog_search", "evaluate", "catdog", "--split", "test"]
    both = [
        subprocess.Popen(
            [*command, "--state", str(fresh.root)],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for _ in range(2)
    ]  # fmt: skip
    said = [process.communicate(timeout=240)[0] for process in both]
    assert sorted(process.returncode for process in both) == [0, 1], said
    assert sum("not been looked at before" in text for text in said) == 1
    assert sum("was shown photos of test that are among these" in text for text in said) == 1
    assert len(ledger(fresh).looks(splits(fresh)["test"]).known) == 1


def test_evaluate_of_photos_that_others_looked_at_is_a_look_too(
    fresh: StateFolder, trained: tuple[StateFolder, Path, Path]
) -> None:
    _, _, others = trained
    best = views.load_view(fresh, "tiny").best
    assert best is not None
    some = sorted(map(short, others.rglob("*.ppm")))[:5]
    facts = {"command": "promote", "model": "m", "model_id": "m-0", "run_id": best.run_id}
    ledger(fresh).write(**facts, hashes=some)
    where = ["--data", str(others), "--state", str(fresh.root)]
    found = as_json("catdog", *where)
    assert (found["looks"]["n"], found["look"]["n"], found["look"]["again"]) == (1, 5, False)
    refused = call("evaluate", "catdog", *where, code=1).output
    assert "--force shows them again" in refused
    assert as_json("catdog", *where, "--force")["look"]["again"]


def test_evaluate_tells_of_looks_whose_photos_nobody_knows(
    fresh: StateFolder, trained: tuple[StateFolder, Path, Path]
) -> None:
    where = ["--state", str(fresh.root)]
    call("evaluate", "catdog", "--split", "test", *where)
    for path in fresh.root.rglob("looks/*.json"):
        path.unlink()
    said = call("evaluate", "catdog", "--split", "val", *where).output
    assert "not been looked at before, as far as is known: of 1 look the photos are no" in said
    # The digest is known.
    call("evaluate", "catdog", "--split", "test", *where, code=1)


def test_evaluate_looks_at_nothing_that_cannot_be_recorded(
    fresh: StateFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    (fresh.root / "looks").write_text("in the way")
    monkeypatch.setattr("catdog_search.evaluation.evaluate._scored", _killed)
    where = ["--split", "test", "--state", str(fresh.root)]
    refused = call("evaluate", "catdog", *where, code=1).output
    assert "so none was looked at: " in refused
    assert len(refused.splitlines()) == 1
    assert ledger(fresh).looks(splits(fresh)["test"]).known == ()


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        ([], 2, "--data PATH or --split NAME: say which photos."),
        (["--split", "tset"], 2, "'tset' is not one of 'train', 'calibration', 'val', 'test'."),
        (["--split", "val", "--classes", "a=cat,b=dog"], 2, "how --data is read; give it too."),
        (["--split", "calibration"], 1, "has no photos of calibration (it has train, val, test)"),
    ],
)
def test_evaluate_refuses_a_split_that_cannot_be_taken(
    trained: tuple[StateFolder, Path, Path], arguments: list[str], code: int, says: str
) -> None:
    where = ["--state", str(trained[0].root)]
    said = call("evaluate", "catdog", *arguments, *where, code=code).output
    assert says in " ".join(said.replace("│", " ").split())


def test_evaluate_counts_calibration_and_needs_the_cache_or_the_data(
    fresh: StateFolder,
    trained: tuple[StateFolder, Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (path,) = fresh.artifacts.rglob("splits.json")
    known = splits(fresh)
    taken = known["train"][::8]
    rest = [each for each in known["train"] if each not in taken]
    path.write_text(json.dumps({**known, "train": rest, "calibration": taken}))
    where = ["--state", str(fresh.root)]
    found = as_json("catdog", "--split", "calibration", *where)
    n = len(taken)
    assert (found["n"], found["seen"]["calibration"]) == (n, n)
    said = call("evaluate", "catdog", "--split", "calibration", *where).output
    assert f"0 in train, {n} in calibration, 0 in val, 0 in test; new to it: 0" in said
    monkeypatch.setenv("CATDOG_CACHE", str(tmp_path / "none"))
    refused = call("evaluate", "catdog", "--split", "val", *where, code=1).output
    assert "doesn't hold the photos of its study (dataset digest " in refused
    assert "at 16 px; say with --data where they are" in refused
    path.unlink()
    refused = call("evaluate", "catdog", "--split", "val", *where, code=1).output
    assert "its study didn't keep which photos it had" in refused


def test_evaluate_of_photos_by_a_model_of_drawn_pictures_warns(
    fresh: StateFolder, trained: tuple[StateFolder, Path, Path]
) -> None:
    best = views.load_view(fresh, "tiny").best
    assert best is not None
    where = ["--data", str(trained[2]), "--state", str(fresh.root)]
    assert "drawn pictures" not in call("evaluate", "catdog", *where).output
    Store.of(fresh).client().set_tag(best.run_id, vocabulary.DATA_KIND, SyntheticSource.kind)
    warning = "this model learned from drawn pictures; what it says of photos means nothing"
    assert f"\nnote: {warning}\n" in call("evaluate", "catdog", *where).output
    assert as_json("catdog", *where)["warning"] == warning


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("nobody", "is not registered; registered: catdog; `catdog-search promote STUDY --state "),
        ("catdgo@champion", "did you mean 'catdog'? (registered: catdog)"),
        ("run:0123", "there is no such run"),
        ("catdog/7", "can't be loaded"),
    ],
)
def test_evaluate_says_which_model_is_missing(
    trained: tuple[StateFolder, Path, Path], model: str, words: str
) -> None:
    state, _, others = trained
    done = call("evaluate", model, "--data", str(others), "--state", str(state.root), code=1)
    assert words in done.output


@pytest.mark.parametrize("lost", ["files", "rows"])
def test_model_that_is_gone_is_told_with_what_mends_it(fresh: StateFolder, lost: str) -> None:
    best = views.load_view(fresh, "tiny").best
    assert best is not None
    if lost == "files":
        shutil.rmtree(fresh.artifacts / "tiny" / "models")
    else:
        with contextlib.closing(sqlite3.connect(fresh.mlflow_db)) as connection, connection:
            connection.execute("delete from logged_models")
    model, where = f"run:{best.run_id}", ["--state", str(fresh.root)]
    for command in (
        ["evaluate", model, "--split", "val"],
        ["predict", model, "x.jpg"],
        ["model", "export", model, "--to", str(fresh.root / "m.onnx")],
    ):
        said = call(*command, *where, code=1).output.splitlines()[-1]
        assert said.startswith(f"error: model {model}: can't be loaded: ")
        assert f"`catdog-search doctor --state {fresh.root}`" in said


def test_evaluate_knows_classes_by_name_however_they_sort(
    trained: tuple[StateFolder, Path, Path], tmp_path: Path
) -> None:
    state, _, others = trained
    for name, here in (("Cat", "cat"), ("Dog", "DOG")):
        shutil.copytree(others / name, tmp_path / here)
    where = ["--state", str(state.root), "--json"]
    usual, turned = (
        json.loads(call("evaluate", "catdog", "--data", str(root), *where).stdout)
        for root in (others, tmp_path)
    )
    assert turned["confusion"] == usual["confusion"]
    assert turned["class_names"] == ["Cat", "Dog"]


def test_evaluate_is_told_which_class_is_which(
    trained: tuple[StateFolder, Path, Path], tmp_path: Path
) -> None:
    state, _, others = trained
    for name, here in (("Cat", "kittens"), ("Dog", "a puppy"), ("Cat", "cows")):
        shutil.copytree(others / name, tmp_path / here)
    where = ["--data", str(tmp_path), "--state", str(state.root), "--json"]
    renamed = ["--classes", "kittens=cat,a puppy=DOG"]
    found = json.loads(call("evaluate", "catdog", *where, *renamed).stdout)
    assert found["n"] == len(list(others.rglob("*.ppm")))
    assert sum(found["confusion"][0]) == len(list((others / "Cat").iterdir()))
    refused = call("evaluate", "catdog", *where, "--classes", "kittens,a puppy", code=1)
    assert "say which is which: --classes " in refused.output


def test_evaluate_refuses_other_classes_and_one_alone(
    trained: tuple[StateFolder, Path, Path], tmp_path: Path
) -> None:
    state, _, others = trained
    where = ["--state", str(state.root)]
    for name, here in (("Cat", "cat"), ("Dog", "tiger")):
        shutil.copytree(others / name, tmp_path / here)
    done = call("evaluate", "catdog", "--data", str(tmp_path), *where, code=1)
    assert (
        "classes cat and tiger; the model knows Cat and Dog; say which is which: --classes "
        "cat=Cat,tiger=Dog\n" in done.output
    )
    shutil.rmtree(tmp_path / "tiger")
    (tmp_path / "dog").mkdir()
    (tmp_path / "dog" / "torn.jpg").write_bytes(b"torn")
    done = call("evaluate", "catdog", "--data", str(tmp_path), *where, code=1)
    assert "photos of one class alone can't be scored" in done.output


def test_evaluate_of_one_photo_says_what_takes_one(tmp_path: Path) -> None:
    photo = tmp_path / "my cat.ppm"
    photo.write_bytes(b"P6 1 1 255 abc")
    done = call("evaluate", "catdog", "--data", str(photo), "--state", str(tmp_path), code=1)
    assert "; give the folder it lies in, or ask `catdog-search predict` what" in done.output
    hint = f"`catdog-search predict catdog '{photo}' --state {tmp_path}`"
    assert done.output.endswith(f"photos without labels: {hint}\n")
    done = call("evaluate", "catdog", "--data", str(tmp_path), "--state", str(tmp_path), code=1)
    assert "of 1 photo; two are wanted" in done.output
    assert f"`catdog-search predict catdog {tmp_path} --state {tmp_path}`" in done.output


@pytest.mark.parametrize(
    ("found", "options"),
    [
        (("cats", "dogs"), "--classes cats=cat,dogs=dog"),
        (("dogs", "the cats"), "--classes 'the cats=cat,dogs=dog'"),
        (("a", "b"), "--classes a=cat,b=dog or --classes b=cat,a=dog"),
    ],
)
def test_which_class_is_which_is_offered_to_be_pasted(found: tuple[str, str], options: str) -> None:
    assert _which_is_which(found, ("cat", "dog")) == options
