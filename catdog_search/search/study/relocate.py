"""Update the paths in a state that was moved or copied to where it is now.

Each store is rewritten in one transaction and the identity last, so that the next call completes
one that was killed at any moment. Until then every other command refuses the state.
"""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from catdog_search import identity
from catdog_search.errors import StateError, StudyLockedError
from catdog_search.identity import Displaced, Identity, Pending, new_id
from catdog_search.places import StateFolder, file_lock
from catdog_search.search.scratch import lock_path
from catdog_search.search.study import schema
from catdog_search.search.study.schema import UID
from catdog_search.search.study.storage import change_attributes, recorded_studies
from catdog_search.search.study.views import view_of
from catdog_search.text import printable
from catdog_search.tracking import locations
from catdog_search.tracking.locations import Move
from catdog_search.tracking.models import MODEL_FILE
from catdog_search.tracking.store import own_uri, sqlite_file, sqlite_uri, tracking_uri


@dataclass(frozen=True)
class Relocated:
    """Result of a relocation.

    Attributes:
        places: Former folders of the state, the latest first; empty where it was at home.
        is_copy: Whether it is a copy, which is now a state of its own.
        locations: Number of locations that were rewritten.
        kept: Number of models that trials should keep and that the state's own store knows.
        missing: Ids of those models whose files are missing.
    """

    places: tuple[Path, ...]
    is_copy: bool
    locations: int
    kept: int
    missing: tuple[str, ...]


def relocate(state: StateFolder) -> Relocated:
    """Rewrite what names the former place of a state; one that is at home is only checked.

    A copy becomes a state of its own with its own id, and so do its studies: on a server that both
    use they would otherwise be taken for the same.

    Raises:
        StateError: There is no state, it is in use, a store can't be written, or a copy shares
            files with the state that it was made from.
    """
    if not identity.is_state(state.root):
        raise StateError(state.nothing)
    with ExitStack() as held:
        held.enter_context(state.in_use(alone=True))
        _hold_studies(state, held)
        try:
            away = identity.displaced(state.root)
            return _relocate(state, away) if away else _look_over(state)
        except OSError as error:
            raise StateError(
                printable(f"state folder {state.root}: {error.strerror}; relocate it again then")
            ) from error


def _relocate(state: StateFolder, away: Displaced) -> Relocated:
    if away.is_copy:
        _require_own_files(state.root, away.places)
    begun, pending = _begin(state, away)
    is_copy = pending.state_id != begun.state_id
    changed = _rewrite(state, _move(away.places, state.root), pending.uids, is_copy=is_copy)
    kept, missing = _models(state)
    _renew_copies(state)
    now = Identity.at(state.root, pending.state_id)
    former, origins = ((), away.places) if is_copy else (away.places, ())
    identity.write(state.root, replace(now, former=former, origins=origins))
    return Relocated(away.places, is_copy, changed, kept, missing)


def _renew_copies(state: StateFolder) -> None:
    """Copy the databases again: earlier copies name the old place and would bring it back."""
    for store in (state.optuna_db, state.mlflow_db):
        if store.exists():
            state.keep_copy(store)


def _hold_studies(state: StateFolder, held: ExitStack) -> None:
    """Hold the lock of every study: a coordinator of an older version holds only its study's."""
    for folder in sorted(p for p in state.scratch("").glob("*") if lock_path(p).exists()):
        try:
            held.enter_context(file_lock(lock_path(folder), wait=False))
        except BlockingIOError:
            raise StudyLockedError(
                f"study {folder.name!r} in {printable(str(state.root))} is running; stop it, or "
                "wait for it, before it is relocated"
            ) from None


def _look_over(state: StateFolder) -> Relocated:
    """Rewrite what still names an earlier place, such as a store that was absent the last time."""
    state.require_home()
    found = identity.read(state.root)
    places = [p for p in (found.former if found else ()) if not identity.is_state(p)]
    changed = _rewrite(state, _move(places, state.root), {}, is_copy=False)
    return Relocated((), False, changed, *_models(state))


def _require_own_files(root: Path, places: Collection[Path]) -> None:
    """Refuse a copy made of links: what is written to one would be written to both."""
    for path in (*(root / name for name in _SHARED), *_linked_files(root)):
        for place in places:
            other = place / path.relative_to(root)
            if path.exists() and other.exists() and path.samefile(other):
                copy = f"cp -aL {shlex.quote(str(root))} {shlex.quote(f'{root}.own')}"
                raise StateError(
                    printable(
                        f"{path} is the same file as {other}: a copy of links isn't one; copy the "
                        f"files with `{copy}` and relocate that"
                    )
                )


_SHARED = (identity.MLFLOW_DB, identity.OPTUNA_DB, identity.ARTIFACTS)


def _linked_files(root: Path) -> Iterator[Path]:
    for folder, _, names in os.walk(root):
        for path in (Path(folder, name) for name in names):
            if path.stat(follow_symlinks=False).st_nlink > 1:
                yield path


def _begin(state: StateFolder, away: Displaced) -> tuple[Identity, Pending]:
    """Write down the plan, so that a second call completes it in the same way."""
    pending = _plan(state, away)
    state_id = away.state_id or (new_id() if away.is_copy else pending.state_id)
    here = Identity.at(state.root, state_id)
    begun = replace(here, root=away.places[0], former=away.places[1:], pending=pending)
    identity.write(state.root, begun)
    return begun, pending


def _plan(state: StateFolder, away: Displaced) -> Pending:
    begun = away.pending
    if begun and (begun.root == state.root or not away.is_copy):
        return replace(begun, root=state.root)
    if not away.is_copy:
        return Pending(state.root, away.state_id or new_id())
    uids: dict[str, str] = {}
    for study in recorded_studies(state):
        uid = study.user_attrs.get(UID)
        if uid is None:
            continue
        # An id that an unfinished relocation of the original gave it counts too.
        pairs = begun.uids.items() if begun else ()
        fresh = new_id()
        uids |= {name: fresh for pair in ((uid, uid), *pairs) if uid in pair for name in pair}
    return Pending(state.root, new_id(), uids)


def _move(places: Collection[Path], root: Path) -> Move:
    # Older versions stored MLflow's locations with links resolved.
    both = dict.fromkeys(path for place in places for path in (place, place.resolve()))
    return Move([path for path in both if path != root], root)


def _rewrite(state: StateFolder, move: Move, uids: Mapping[str, str], *, is_copy: bool) -> int:
    """Rewrite the stores and the models' own files.

    Returns:
        Number of locations that changed.

    Raises:
        StateError: A store still names an earlier place.
    """
    stores = list(_stores(state, is_copy=is_copy))
    changed = sum(locations.rewrite(store, move, uids) for store in stores)
    changed += _rewrite_optuna(state, move, uids)
    changed += sum(_rewrite_model_file(path, move) for path in _model_files(state.artifacts))
    for store in stores:
        if left := locations.left_behind(store, move):
            raise StateError(
                f"{len(left)} locations still name an earlier place, as {printable(left[0])}; "
                "something else writes to the store: stop it, and relocate again"
            )
    return changed


def _stores(state: StateFolder, *, is_copy: bool) -> Iterator[sa.URL]:
    """MLflow's stores that may name this state's files: its own, and those where it is tracked.

    A copy leaves a shared store alone: the runs there are the original's.
    """
    if state.mlflow_db.exists():
        yield sa.URL.create("sqlite", database=str(state.mlflow_db))
    if is_copy:
        return
    recorded = {study.user_attrs.get(schema.TRACKING_URI, "") for study in recorded_studies(state)}
    files = {uri for uri in recorded if sqlite_file(uri)}
    for uri in sorted({tracking_uri(state), *files} - {own_uri(state)}):
        store = locations.database(uri)
        if store and locations.is_there(store):
            yield store


def _rewrite_optuna(state: StateFolder, move: Move, uids: Mapping[str, str]) -> int:
    def moved(uri: str) -> str:
        path = sqlite_file(uri)
        now = move.path(path) if path else None
        return sqlite_uri(now) if now else uri

    def change(key: str, value: Any) -> Any:
        if key == UID:
            return uids.get(value, value)
        return [moved(uri) for uri in value] if key == schema.TRACKED else moved(value)

    return change_attributes(state, (UID, schema.TRACKING_URI, schema.TRACKED), change)


def _model_files(artifacts: Path) -> Iterator[Path]:
    for folder, _, names in os.walk(artifacts):
        path = Path(folder, MODEL_FILE)
        if MODEL_FILE in names and path.is_file() and not path.is_symlink():
            yield path


def _rewrite_model_file(path: Path, move: Move) -> bool:
    """Rewrite where a model was logged to, which MLflow notes in the model's own file too."""
    name, at = "artifact_path: ", False
    text = path.read_text(encoding="utf-8", errors="surrogateescape")
    lines = text.splitlines(keepends=True)
    for i, line in enumerate(lines):
        location = line.removeprefix(name).strip().strip("'\"")
        if line.startswith(name) and (now := move.location(location)):
            lines[i], at = line.replace(location, now), True
    if at:
        fresh = path.with_name(f".{path.name}.new")
        fresh.write_text("".join(lines), encoding="utf-8", errors="surrogateescape")
        shutil.copystat(path, fresh)
        fresh.replace(path)  # not written in place, as the file may have other hard links
    return at


def _models(state: StateFolder) -> tuple[int, tuple[str, ...]]:
    """How many models trials should keep, and the ids of those without files."""
    if not state.mlflow_db.exists():
        return 0, ()
    known = locations.models(sa.URL.create("sqlite", database=str(state.mlflow_db)))
    wanted = {
        row.model_id
        for study in recorded_studies(state)
        for row in view_of(study).trials
        if row.model_id in known
    }
    return len(wanted), tuple(sorted(m for m in wanted if not _has_files(known[m])))


def _has_files(location: str) -> bool:
    path = identity.local_path(location)
    return path is not None and (path / MODEL_FILE).exists()
