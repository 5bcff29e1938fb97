"""Edges of the environment: no home folder, a read-only state, files that nobody meant."""

from __future__ import annotations

import os
import pwd
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tiny_study import call, listing, settle

from catdog_search import places
from catdog_search.data import download as fetch
from catdog_search.errors import DataError, StateError, StudyFileError
from catdog_search.outside import outside_reason
from catdog_search.places import StateFolder
from catdog_search.study import studies
from catdog_search.tracking.store import Store

DEEP = "[" * 3000 + "]" * 3000
BIG = "9" * 400


@pytest.fixture
def homeless(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user without HOME who isn't in /etc/passwd."""

    def unknown(uid: int) -> None:
        raise KeyError(uid)

    for name in ("HOME", "XDG_CACHE_HOME", "CATDOG_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)


@pytest.mark.usefixtures("homeless")
def test_cache_of_a_user_without_home_folder_is_asked_for() -> None:
    with pytest.raises(StateError, match="set HOME, or CATDOG_CACHE"):
        places.cache_folder()


@pytest.mark.usefixtures("homeless")
def test_path_with_a_tilde_of_a_user_without_home_folder_is_told() -> None:
    with pytest.raises(RuntimeError) as caught:
        Path("~/photos").expanduser()
    assert "set HOME" in str(outside_reason(caught.value))


@pytest.mark.usefixtures("homeless")
def test_libraries_of_a_user_without_home_folder_are_given_the_cache(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", "")  # so that what is set is undone
    monkeypatch.delenv("HOME")
    call("studies")
    assert "HOME" not in os.environ
    monkeypatch.setenv("CATDOG_CACHE", str(tmp_path))
    call("studies")
    assert Path.home() == tmp_path


@pytest.mark.parametrize("command", ["models", "show quick", "study list"])
def test_state_of_a_user_who_does_not_exist_is_told_in_a_line(command: str) -> None:
    (line,) = call(*command.split(), "--state", "~nobody-here/x", code=1).output.splitlines()
    assert "no home folder is known for this user, or for one that a path begins with" in line


@pytest.fixture
def read_only(home: StateFolder, monkeypatch: pytest.MonkeyPatch) -> Iterator[StateFolder]:
    """A state that can't be written, also where root tests."""
    settle(home)
    for path in (home.root, *home.root.glob("*.db")):
        path.chmod(path.stat().st_mode & ~0o222)
    real = os.access

    def access(path: str | Path, mode: int) -> bool:
        is_ours = Path(path).is_relative_to(home.root)
        return False if is_ours and mode & os.W_OK else real(path, mode)

    monkeypatch.setattr(os, "access", access)
    yield home
    home.root.chmod(stat.S_IRWXU)


def sqlite_path(state: StateFolder) -> str:
    return Store.of(state).uri_to_read.removeprefix("sqlite:///")


@pytest.mark.parametrize(
    "command",
    [["show", "--study", "tiny"], ["compare"], ["models"], ["models", "catdog"]],
    ids=" ".join,
)
def test_read_only_state_is_read(read_only: StateFolder, command: list[str]) -> None:
    before = listing(read_only.root)
    call(*command, "--state", str(read_only.root))
    assert listing(read_only.root) == before
    for used in (read_only.to_read(read_only.optuna_db), Path(sqlite_path(read_only))):
        assert used.exists()
        assert not used.is_relative_to(read_only.root)


@pytest.mark.parametrize(
    "command",
    [["models", "nobody"], ["evaluate", "nobody", "--split", "val"], ["predict", "nobody", "x"]],
    ids=" ".join,
)
def test_read_only_state_is_named_and_not_the_copy_that_is_read(
    read_only: StateFolder, command: list[str]
) -> None:
    said = call(*command, "--state", str(read_only.root), code=1).output
    assert f"`catdog-search promote STUDY --state {read_only.root}`" in said
    assert "/catdog-search-" not in said


def test_study_file_with_a_byte_order_mark_is_read(study_file: Callable[..., Path]) -> None:
    path = study_file()
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert studies.load(str(path)).name == "tiny"


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("trials = 3", f"x = {DEEP}", "nested too deeply"),
        ("choices = [4, 8]", f"choices = {DEEP}", "nested too deeply"),
        ("trials = 3", "trials = 3\ntimeout = 1e308", "timeout: 1e+308 is not allowed"),
        ("[space]", "[limits]\nmax_memory_gb = 1e308\n[space]", "max_memory_gb: 1e+308"),
        ("[space]", "[published]\nplain = 0.9\n[space]", "plain: 0.9 is not allowed"),
        ("[space]", "[space]\nnetwork = []", "network"),
        ("trials = 3", f"trials = {BIG}", "is not allowed"),
        ("trials = 3", f"trials = {'9' * 5000}", "holds a number that can't be read"),
        ("trials = 3", f"trials = 3\nweights = {'9' * 4000}", "999…"),
        ("trials = 3", "trials = 3\nseeds = 2", "seeds: 2 is the number of seeds of each recipe"),
        ("[space]", "[published.plain]\nval_accuracy = 0.9\n[space]", "it has none"),
        ('"tiny"', '"tiny.finalists"', "not .finalists at the end"),
        ("high = 0.5", "high = inf", "inf is not allowed"),
        ("high = 0.5", f"high = {BIG}", "is not allowed"),
        ("seed = 5", "seed = nan", "nan is not allowed"),
        ("[space]", "[pruner]\nname = 'hyperband'\nmin_epochs = 3\n[space]", "in [1, 2]"),
        ("[space]", "[pruner]\nname = 'asha'\nmin_epochs = 3\n[space]", "in [1, 2]"),
    ],
)
def test_study_file_that_cannot_be_meant_is_refused_in_a_line(
    study_file: Callable[..., Path], old: str, new: str, says: str
) -> None:
    path = study_file()
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(StudyFileError) as caught:
        studies.load(str(path))
    assert says in str(caught.value)


def test_seeds_of_a_study_without_recipes_are_refused(study_file: Callable[..., Path]) -> None:
    said = call("run", "--study", str(study_file()), "--seeds", "3", code=2).output
    assert "--seeds 3: is the number of seeds of each recipe" in said


def test_study_of_which_every_trial_is_too_large_is_no_success(
    study_file: Callable[..., Path], tmp_path: Path
) -> None:
    path = study_file(swap={"[space]": "[limits]\nmax_parameters = 1\n\n[space]"})
    done = call("run", "--study", str(path), "--state", str(tmp_path / "s"), code=1)
    assert "no trial of tiny is COMPLETE" in done.output
    again = call(
        "run", "--study", str(path), "--trials", "1", "--state", str(tmp_path / "s"), code=1
    )
    assert "of 1 trial" not in again.output


def test_digest_in_capitals_is_the_same(tmp_path: Path) -> None:
    target = tmp_path / "x.zip"
    target.write_bytes(b"")
    empty = "E3B0C44298FC1C149AFBF4C8996FB92427AE41E4649B934CA495991B7852B855"
    assert fetch.download("https://127.0.0.1/x.zip", f" {empty}\n", target) == target


def test_digest_that_is_none_is_refused_before_anything_is_fetched(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="64 hex digits"):
        fetch.download("https://127.0.0.1/x.zip", "abc", tmp_path / "x.zip")
    assert list(tmp_path.iterdir()) == []
