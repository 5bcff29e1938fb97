"""Whose folder a state is: moved, copied, reached by a second path, put back from a backup."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from catdog_search import identity
from catdog_search.errors import StateError
from catdog_search.places import StateFolder


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A state with an identity and one experiment in a store like MLflow's."""
    root = tmp_path / "a"
    (root / "artifacts" / "tiny").mkdir(parents=True)
    make_store(root)
    StateFolder.at(str(root)).create()
    return root


def make_store(root: Path, *, at: Path | None = None) -> None:
    location = ((at or root) / "artifacts" / "tiny").as_uri()
    with closing(sqlite3.connect(root / "mlflow.db")) as connection, connection:
        connection.execute("create table experiments (name text, artifact_location text)")
        connection.execute("insert into experiments values ('Default', '/somewhere/mlruns/0')")
        connection.execute("insert into experiments values ('tiny', ?)", (location,))


def listing(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def refused(root: Path) -> str:
    before = listing(root)
    with pytest.raises(StateError) as caught:
        StateFolder.at(str(root)).require_home()
    assert listing(root) == before
    assert "\n" not in str(caught.value)
    assert f"`catdog-search relocate --state {root}`" in str(caught.value)
    return str(caught.value)


def copied(home: Path) -> str:
    shutil.copytree(home, home.with_name("b"))
    return f"is a copy of {home}"


def moved(home: Path) -> str:
    home.rename(home.with_name("b"))
    return f"was moved here from {home}"


def moved_where_another_is_now(home: Path) -> str:
    home.rename(home.with_name("b"))
    home.mkdir()
    StateFolder.at(str(home)).create()
    return f"was moved here from {home}"


def copied_from_a_damaged_one(home: Path) -> str:
    shutil.copytree(home, home.with_name("b"))
    (home / identity.FILE).write_text("damaged")
    return f"is a copy of {home}"


@pytest.mark.parametrize(
    "put", [copied, moved, moved_where_another_is_now, copied_from_a_damaged_one]
)
def test_state_elsewhere_is_refused_with_the_cure(home: Path, put: Callable[[Path], str]) -> None:
    says = put(home)
    assert says in refused(home.with_name("b"))


@pytest.mark.parametrize("put", [copied, moved])
@pytest.mark.parametrize("lost", ["absent", "no JSON", "{}", '{"id": 1, "root": "x"}'])
def test_state_without_an_identity_is_told_by_its_locations(
    home: Path, put: Callable[[Path], str], lost: str
) -> None:
    (home / identity.FILE).unlink()
    if lost != "absent":
        (home / identity.FILE).write_text(lost)
    says = put(home)
    assert says in refused(home.with_name("b"))


def test_state_from_before_gets_an_identity_when_it_is_first_used(home: Path) -> None:
    (home / identity.FILE).unlink()
    StateFolder.at(str(home)).require_home()
    table = json.loads((home / identity.FILE).read_text())
    assert (table["root"], table["inode"]) == (str(home), home.stat().st_ino)


def test_state_that_tracks_for_another_is_at_home(tmp_path: Path) -> None:
    tracked = tmp_path / "tracked"
    tracked.mkdir()
    make_store(tracked, at=tmp_path / "other")
    (tmp_path / "other").mkdir()
    make_store(tmp_path / "other")
    StateFolder.at(str(tracked)).require_home()


def by_link(home: Path) -> Path:
    (home.parent / "link").symlink_to(home)
    return home.parent / "link"


def by_link_above(home: Path) -> Path:
    (home.parents[1] / "link").symlink_to(home.parent)
    return home.parents[1] / "link" / home.name


def below_a_link_left_behind(home: Path) -> Path:
    """The disk got full: the folder went elsewhere, and a link stands in its place."""
    elsewhere = home.with_name("elsewhere")
    home.rename(elsewhere)
    home.symlink_to(elsewhere)
    return elsewhere


@pytest.mark.parametrize("way", [by_link, by_link_above, below_a_link_left_behind])
def test_second_path_is_neither_move_nor_copy(home: Path, way: Callable[[Path], Path]) -> None:
    before = (home / identity.FILE).read_text()
    state = StateFolder.at(str(way(home)))
    state.require_home()
    assert state.root == home
    assert (home / identity.FILE).read_text() == before


def test_mount_of_the_same_folder_is_neither_move_nor_copy(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mount = home.with_name("mount")
    shutil.copytree(home, mount)  # what is seen there
    real = Path.stat

    def stat(path: Path, **options: bool) -> os.stat_result:
        return real(home if path == mount else path, **options)

    monkeypatch.setattr(Path, "stat", stat)
    state = StateFolder.at(str(mount))
    state.require_home()
    assert state.root == home


def test_backup_put_back_is_at_home_and_its_inode_is_brought_up_to_date(home: Path) -> None:
    backup = home.with_name("backup")
    shutil.copytree(home, backup)
    shutil.rmtree(home)
    (home.parent / "takes the inode").mkdir()
    shutil.copytree(backup, home)
    was = json.loads((home / identity.FILE).read_text())
    StateFolder.at(str(home)).require_home()
    now = json.loads((home / identity.FILE).read_text())
    assert now["id"] == was["id"]
    assert now["inode"] == home.stat().st_ino
    assert f"is a copy of {home}" in refused(backup)


def test_state_with_its_artifacts_on_another_disk_is_at_home(home: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk" / "artifacts"
    disk.parent.mkdir()
    (home / "artifacts").rename(disk)
    (home / "artifacts").symlink_to(disk)
    (home / "mlflow.db").unlink()
    make_store(home, at=disk.parent)
    (home / identity.FILE).unlink()
    StateFolder.at(str(home)).require_home()


@pytest.mark.parametrize("name", ["with space", "50%", "a#b", "ä'b", "a;b&c"])
def test_cure_can_be_typed_whatever_the_path(tmp_path: Path, name: str) -> None:
    import shlex

    root = tmp_path / name / "state"
    root.mkdir(parents=True)
    make_store(root, at=tmp_path / name / "old")
    with pytest.raises(StateError) as caught:
        StateFolder.at(str(root)).require_home()
    cure = str(caught.value).split("`")[1]
    assert shlex.split(cure) == ["catdog-search", "relocate", "--state", str(root)]
    assert str(tmp_path / name / "old") in str(caught.value)


def test_folder_that_is_no_state_yet_is_left_alone(tmp_path: Path) -> None:
    StateFolder.at(str(tmp_path / "none")).require_home()
    StateFolder.at(str(tmp_path)).require_home()
    assert list(tmp_path.iterdir()) == []


def test_link_to_nowhere_is_refused(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    with pytest.raises(StateError, match=r"a link to .*disk, which is gone"):
        StateFolder.at(str(tmp_path / "link")).create()
    assert not (tmp_path / "disk").exists()


def test_lock_keeps_a_state_where_it_is(home: Path) -> None:
    state = StateFolder.at(str(home))
    with state.in_use():
        with state.in_use():
            pass  # others may use it too
        with (
            pytest.raises(StateError, match="is used by another process"),
            state.in_use(alone=True),
        ):
            pass
    with (
        state.in_use(alone=True),
        pytest.raises(StateError, match="is being relocated"),
        state.in_use(),
    ):
        pass


def test_identity_that_cannot_be_read_is_said_and_its_cure_works(home: Path) -> None:
    (home / identity.FILE).unlink()
    (home / identity.FILE).mkdir()
    with pytest.raises(StateError, match="can't be read: Is a directory") as caught:
        StateFolder.at(str(home)).require_home()
    assert os.system(str(caught.value).split("`")[1]) == 0
    StateFolder.at(str(home)).require_home()
    assert (home / identity.FILE).is_file()


@pytest.mark.parametrize("name", [os.fsdecode(b"caf\xe9"), "a\nb", "a\x1b[1mb"])
def test_state_whose_path_mlflow_or_a_terminal_would_change_is_refused(
    tmp_path: Path, name: str
) -> None:
    with pytest.raises(StateError, match="its path is not plain text") as caught:
        StateFolder.at(str(tmp_path / name)).create()
    assert str(caught.value).isprintable()
    assert list(tmp_path.iterdir()) == []
