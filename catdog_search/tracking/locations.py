"""File locations in MLflow's store, looked up and rewritten by plain SQL.

MLflow itself has no way to change a location once it is recorded.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from catdog_search.errors import StateError
from catdog_search.identity import local_path
from catdog_search.text import printable

# Every column that holds a location of files, by table.
_COLUMNS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
    ("workspaces", "default_artifact_root"),
    ("workspaces", "trace_archival_location"),
)
# Tag of a trace that also holds a location.
_TRACE_LOCATION = "mlflow.artifactLocation"
# MLflow's number for a model that is complete.
_READY = 2
# Kinds of database that MLflow supports as a store.
_DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
# Seconds to wait for another writer.
_WAIT_S = 60


@dataclass(frozen=True)
class Move:
    """Move of a state folder.

    Attributes:
        places: Former folders of the state.
        root: Current folder of the state.
    """

    places: Sequence[Path]
    root: Path

    def path(self, path: Path) -> Path | None:
        """Where a file is now; None if it wasn't in one of the places."""
        roots = [p for p in (*self.places, self.root) if path.is_relative_to(p)]
        # One place may be inside another: the innermost counts.
        nearest = max(roots, key=lambda p: len(p.parts), default=self.root)
        return None if nearest == self.root else self.root / path.relative_to(nearest)

    def location(self, location: str | None) -> str | None:
        """The same for a location in MLflow, a path or a `file:` URI; returns a `file:` URI."""
        old = local_path(location) if location else None
        new = self.path(old) if old else None
        return new.as_uri() if new else None


@dataclass(frozen=True)
class _Column:
    """A column of locations, with the key columns of its rows."""

    table: sa.TableClause
    keys: tuple[str, ...]
    name: str
    where: sa.ColumnElement[bool]

    def rows(self, connection: sa.Connection) -> list[sa.Row[Any]]:
        """Keys and location of every row that has one."""
        chosen = [self.table.c[name] for name in (*self.keys, self.name)]
        return list(connection.execute(sa.select(*chosen).where(self.where)))

    def write(self, connection: sa.Connection, rows: Sequence[Sequence[str]]) -> None:
        """Write rows, in the form that `rows` returns, with a new location."""
        if not rows:
            return
        named = [self.table.c[key] == sa.bindparam(f"at_{key}") for key in self.keys]
        change = self.table.update().where(*named).values({self.name: sa.bindparam("now")})
        names = [*(f"at_{key}" for key in self.keys), "now"]
        connection.execute(change, [dict(zip(names, row, strict=True)) for row in rows])


def rewrite(store: sa.URL, move: Move, uids: Mapping[str, str]) -> int:
    """Make a store name the current locations of a state's files, in one transaction.

    Args:
        store: URL of one of MLflow's databases.
        move: Move of the state.
        uids: New ids of studies, by old id; the tags of their runs are rewritten.

    Returns:
        Number of locations that changed.

    Raises:
        StateError: The store can't be opened or written.
    """
    changed = 0
    with _transaction(store) as connection:
        for column in _columns(connection):
            moved = [
                (*row[:-1], now)
                for row in column.rows(connection)
                if (now := move.location(row[-1]))
            ]
            column.write(connection, moved)
            changed += len(moved)
        tags = sa.table("tags", sa.column("key"), sa.column("value"))
        for old, new in uids.items():
            named = (tags.c.key == "study_uid") & (tags.c.value == old)
            connection.execute(tags.update().where(named).values(value=new))
    return changed


def left_behind(store: sa.URL, move: Move) -> list[str]:
    """Locations that still name a former place of a state."""
    with _transaction(store) as connection:
        return [
            row[-1]
            for column in _columns(connection)
            for row in column.rows(connection)
            if move.location(row[-1])
        ]


def experiment_location(store: sa.URL, name: str) -> str | None:
    """Where an experiment keeps its artifacts; None where there is none of this name."""
    if not is_there(store):
        return None
    with _transaction(store) as connection:
        if not sa.inspect(connection).has_table("experiments"):
            return None
        found = _EXPERIMENTS.c.artifact_location
        return connection.scalar(sa.select(found).where(_EXPERIMENTS.c.name == name))


def place_experiment(store: sa.URL, name: str, location: str, *, in_use: bool) -> bool:
    """Make an experiment keep its artifacts elsewhere.

    Args:
        store: URL of one of MLflow's databases.
        name: Experiment's name.
        location: Location for the artifacts of its later runs.
        in_use: Whether to do so even if the experiment has runs or models.

    Returns:
        Whether it was done.
    """
    chosen = _EXPERIMENTS.c.name == name
    with _transaction(store) as connection:
        for table in () if in_use else ("runs", "logged_models"):
            of = sa.table(table, sa.column("experiment_id"))
            own = of.c.experiment_id == _EXPERIMENTS.c.experiment_id
            if connection.scalar(sa.select(sa.func.count()).where(own, chosen)):
                return False
        connection.execute(_EXPERIMENTS.update().where(chosen).values(artifact_location=location))
    return True


def place_run(store: sa.URL, run_id: str, location: str) -> None:
    """Make a run keep its artifacts elsewhere."""
    runs = sa.table("runs", sa.column("run_uuid"), sa.column("artifact_uri"))
    change = runs.update().where(runs.c.run_uuid == run_id).values(artifact_uri=location)
    with _transaction(store) as connection:
        connection.execute(change)


_EXPERIMENTS = sa.table(
    "experiments", *map(sa.column, ("experiment_id", "name", "artifact_location"))
)


def _columns(connection: sa.Connection) -> Iterator[_Column]:
    """Every column of locations that this version of the schema has."""
    schema = sa.inspect(connection)
    for name, column in (*_COLUMNS, ("trace_tags", "value")):
        if not schema.has_table(name):
            continue
        if column not in {found["name"] for found in schema.get_columns(name)}:
            continue
        keys = tuple(schema.get_pk_constraint(name)["constrained_columns"])
        table = sa.table(name, *map(sa.column, {*keys, column}))
        where: list[sa.ColumnElement[bool]] = [table.c[column].is_not(None)]
        if name == "trace_tags":
            where.append(table.c.key == _TRACE_LOCATION)
        yield _Column(table, keys, column, sa.and_(*where))


@contextmanager
def _transaction(store: sa.URL) -> Iterator[sa.Connection]:
    waiting = {"timeout": _WAIT_S} if store.get_backend_name() == "sqlite" else {}
    try:
        engine = sa.create_engine(store, connect_args=waiting)
        try:
            with engine.begin() as connection:
                yield connection
        finally:
            engine.dispose()
    except (SQLAlchemyError, ImportError) as error:  # its driver may be missing
        first = str(error).strip().splitlines()[0]
        named = printable(store.render_as_string(hide_password=True))
        raise StateError(f"MLflow store {named}: {first}") from error


def is_there(store: sa.URL) -> bool:
    """Whether there is anything to open; opening an absent sqlite file would create it."""
    is_file = store.get_backend_name() == "sqlite" and store.database
    return not is_file or Path(store.database or "").exists()


def enter_model(
    store: sa.URL, model_id: str, experiment_id: str, run_id: str, location: str
) -> None:
    """Enter a logged model whose files exist into a store.

    Args:
        store: URL of one of MLflow's databases.
        model_id: Id that the model had.
        experiment_id: Id of its study's experiment.
        run_id: Id of the run that logged it.
        location: Location of its files.
    """
    now = int(time.time() * 1000)
    row = {
        "model_id": model_id,
        "experiment_id": int(experiment_id),
        "name": "model",
        "artifact_location": location,
        "creation_timestamp_ms": now,
        "last_updated_timestamp_ms": now,
        "status": _READY,
        "lifecycle_stage": "active",
        "source_run_id": run_id,
    }
    table = sa.table("logged_models", *map(sa.column, row))
    chosen = table.c.model_id == model_id
    with _transaction(store) as connection:
        # A model in the trash still has its row.
        again = {"lifecycle_stage": "active", "status": _READY, "artifact_location": location}
        change = table.update().where(chosen).values(again)
        if not connection.execute(change).rowcount:
            connection.execute(table.insert().values(row))


def models(store: sa.URL) -> dict[str, str]:
    """Where every logged model is, by id."""
    table = sa.table("logged_models", sa.column("model_id"), sa.column("artifact_location"))
    with _transaction(store) as connection:
        found = connection.execute(sa.select(table.c.model_id, table.c.artifact_location))
        return {row[0]: row[1] for row in found}


def database(uri: str) -> sa.URL | None:
    """A tracking URI as a database URL; None if it isn't one."""
    try:
        url = sa.make_url(uri)
    except (ArgumentError, ValueError):
        return None
    return url if url.get_backend_name() in _DATABASES else None
