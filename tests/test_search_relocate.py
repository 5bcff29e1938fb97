"""States that were moved or copied, on real stores: refused, relocated, the originals safe."""

from __future__ import annotations

import errno
import json
import os
import shlex
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import optuna
import pytest
import sqlalchemy as sa
from tiny_study import assert_stores_agree, call, listing, register_best, run

from catdog_search import identity
from catdog_search.data.dataset import Dataset
from catdog_search.errors import StateError, StudyLockedError
from catdog_search.places import StateFolder, file_lock
from catdog_search.search.events import EpochDone, Event, TrialEnded
from catdog_search.search.study import relocate, views
from catdog_search.search.study.storage import open_storage
from catdog_search.tracking import locations
from catdog_search.tracking.located import locate
from catdog_search.tracking.locations import Move
from catdog_search.tracking.store import Store

Moment = Callable[[pytest.MonkeyPatch], None]

KEEP_ONE = {"keep_models": 1}


@pytest.fixture
def copy(done: StateFolder, tmp_path: Path) -> StateFolder:
    """A copy that nobody has relocated."""
    shutil.copytree(done.root, tmp_path / "b")
    return StateFolder.at(str(tmp_path / "b"))


def moved(state: StateFolder, to: Path) -> StateFolder:
    to.parent.mkdir(parents=True, exist_ok=True)
    state.root.rename(to)
    return StateFolder.at(str(to))


def names_nothing_else(state: StateFolder, old: Path) -> bool:
    """Whether no row and no model's own file names the old place."""
    store = sa.URL.create("sqlite", database=str(state.mlflow_db))
    texts = [p.read_text() for p in state.artifacts.rglob("MLmodel")]
    with closing(sqlite3.connect(state.optuna_db)) as connection:
        texts += [r[0] for r in connection.execute("select value_json from study_user_attributes")]
    return not locations.left_behind(store, Move([old], state.root)) and not any(
        needle in text for text in texts for needle in (f"{old}/", f"{old.as_uri()}/")
    )


COMMANDS = (
    ["show", "--study", "tiny"],
    ["compare"],
    ["promote", "--study", "tiny"],
    ["models"],
    ["models", "catdog"],
    ["rollback", "--reason", "worse"],
    ["evaluate", "catdog"],
    ["ui", "--port", "1"],
    ["run", "--study", "quick", "--trials", "1"],
    ["doctor", "--repair"],
)


@pytest.mark.parametrize("arguments", COMMANDS, ids=lambda a: a[0])
def test_copy_is_refused_by_every_command_with_the_cure(
    copy: StateFolder, done: StateFolder, photo_folder: Path, arguments: list[str]
) -> None:
    if arguments[0] == "evaluate":
        arguments = [*arguments, "--data", str(photo_folder)]
    before, original = listing(copy.root), listing(done.root)
    said = call(*arguments, "--state", str(copy.root), code=1).output
    assert (listing(copy.root), listing(done.root)) == (before, original)
    lines = [line for line in said.splitlines() if "relocate" in line]
    assert len(lines) == 1, said
    assert f"is a copy of {done.root}" in lines[0]
    cure = lines[0].split("`")[1]
    assert cure == f"catdog-search relocate --state {copy.root}"


def test_copy_becomes_a_state_of_its_own_and_the_original_stays(
    copy: StateFolder, done: StateFolder, pictures: Dataset
) -> None:
    original = listing(done.root)
    said = json.loads(call("relocate", "--json", "--state", str(copy.root)).stdout)
    assert (said["copy"], said["from"]) == (True, [str(done.root)])
    assert (said["kept_models"], said["missing_models"]) == (2, [])
    assert names_nothing_else(copy, done.root)
    ids = [json.loads((s.root / identity.FILE).read_text())["id"] for s in (copy, done)]
    assert ids[0] != ids[1]
    where = ["--state", str(copy.root)]
    assert "Optuna and MLflow agree" in call("doctor", *where).output
    assert register_best(copy).uri == "models:/catdog@champion"
    # This drops a model and its figures.
    view = run(copy, pictures, 3, table=KEEP_ONE).view
    assert view.counts == {"COMPLETE": 3}
    assert_stores_agree(copy)
    assert "Optuna and MLflow agree" in call("doctor", *where).output
    assert listing(done.root) == original
    assert len(list(copy.artifacts.rglob("model.keras"))) < 2


def test_moved_state_is_refused_then_relocated_and_works(
    home: StateFolder, pictures: Dataset, tmp_path: Path
) -> None:
    old = home.root
    state = moved(home, tmp_path / "with space" / "50% ä'b#")
    for command in (
        ["promote", "--study", "tiny"],
        ["doctor", "--repair"],
        ["show", "--study", "x"],
    ):
        said = call(*command, "--state", str(state.root), code=1).output
        assert f"was moved here from {old}" in said
    with pytest.raises(StateError, match="was moved here"):
        run(state, pictures, 2)
    cure = shlex.split(said.split("`")[1])
    assert "moved from" in call(*cure[1:]).output
    assert names_nothing_else(state, old)
    where = ["--state", str(state.root)]
    assert "Optuna and MLflow agree" in call("doctor", *where).output
    run(state, pictures, 2, table=KEEP_ONE)
    assert register_best(state).uri == "models:/catdog@champion"
    assert len(list(state.artifacts.rglob("model.keras"))) == 1
    assert not old.exists()
    again = call("relocate", *where).output
    assert "nothing to relocate" in again


@pytest.mark.parametrize("to", ["home/in", "homestead", "x/y"])
def test_state_is_moved_below_or_beside_its_old_place_and_back(
    home: StateFolder, tmp_path: Path, to: str
) -> None:
    state = moved(moved(home, tmp_path / "aside"), tmp_path / to)
    relocate.relocate(state)
    assert all(f"{state.root}/" in found for found in model_locations(state))
    aside = moved(state, tmp_path / "aside")
    if home.root.exists():
        home.root.rmdir()
    back = moved(aside, home.root)
    relocate.relocate(back)
    assert not any(f"{state.root}/" in found for found in model_locations(back))
    assert "Optuna and MLflow agree" in call("doctor", "--state", str(back.root)).output


def model_locations(state: StateFolder) -> list[str]:
    store = sa.URL.create("sqlite", database=str(state.mlflow_db))
    return list(locations.models(store).values())


class Killed(BaseException):
    """A kill, as far as what is written tells."""


def kill(*_: Any, **__: Any) -> Any:
    raise Killed


def before_the_stores(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(locations, "rewrite", kill)


def between_the_stores(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(relocate, "change_attributes", kill)


def before_the_models(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(relocate, "_rewrite_model_file", kill)


def before_the_identity(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(relocate, "_models", kill)


def cut_off(state: StateFolder, moment: Moment) -> None:
    with pytest.MonkeyPatch.context() as patch:
        moment(patch)
        with pytest.raises(Killed):
            relocate.relocate(state)


MOMENTS = [before_the_stores, between_the_stores, before_the_models, before_the_identity]


@pytest.mark.parametrize("moment", MOMENTS)
def test_copy_whose_relocation_was_cut_off_is_refused_and_ended_by_the_next(
    copy: StateFolder, done: StateFolder, moment: Moment
) -> None:
    original = listing(done.root)
    cut_off(copy, moment)
    with pytest.raises(StateError, match="its relocation was cut off; go on with `catdog"):
        views.load_view(copy, "tiny")
    assert relocate.relocate(copy).is_copy
    assert_is_own(copy, done)
    assert listing(done.root) == original


def assert_is_own(copy: StateFolder, original: StateFolder) -> None:
    """Another id, another uid in both stores, and no word of the original."""
    assert names_nothing_else(copy, original.root)
    uid, other = (views.load_study(s, "tiny").user_attrs["study_uid"] for s in (copy, original))
    assert uid != other
    assert locate(Store.of(copy), "tiny", uid) is not None
    assert locate(Store.of(copy), "tiny", other) is None
    assert "Optuna and MLflow agree" in call("doctor", "--state", str(copy.root)).output


@pytest.mark.parametrize("moment", [between_the_stores, before_the_identity])
@pytest.mark.parametrize("again", ["moved", "copied"])
def test_half_relocated_copy_that_is_moved_or_copied_on_becomes_its_own_too(
    copy: StateFolder,
    done: StateFolder,
    tmp_path: Path,
    moment: Moment,
    again: str,
) -> None:
    cut_off(copy, moment)
    if again == "moved":
        state = moved(copy, tmp_path / "c")
    else:
        shutil.copytree(copy.root, tmp_path / "c")
        state = StateFolder.at(str(tmp_path / "c"))
    assert relocate.relocate(state).is_copy
    assert_is_own(state, done)
    assert names_nothing_else(state, copy.root)
    if again == "copied":
        relocate.relocate(copy)
        assert_is_own(copy, done)
        assert_is_own(copy, state)


@pytest.mark.parametrize("moment", [between_the_stores, before_the_identity])
def test_half_relocated_state_that_is_moved_back_is_ended_there(
    home: StateFolder, tmp_path: Path, moment: Moment
) -> None:
    first = home.root
    state_id = json.loads((first / identity.FILE).read_text())["id"]
    state = moved(home, tmp_path / "c")
    cut_off(state, moment)
    back = moved(state, first)
    assert not relocate.relocate(back).is_copy
    assert names_nothing_else(back, tmp_path / "c")
    assert json.loads((first / identity.FILE).read_text())["id"] == state_id
    assert "Optuna and MLflow agree" in call("doctor", "--state", str(first)).output


def test_state_from_before_that_was_moved_is_relocated(home: StateFolder, tmp_path: Path) -> None:
    (home.root / identity.FILE).unlink()
    state = moved(home, tmp_path / "c")
    found = relocate.relocate(state)
    assert (found.places, found.is_copy) == ((tmp_path / "home",), False)
    assert "Optuna and MLflow agree" in call("doctor", "--state", str(state.root)).output


def by_hard_links(done: StateFolder, to: Path) -> None:
    shutil.copytree(done.root, to, copy_function=os.link)


def with_a_linked_store(done: StateFolder, to: Path) -> None:
    shutil.copytree(done.root, to)
    (to / "mlflow.db").unlink()
    (to / "mlflow.db").symlink_to(done.mlflow_db)


def with_linked_artifacts(done: StateFolder, to: Path) -> None:
    shutil.copytree(done.root, to)
    shutil.rmtree(to / "artifacts")
    (to / "artifacts").symlink_to(done.artifacts)


@pytest.mark.parametrize("make", [by_hard_links, with_a_linked_store, with_linked_artifacts])
def test_copy_of_links_is_refused_and_its_cure_works(
    done: StateFolder, tmp_path: Path, make: Callable[[StateFolder, Path], None]
) -> None:
    make(done, tmp_path / "b c")
    original = listing(done.root)
    said = call("relocate", "--state", str(tmp_path / "b c"), code=1).output
    assert "is the same file as" in said
    assert listing(done.root) == original
    assert os.system(said.split("`")[1]) == 0
    relocate.relocate(StateFolder.at(str(tmp_path / "b c.own")))
    assert_is_own(StateFolder.at(str(tmp_path / "b c.own")), done)
    assert listing(done.root) == original


def test_running_study_is_not_relocated(copy: StateFolder) -> None:
    before = listing(copy.root)
    with (
        file_lock(copy.scratch("tiny") / "coordinator.lock"),
        pytest.raises(StudyLockedError, match=r"study 'tiny' .* is running; stop it"),
    ):
        relocate.relocate(copy)
    with copy.in_use(), pytest.raises(StateError, match="is used by another process"):
        relocate.relocate(copy)
    assert listing(copy.root) == {**before, "state.lock": b""}


def test_nothing_is_made_where_there_is_no_state(tmp_path: Path) -> None:
    said = call("relocate", "--state", str(tmp_path / "none"), code=1).output
    assert said.startswith(f"error: no state in {tmp_path / 'none'};")
    assert not (tmp_path / "none").exists()


def test_files_that_were_not_copied_are_said(copy: StateFolder) -> None:
    missing = next(copy.artifacts.rglob("MLmodel"))
    missing.unlink()
    said = call("relocate", "--state", str(copy.root), code=1).output
    assert "checked: 1 of 2 kept models are there" in said
    assert f"missing: the files of model {missing.parts[-3]}" in said


def test_files_that_were_left_behind_are_not_forgotten_and_their_cure_works(
    home: StateFolder, tmp_path: Path
) -> None:
    """As after a move to another disk that was cut off."""
    old = home.root
    state = moved(home, tmp_path / "c")
    left = next(state.artifacts.rglob("MLmodel")).parent
    behind = old / left.relative_to(state.root)
    behind.parent.mkdir(parents=True)
    left.rename(behind)
    assert relocate.relocate(state).missing == (behind.parent.name,)
    where = ["--state", str(state.root)]
    said = call("doctor", "--repair", *where, code=1).output
    assert f"its files are outside of this state, in {behind}" in said
    (cure,) = {part for part in said.split("`")[1::2] if part.startswith("mkdir ")}
    assert os.system(cure) == 0
    assert "Optuna and MLflow agree" in call("doctor", *where).output
    assert (left / "MLmodel").exists()


def test_what_cannot_be_written_is_one_line_and_can_be_done_again(
    copy: StateFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(identity, "write", fail)
    said = call("relocate", "--state", str(copy.root), code=1).output
    assert said == (
        f"error: state folder {copy.root}: Read-only file system; relocate it again then\n"
    )
    monkeypatch.undo()
    relocate.relocate(copy)


@pytest.mark.parametrize("when", [EpochDone, TrialEnded])
def test_state_that_is_moved_while_it_runs_is_not_made_anew(
    state: StateFolder, pictures: Dataset, tmp_path: Path, when: type[Event]
) -> None:
    def listener(event: Event) -> None:
        if isinstance(event, when) and state.root.exists():
            state.root.rename(tmp_path / "c")

    with pytest.raises(StateError, match="is gone; was it moved meanwhile"):
        run(state, pictures, 2, listener=listener)
    assert not state.root.exists()
    there = StateFolder.at(str(tmp_path / "c"))
    relocate.relocate(there)
    assert run(there, pictures, 2).view.counts == {"COMPLETE": 2}
    assert_stores_agree(there)


def test_second_path_needs_no_relocation(
    home: StateFolder, tmp_path: Path, pictures: Dataset
) -> None:
    (tmp_path / "link").symlink_to(home.root)
    state = StateFolder.at(str(tmp_path / "link"))
    run(state, pictures, 2, table=KEEP_ONE)
    where = ["--state", str(tmp_path / "link")]
    assert "nothing to relocate" in call("relocate", *where).output
    assert register_best(state).uri == "models:/catdog@champion"
    assert len(list(home.artifacts.rglob("model.keras"))) == 1


def test_moved_state_is_relocated_in_a_store_of_several_too(
    home: StateFolder,
    pictures: Dataset,
    tmp_path: Path,
    empty_mlflow: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shutil.copy(empty_mlflow, tmp_path / "shared.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'shared.db'}")
    run(home, pictures, 2, table={"name": "there"})
    state = moved(home, tmp_path / "c")
    monkeypatch.delenv("MLFLOW_TRACKING_URI")  # the study remembers it
    relocate.relocate(state)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'shared.db'}")
    assert run(state, pictures, 2, table={"name": "there"}).view.finished == 2
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize("put", [shutil.copytree, os.rename])
def test_state_that_is_tracked_on_a_server_has_an_identity_too(
    tmp_path: Path, put: Callable[[Path, Path], object]
) -> None:
    first = StateFolder.at(str(tmp_path / "a"))
    first.create()
    study = optuna.create_study(storage=open_storage(first), study_name="tiny")
    study.set_user_attr("study_uid", "1")
    study.set_user_attr("tracking_uri", "http://there:1")
    put(first.root, tmp_path / "b")
    state = StateFolder.at(str(tmp_path / "b"))
    with pytest.raises(StateError, match="catdog-search relocate"):
        views.load_view(state, "tiny")
    relocate.relocate(state)
    attrs = views.load_study(state, "tiny").user_attrs
    assert attrs["tracking_uri"] == "http://there:1"
    # A moved one goes on with its runs; a copy would take those of the original for its own.
    assert (attrs["study_uid"] == "1") == (put is os.rename)


def test_copy_on_a_server_leaves_runs_and_models_to_the_original(
    home: StateFolder, tmp_path: Path, pictures: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As on a server: the store decides where artifacts are, and both states use it.
    shared = Store(f"sqlite:///{home.mlflow_db}", None)
    shutil.copytree(home.root, tmp_path / "c")
    copy = StateFolder.at(str(tmp_path / "c"))
    (copy.root / "mlflow.db").unlink()
    relocate.relocate(copy)
    monkeypatch.setattr(Store, "of", classmethod(lambda cls, state: shared))
    before = {p: t for p, t in listing(home.root).items() if p.startswith("artifacts")}
    view = run(copy, pictures, 2, table=KEEP_ONE).view
    assert [row.kept for row in view.trials].count(True) == 1
    after = {p: t for p, t in listing(home.root).items() if p.startswith("artifacts")}
    assert {p: after.get(p) for p in before} == before
    assert view.parent_run_id != views.load_view(home, "tiny").parent_run_id


@pytest.mark.parametrize(
    ("location", "now"),
    [
        ("file:///old/a/artifacts/x", "file:///new/artifacts/x"),
        ("/old/a/artifacts/x", "file:///new/artifacts/x"),
        ("file:///old/a", "file:///new"),
        ("file:///old/ab/artifacts/x", None),
        ("file:///elsewhere/old/a/x", None),
        ("file:///new/artifacts/x", None),
        ("file:///old/a/deeper/artifacts/x", "file:///new/artifacts/x"),
        ("file:///old/a/50%25%20%23%3F/x", "file:///new/50%25%20%23%3F/x"),
        ("models:/m-1", None),
        ("s3://old/a/x", None),
        ("mlflow-artifacts:/old/a", None),
        ("", None),
        (None, None),
    ],
)
def test_move_changes_what_lies_below_an_old_place(location: str | None, now: str | None) -> None:
    move = Move([Path("/old/a"), Path("/old/a/deeper")], Path("/new"))
    assert move.location(location) == now


def test_move_into_an_odd_path_is_spelled_as_a_uri() -> None:
    move = Move([Path("/a b/50%41?#")], Path("/c d/%20?#"))
    assert move.location("file:///a%20b/50%2541%3F%23/x") == "file:///c%20d/%2520%3F%23/x"
    assert move.location("/a b/50%2541?#/x") == "file:///c%20d/%2520%3F%23/x"
