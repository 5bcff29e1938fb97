"""Databases: what is damage and what isn't, a copy, and the copy brought back."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from catdog_search import sqlite


@pytest.fixture
def database(tmp_path: Path) -> Path:
    path = tmp_path / "odd #1 50%.db"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("pragma journal_mode=wal")
        connection.execute("create table t (a)")
        connection.executemany("insert into t values (?)", [(i,) for i in range(5000)])
    return path


def rows(path: Path) -> int:
    with closing(sqlite3.connect(path)) as connection:
        return int(connection.execute("select count(*) from t").fetchone()[0])


def overwrite(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:4096] + b"z" * 9000 + content[13096:])


DAMAGES: dict[str, Callable[[Path], object]] = {
    "is gone": Path.unlink,
    "holds no table": lambda path: path.write_bytes(b""),
    "not a database": lambda path: path.write_text("<html>sorry</html>" * 100),
    "is damaged: ": overwrite,
}


@pytest.mark.parametrize("says", DAMAGES)
def test_damage_is_told_and_the_copy_brought_back(database: Path, says: str) -> None:
    assert sqlite.damage(database, thorough=True) is None
    sqlite.keep_copy(database)
    DAMAGES[says](database)
    found = sqlite.damage(database, thorough=True)
    assert found is not None
    assert says in found
    assert "\n" not in found
    damaged = database.read_bytes() if database.exists() else None
    aside = sqlite.restore(database)
    assert (None if aside is None else aside.read_bytes()) == damaged
    assert rows(database) == 5000


def test_lock_is_no_damage(database: Path) -> None:
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("begin exclusive")
        assert sqlite.damage(database) is None


def test_lock_that_keeps_readers_out_is_no_damage(
    database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "_WAIT_S", 0)
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("pragma journal_mode=delete")  # as an older program leaves it
        connection.execute("begin exclusive")
        assert sqlite.damage(database) is None


def test_what_cannot_be_opened_is_no_damage(tmp_path: Path) -> None:
    assert sqlite.damage(tmp_path) is None


def test_two_set_aside_in_one_second_are_both_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite.time, "strftime", lambda _form: "20260101-000000")
    path = tmp_path / "a.db"
    aside = []
    for content in ("first", "second"):
        path.write_text(content)
        aside.append(sqlite.set_aside(path))
    assert [each and each.read_text() for each in aside] == ["first", "second"]


def test_copy_holds_what_was_written_while_it_was_open(database: Path) -> None:
    with closing(sqlite3.connect(database)) as writer:
        writer.execute("insert into t values (1)")
        writer.commit()  # it lies in the file beside the database
        sqlite.keep_copy(database)
        assert rows(sqlite.kept_copy(database)) == 5001


def test_copy_that_fails_leaves_the_last_one(database: Path) -> None:
    sqlite.keep_copy(database)
    database.write_text("no database at all, though long enough to be looked at" * 20)
    with pytest.raises(sqlite3.DatabaseError):
        sqlite.keep_copy(database)
    assert rows(sqlite.kept_copy(database)) == 5000
    assert [p.name for p in sqlite.kept_copy(database).parent.glob("*.new")] == []
