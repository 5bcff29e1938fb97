"""A state damaged at random: never a traceback, no loss elsewhere, and a cure that works.

By hand, with as many damages as wanted:

    python tests/test_damage.py --damages 100
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import re
import shlex
import shutil
import sqlite3
import subprocess
import tempfile
import tomllib
import traceback
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from tiny_study import SPACE_FILE, assert_stores_agree, register_best, run

from catdog_search.cli import main
from catdog_search.data import packing
from catdog_search.data.dataset import Dataset
from catdog_search.data.sources import SyntheticSource
from catdog_search.errors import StateError
from catdog_search.places import StateFolder
from catdog_search.tracking.store import disconnect

# Real networks, so that there are real models to lose; and a file that a promotion can begin with.
STUDY_FILE = (
    """
name = "tiny"
purpose = "A study for tests."
image_size = 16
metric = "val_accuracy"
direction = "maximize"
trials = 3
seed = 5
keep_models = 3
data = { source = "synthetic", synthetic_n = 100 }
training = { epochs = 1 }
sampler = { n_startup_trials = 2 }
pruner = { name = "none" }
promotion = { calibration_photos = 10 }

"""
    + SPACE_FILE
)
REAL = tomllib.loads(STUDY_FILE)
_CURE = re.compile(r"`((?:catdog-search|mv|cp|mkdir|chmod) [^`]+)`")
_LOST_MODEL = re.compile("kept no model|can't be registered|can't be loaded|is gone|holds no")
_DATABASES = ("optuna.db", "mlflow.db")
# Tables that only say which version of its library made a database.
_VERSIONS = ("alembic_version", "version_info")

# Returns what it did, and the state to go on with where that is another one.
Damage = Callable[[StateFolder, random.Random], str | tuple[str, StateFolder]]


def drop_a_row(state: StateFolder, chance: random.Random) -> str:
    """Of any table of any store."""
    database = chance.choice(_DATABASES)
    with closing(sqlite3.connect(state.root / database)) as connection, connection:
        tables = _filled(connection)
        table = chance.choice(tables)
        rows = [row for (row,) in connection.execute(f"select rowid from {table}")]
        connection.execute(f"delete from {table} where rowid = ?", (chance.choice(rows),))
    return f"a row of {table} of {database}"


def scramble_a_value(state: StateFolder, chance: random.Random) -> str:
    """Of any column of any row."""
    database = chance.choice(_DATABASES)
    with closing(sqlite3.connect(state.root / database)) as connection, connection:
        table = chance.choice(_filled(connection))
        columns = [row[1] for row in connection.execute(f"pragma table_info({table})")]
        column = chance.choice(columns)
        rows = [row for (row,) in connection.execute(f"select rowid from {table}")]
        value = chance.choice(["", "{", None, -1, "\x1b[31m", "9" * 40])
        try:
            connection.execute(
                f"update {table} set {column} = ? where rowid = ?", (value, chance.choice(rows))
            )
        except sqlite3.IntegrityError:
            return "nothing: the database refused it"
    return f"{table}.{column} of {database} is {value!r}"


def _filled(connection: sqlite3.Connection) -> list[str]:
    names = connection.execute("select name from sqlite_master where type = 'table'").fetchall()
    return [
        name
        for (name,) in sorted(names)
        if name not in _VERSIONS
        and not name.startswith("sqlite_")
        and connection.execute(f"select count(*) from {name}").fetchone()[0]
    ]


def damage_a_database(state: StateFolder, chance: random.Random) -> str:
    """Its file: gone, empty, cut short, or overwritten somewhere."""
    path = state.root / chance.choice(_DATABASES)
    content = path.read_bytes()
    how = chance.choice(["gone", "empty", "cut", "overwritten", "text"])
    for beside in ("-wal", "-shm"):
        path.with_name(path.name + beside).unlink(missing_ok=True)
    if how == "gone":
        path.unlink()
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "cut":
        path.write_bytes(content[: chance.randrange(1, len(content))])
    elif how == "text":
        path.write_bytes(b"<html>not a database</html>" * 50)
    else:
        at = chance.randrange(0, len(content) - 5000)
        path.write_bytes(content[:at] + chance.randbytes(5000) + content[at + 5000 :])
    return f"{path.name} is {how}"


def remove_a_file(state: StateFolder, chance: random.Random) -> str:
    """Any but the databases."""
    files = [p for p in sorted(state.root.rglob("*")) if p.is_file() and p.parent != state.root]
    path = chance.choice(files)
    path.unlink()
    return f"{path.relative_to(state.root)} is gone"


def scramble_a_file(state: StateFolder, chance: random.Random) -> str:
    """Any but the databases."""
    files = [p for p in sorted(state.root.rglob("*")) if p.is_file() and p.parent != state.root]
    path = chance.choice(files)
    path.write_bytes(chance.randbytes(chance.choice([0, 10, 2000])))
    return f"{path.relative_to(state.root)} is scrambled"


def remove_a_folder(state: StateFolder, chance: random.Random) -> str:
    """Of artifacts, scratch or the copies."""
    folders = [p for p in sorted(state.root.rglob("*")) if p.is_dir()]
    path = chance.choice(folders)
    shutil.rmtree(path)
    return f"{path.relative_to(state.root)} is gone"


def put_something_in_the_way(state: StateFolder, chance: random.Random) -> str:
    """A folder where a lock or a checkpoint is expected, or files that nobody knows."""
    scratch = state.scratch("tiny")
    scratch.mkdir(parents=True, exist_ok=True)
    name = chance.choice(["trial-0001.checkpoint.npz", "trial-x.checkpoint.npz", "unknown.txt"])
    (scratch / name).write_bytes(chance.randbytes(100))
    return f"{name} lies in scratch"


def put_a_folder_in_a_lock_s_place(state: StateFolder, chance: random.Random) -> str:
    lock = chance.choice([state.scratch("tiny") / "coordinator.lock", state.root / "state.lock"])
    lock.unlink(missing_ok=True)
    lock.mkdir(parents=True)
    return f"{lock.name} is a folder"


def move_it(state: StateFolder, _: random.Random) -> tuple[str, StateFolder]:
    moved = state.root.with_name("moved")
    state.root.rename(moved)
    return "it was moved", StateFolder.at(str(moved))


def copy_it(state: StateFolder, _: random.Random) -> tuple[str, StateFolder]:
    """The original is one of those that nothing may happen to."""
    copied = state.root.with_name("copied")
    shutil.copytree(state.root, copied, symlinks=True)
    return "it was copied", StateFolder.at(str(copied))


DAMAGES: tuple[Damage, ...] = (
    drop_a_row,
    drop_a_row,
    scramble_a_value,
    scramble_a_value,
    damage_a_database,
    damage_a_database,
    remove_a_file,
    scramble_a_file,
    remove_a_folder,
    put_something_in_the_way,
    put_a_folder_in_a_lock_s_place,
    move_it,
    copy_it,
)


class Patient:
    """A state that is made once and laid anew, at the same place, before each damage."""

    def __init__(self, folder: Path, pictures: Dataset) -> None:
        self._kept = folder / "kept"
        self._pictures = pictures
        self.state = StateFolder.at(str(folder / "state"))
        self.outside = folder / "outside"
        self.state.create()
        options = {"training": "keras", "study_file": STUDY_FILE}
        view = run(self.state, pictures, 4, table=REAL, **options).view
        assert sum(row.model_id is not None for row in view.trials) == 3
        assert register_best(self.state).created
        shutil.copytree(self.state.root, self._kept, symlinks=True)
        shutil.copytree(self.state.root, self.outside / "state", symlinks=True)
        self.outside_before = tree(self.outside)

    def lie_down(self) -> None:
        disconnect()
        for name in ("state", "moved", "copied"):
            shutil.rmtree(self.state.root.with_name(name), ignore_errors=True)
        shutil.copytree(self._kept, self.state.root, symlinks=True)

    def go_on(self, state: StateFolder) -> None:
        """Train one more trial, as the next call would."""
        view = run(state, self._pictures, 5, table=REAL).view
        assert view.finished == 5
        assert_stores_agree(state)


def call(*arguments: str) -> Result:
    result = CliRunner().invoke(main, list(arguments))
    assert "Traceback" not in result.output
    assert result.exception is None or isinstance(result.exception, SystemExit)
    assert result.exit_code in (0, 1), result.output
    return result


def tree(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def cure(state: StateFolder, at_most: int = 4) -> list[str]:
    """Do what the doctor says until it is content; returns the commands."""
    done: list[str] = []
    looked = call("doctor", "--state", str(state.root))
    while looked.exit_code and len(done) < at_most:
        said = _CURE.findall(looked.output)
        assert said, looked.output
        follow(said[0])
        done.append(said[0])
        looked = call("doctor", "--state", str(state.root))
    assert looked.exit_code == 0, looked.output
    return done


def follow(command: str) -> None:
    """Type what was said."""
    if command.startswith("catdog-search "):
        call(*shlex.split(command)[1:])
    else:
        subprocess.run(command, shell=True, check=True)


def damage_and_cure(patient: Patient, seed: int, *, whole: bool) -> str:
    chance = random.Random(seed)
    patient.lie_down()
    done = chance.choice(DAMAGES)(patient.state, chance)
    what, state = done if isinstance(done, tuple) else (done, patient.state)
    models = models_of(state)
    original = None if state == patient.state else tree(patient.state.root)
    looked = [call(*words, "--state", str(state.root)) for words in LOOKS]
    assert all("bug: " not in look.output or _CURE.findall(look.output) for look in looked)
    commands = cure(state)
    assert models <= models_of(state)
    for words in LOOKS:
        look = call(*words, "--state", str(state.root))
        # The one thing that no cure brings back is a model whose files are gone.
        assert look.exit_code == 0 or _LOST_MODEL.search(look.output), look.output
        assert "bug: " not in look.output
    champion(state)
    if whole:
        patient.go_on(state)
    assert tree(patient.outside) == patient.outside_before
    assert original in (None, tree(patient.state.root))
    return f"{what}; cured by {commands or 'nothing'}"


def champion(state: StateFolder) -> None:
    """Let the best model be champion again, as a promotion ends."""
    said = ""
    try:
        register_best(state)
    except StateError as error:
        said = str(error)
    assert not said or _LOST_MODEL.search(said), said


def models_of(state: StateFolder) -> set[str]:
    folder = state.artifacts / "tiny" / "models"
    return {str(path.relative_to(folder)) for path in folder.rglob("model.keras")}


LOOKS = (("show", "--study", "tiny"), ("promote", "--study", "tiny", "--dry-run"))


@pytest.fixture(scope="module")
def patient(tmp_path_factory: pytest.TempPathFactory, shared_cache: Path) -> Patient:
    pictures = packing.load(SyntheticSource(100), 16, shared_cache, 10**9)
    return Patient(tmp_path_factory.mktemp("patient"), pictures)


@pytest.mark.parametrize("seed", range(20))
def test_damaged_state_is_told_and_cured(patient: Patient, seed: int) -> None:
    assert damage_and_cure(patient, seed, whole=seed % 5 == 0)


def by_hand() -> None:
    """Damages by hand."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--damages", type=int, default=100)
    parser.add_argument("--first", type=int, default=0)
    asked = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="damage-"))
    os.environ["CATDOG_CACHE"] = str(folder / "cache")
    pictures = packing.load(SyntheticSource(100), 16, folder / "cache", 10**9)
    patient = Patient(folder, pictures)
    failed: Counter[str] = Counter()
    for seed in range(asked.first, asked.first + asked.damages):
        try:
            print(seed, damage_and_cure(patient, seed, whole=True), flush=True)
        except Exception as error:
            failed[f"{type(error).__name__}"] += 1
            where = traceback.extract_tb(error.__traceback__)[-1].lineno
            print(seed, "FAILED", type(error).__name__, where, str(error)[:1500], flush=True)
    print(f"{asked.damages - failed.total()} of {asked.damages} cured")
    shutil.rmtree(folder)


if __name__ == "__main__":
    by_hand()
