"""The study that is to be promoted, found by its file or by what its own run keeps of it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_study import SPACE_FILE, call, run

from catdog_search.data import packing
from catdog_search.data.dataset import Dataset
from catdog_search.data.sources import FolderSource
from catdog_search.errors import StateError, StudyFileError
from catdog_search.families.weights import origin_of
from catdog_search.places import StateFolder
from catdog_search.promotion.recorded import config_of, prepare_as_it_was
from catdog_search.search.prepare import Prepared, Request
from catdog_search.search.study import schema
from catdog_search.search.study.storage import load_study
from catdog_search.search.study.views import load_view
from catdog_search.tracking.store import Store

# As `tiny_study.TABLE` has it.
STUDY = (
    """
name = "tiny"
purpose = "A study for tests."
image_size = 8
metric = "val_accuracy"
direction = "maximize"
trials = 3
seed = 5
data = { source = "synthetic", synthetic_n = 100 }
training = { epochs = 3 }
sampler = { n_startup_trials = 2 }
pruner = { name = "none" }

[promotion]
finalists = 2
calibration_photos = 10

"""
    + SPACE_FILE
)


@pytest.fixture
def made(state: StateFolder, pictures: Dataset) -> StateFolder:
    """A study of one trial, whose run keeps its file."""
    run(state, pictures, 1, study_file=STUDY)
    return state


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Writes a study file where a study of its name is looked for."""
    monkeypatch.chdir(tmp_path)

    def write(text: str) -> Path:
        (tmp_path / "studies").mkdir(exist_ok=True)
        path = tmp_path / "studies" / "tiny.toml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def kept_file(state: StateFolder) -> Path:
    (found,) = state.artifacts.rglob("tiny.toml")
    return found


def test_file_of_the_studys_name_counts_while_it_is_the_studys(
    made: StateFolder, here: Callable[[str], Path]
) -> None:
    here(STUDY.replace("finalists = 2", "finalists = 7").replace("trials = 3", "trials = 9"))
    said: list[str] = []
    config = config_of(made, "tiny", said.append)
    assert (config.promotion.finalists, config.trials, said) == (7, 9, [])


@pytest.mark.parametrize(
    ("old", "new"),
    [("high = 0.5", "high = 0.4"), ("seed = 5", "seed = 6"), ('name = "tiny"', 'name = "other"')],
)
def test_file_that_is_not_the_studys_any_more_gives_way_to_its_runs_copy(
    made: StateFolder, here: Callable[[str], Path], old: str, new: str
) -> None:
    path = here(STUDY.replace(old, new).replace("finalists = 2", "finalists = 7"))
    said: list[str] = []
    config = config_of(made, "tiny", said.append)
    assert (config.name, config.promotion.finalists) == ("tiny", 2)
    (line,) = said
    assert "otherwise than study tiny was made with; its own run's copy is taken" in line
    assert Path(line.split(" says ")[0]).resolve() == path


def test_study_without_a_file_is_what_its_run_keeps(
    made: StateFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    said: list[str] = []
    assert config_of(made, "tiny", said.append).promotion.finalists == 2
    assert said == []


def test_file_that_is_named_counts(made: StateFolder, tmp_path: Path) -> None:
    path = tmp_path / "anything.toml"
    path.write_text(STUDY.replace("finalists = 2", "finalists = 5"), encoding="utf-8")
    config = config_of(made, str(path), pytest.fail)
    assert (config.name, config.promotion.finalists) == ("tiny", 5)
    with pytest.raises(StudyFileError, match=r"nothing\.toml: no such study file"):
        config_of(made, str(tmp_path / "nothing.toml"), pytest.fail)


def lose_the_file(state: StateFolder) -> None:
    kept_file(state).unlink()


def empty_the_file(state: StateFolder) -> None:
    kept_file(state).write_bytes(b"")


def tear_the_file(state: StateFolder) -> None:
    kept_file(state).write_bytes(STUDY.encode()[:50])


def overwrite_the_file(state: StateFolder) -> None:
    kept_file(state).write_bytes(b"\xff\xfe\x00")


def forget_the_run(state: StateFolder) -> None:
    """As MLflow's garbage collection does."""
    store = Store.of(state).client()._tracking_client.store
    store._hard_delete_run(load_view(state, "tiny").parent_run_id)


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lose_the_file, "its run keeps no study file; name the file: --study FILE"),
        (empty_the_file, "its run keeps no study file; name the file: --study FILE"),
        (forget_the_run, "its run keeps no study file; name the file: --study FILE"),
        (tear_the_file, "the file that study tiny was made with: is not TOML"),
        (overwrite_the_file, "the file that study tiny was made with: is not TOML"),
    ],
)
def test_file_that_nobody_keeps_is_asked_for_in_a_line(
    made: StateFolder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    damage: Callable[[StateFolder], None],
    says: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    damage(made)
    with pytest.raises(StudyFileError) as caught:
        config_of(made, "tiny", pytest.fail)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_study_that_was_never_run_is_told(made: StateFolder) -> None:
    with pytest.raises(StateError, match=r"no study 'tinny' in .*did you mean 'tiny'"):
        config_of(made, "tinny", pytest.fail)


def prepared(state: StateFolder, data: str | None = None) -> Prepared:
    request = Request(study="tiny", state=state, data=data)
    config = config_of(state, "tiny", lambda line: None)
    return prepare_as_it_was(config, load_view(state, "tiny"), request, lambda line: None)


def test_drawn_pictures_are_drawn_again(made: StateFolder, pictures: Dataset) -> None:
    assert prepared(made).dataset.digest == pictures.digest


@pytest.fixture
def of_photos(
    state: StateFolder, photo_folder: Path, shared_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[StateFolder, Dataset]:
    """A study of photos, of which a part of train is used."""
    monkeypatch.chdir(photo_folder.parent)
    source = FolderSource(photo_folder)
    packed = packing.load(source, 8, shared_cache, 10**9, subset=30, duplicates="exact")
    text = STUDY.replace(
        'data = { source = "synthetic", synthetic_n = 100 }', 'data = { duplicates = "exact" }'
    )
    run(state, packed, 1, study_file=text, table={"data": {"duplicates": "exact"}})
    return state, packed


def test_photos_are_found_where_they_were_and_where_they_are_now(
    of_photos: tuple[StateFolder, Dataset], photo_folder: Path
) -> None:
    state, packed = of_photos
    found = prepared(state).dataset
    assert (found.digest, found.subset) == (packed.digest, 30)
    moved = photo_folder.with_name("elsewhere")
    shutil.move(photo_folder, moved)
    with pytest.raises(StateError) as caught:
        prepared(state)
    said = str(caught.value)
    assert said.startswith(f"study 'tiny': its photos were in {photo_folder}, and can't be read")
    assert said.endswith("; say where they are: --data PATH")
    assert "\n" not in said
    found = prepared(state, str(moved)).dataset
    assert (found.digest, found.subset) == (packed.digest, 30)


def test_other_photos_are_refused(
    of_photos: tuple[StateFolder, Dataset], photo_folder: Path
) -> None:
    state, _ = of_photos
    for path in sorted((photo_folder / "Cat").iterdir())[:3]:
        path.unlink()
    gone = r"photos were 100 photos of .*, now 97 photos of .*, of those used \d new and \d gone \("
    with pytest.raises(StateError, match=gone) as caught:
        prepared(state)
    assert "\n" not in str(caught.value)


def test_command_tells_what_is_missing_in_a_line(
    made: StateFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    lose_the_file(made)
    said = call("promote", "--study", "tiny", "--state", str(made.root), code=1).output
    assert said.startswith("error: study 'tiny': its run keeps no study file; ")
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize(
    ("family", "given", "kept", "expected"),
    [
        ("resnet50", None, None, None),
        ("resnet50", None, "/photos/w.weights.h5", "/photos/w.weights.h5"),
        ("resnet50", "none", "/photos/w.weights.h5", "none"),
        ("cnn", None, None, None),
    ],
)
def test_weights_are_those_that_the_study_loaded_last(
    family: str,
    given: str | None,
    kept: str | None,
    expected: str | None,
    made: StateFolder,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if kept:
        load_study(made, "tiny").set_user_attr(schema.WEIGHTS, kept)
    asked: list[Request] = []

    def stop(request: Request, say: object) -> Prepared:
        asked.append(request)
        raise StateError("stopped here")

    monkeypatch.setattr("catdog_search.promotion.recorded.prepare", stop)
    config = config_of(made, "tiny", lambda line: None).model_copy(update={"family": family})
    request = Request("tiny", made, weights=given)
    with pytest.raises(StateError, match="stopped here"):
        prepare_as_it_was(config, load_view(made, "tiny"), request, lambda line: None)
    assert asked[0].weights == expected


def test_weights_of_a_file_are_remembered_with_their_whole_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert origin_of("w.weights.h5") == str(tmp_path / "w.weights.h5")
    assert (origin_of("imagenet"), origin_of("none")) == ("imagenet", "none")
