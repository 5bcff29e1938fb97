"""MLflow's model registry: versions, the alias that others load by, and the record of its moves.

The commit point of a promotion is one write, the alias `champion`. What comes before it, a version
and a note of the move, changes nothing for those who load a model.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from catdog_search.errors import StateError
from catdog_search.machine.who import user_at_host
from catdog_search.outside import is_absent
from catdog_search.redact import redact
from catdog_search.space import did_you_mean
from catdog_search.text import first_line
from catdog_search.tracking import vocabulary as words
from catdog_search.tracking.filters import all_pages, equals
from catdog_search.tracking.looked_at import is_ledger, registered_names, said_of
from catdog_search.tracking.models import MODEL_URI, find_model, model_id_of
from catdog_search.tracking.moves import Move, Note, Record
from catdog_search.tracking.store import Store, command_for, nothing_in, told

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion, RegisteredModel


CHAMPION_URI = MODEL_URI + "{}@" + words.CHAMPION


@dataclass(frozen=True)
class Registered:
    """A model version under its alias.

    Attributes:
        uri: Model's URI, `models:/<name>@champion`.
        version: Version of the registered model, from 1.
        created: Whether this call registered it; False if it was already registered.
        previous: Version that held the alias before, from 1; None if no other did.
    """

    uri: str
    version: int
    created: bool
    previous: int | None


@dataclass(frozen=True)
class Version:
    """A version, as the registry knows it.

    Attributes:
        number: Version's number, from 1.
        aliases: Aliases in MLflow, sorted.
        registered_at: Time of registration in UTC, in ISO 8601.
        tags: Tags that it was registered with.
        run_id: Id of the run that logged its model; None where the registry doesn't know.
        model_id: Id of the logged model; None for one registered in another way.
        source: URI or location of what was registered.
    """

    number: int
    aliases: tuple[str, ...]
    registered_at: str
    tags: Mapping[str, str]
    run_id: str | None
    model_id: str | None
    source: str


@dataclass(frozen=True)
class Model:
    """A registered model.

    Attributes:
        name: Model's name.
        versions: Versions, newest first.
        record: Record of its champion's moves.
    """

    name: str
    versions: tuple[Version, ...]
    record: Record


@dataclass(frozen=True)
class Said:
    """Facts that a version's files state.

    Attributes:
        class_names: Class names, index 1 positive; empty where the files can't be used.
        image_size: Side that it resizes to, in pixels; None where the files can't be used.
        missing: Why they can't be used; None where they can.
    """

    class_names: tuple[str, ...] = ()
    image_size: int | None = None
    missing: str | None = None


class Registry:
    """The registry of a store.

    Args:
        store: Its store; it is created if it doesn't exist, so readers must check that first.

    Raises:
        StateError: It can't be opened.
    """

    def __init__(self, store: Store) -> None:
        self._client = store.client()

    def models(self) -> list[Model]:
        """All registered models, by name.

        Raises:
            StateError: The registry doesn't answer, or a record of moves can't be read.
        """
        with told("the registry can't be read"):
            found = [
                each
                for each in all_pages(self._client.search_registered_models)
                if not is_ledger(each.name)
            ]
            versions: dict[str, list[ModelVersion]] = {each.name: [] for each in found}
            for version in all_pages(self._client.search_model_versions):
                versions.setdefault(version.name, []).append(version)
        return [_model(each, versions[each.name]) for each in sorted(found, key=lambda e: e.name)]

    def model(self, name: str) -> Model:
        """One registered model.

        Raises:
            StateError: There is none of this name, or as in `models`.
        """
        found = None if is_ledger(name) else self._find(name)
        if found is None:
            with told("the registry can't be read"):
                known = registered_names(self._client)
            none = f"none is registered {nothing_in(self._client.tracking_uri)}"
            there = did_you_mean(name, known, "registered") if known else none
            promote = command_for(self._client.tracking_uri, "promote STUDY")
            raise StateError(f"no registered model {name!r}; {there}; {promote} registers one")
        with told(f"registered model {name!r} can't be read"):
            return _model(found, self._versions(name))

    def said(self, name: str, version: int) -> Said:
        """Facts that a version's files state; the files are found as anyone loading it would."""
        import mlflow

        try:
            class_names, image_size = said_of(f"{MODEL_URI}{name}/{version}")
        except (FileNotFoundError, NotADirectoryError):
            return Said(missing="its files are gone")
        except (mlflow.exceptions.MlflowException, OSError, ValueError) as error:
            return Said(missing=f"its files can't be used: {first_line(error)}")
        return Said(class_names, image_size)

    def has_run(self, run_id: str) -> bool:
        """Whether a run exists and is not deleted.

        Raises:
            StateError: The store doesn't answer.
        """
        import mlflow

        with told(f"run {run_id} can't be read"):
            try:
                return bool(self._client.get_run(run_id).info.lifecycle_stage == "active")
            except mlflow.exceptions.MlflowException as error:
                if not is_absent(error):
                    raise
                return False

    def data_kind(self, run_id: str | None) -> str | None:
        """The kind of photos that a run trained on; None if it doesn't say or is gone."""
        if run_id is None or not self.has_run(run_id):
            return None
        kind: str | None = self._client.get_run(run_id).data.tags.get(words.DATA_KIND)
        return kind

    def register(
        self, name: str, model_id: str, tags: Mapping[str, str], description: str | None = None
    ) -> tuple[int, bool]:
        """Register a logged model unless it is; returns its version, and whether that is new.

        Args:
            name: Name of the registered model.
            model_id: Id of the logged model.
            tags: Tags of a new version.
            description: Description of a new version, in Markdown; None for none.

        Raises:
            StateError: The model or its files are gone, it isn't one of ours, or the name is that
                of the ledger or one that MLflow refuses.
        """
        if is_ledger(name):
            raise StateError(
                f"--model {name}: is the ledger of looks at photos of test; give another name"
            )
        if "@" in name:
            raise StateError(
                f"--model {name}: an @ parts a model's name from its alias; leave it out"
            )
        source = f"{MODEL_URI}{model_id}"
        with told(f"model {source} can't be registered as {name!r}"):
            said_of(source)
            known = self._versions(name)
            version = min((int(v.version) for v in known if v.source == source), default=None)
            created = version is None
            if version is None:
                if self._find(name) is None:
                    self._make(name)
                made = self._client.create_model_version(
                    name, source, tags=dict(tags), model_id=model_id, description=description
                )
                version = int(made.version)
            self._link(model_id, name, version)
        return version, created

    def move(self, name: str, to: int, command: str, reason: str = "", **of: str) -> int | None:
        """Make the alias `champion` name a version, unless it already does.

        The caller locks out others using its state meanwhile, see `StateFolder.registering`;
        anybody who moves the alias in another way is noticed afterwards.

        Args:
            name: Name of the registered model.
            to: Version that it should name, from 1.
            command: Command that moves it: `promote` or `rollback`.
            reason: Reason, for people; empty where the trial is reason enough.
            of: Study and trial, if a trial is promoted.

        Returns:
            The version that had the alias before.

        Raises:
            StateError: The registry doesn't answer, or somebody else moved the alias meanwhile.
        """
        with told(f"version {to} of {name!r} can't be made {words.CHAMPION}"):
            found = self._client.get_registered_model(name)
            record = Record.read(name, _champion(found), found.tags)
            note = Note(command, user_at_host(), now(), redact(reason), **of)
            if record.unfinished:
                self._write(name, record.unfinished.undone(note.at))
            if record.champion == to:
                return to
            self._write(
                name, Move(record.next_key(uuid.uuid4().hex[:8]), record.champion, to, note)
            )
            self._client.set_registered_model_alias(name, words.CHAMPION, str(to))
            after = _champion(self._client.get_registered_model(name))
        if after != to:
            where = "no version" if after is None else f"version {after}"
            raise StateError(
                f"version {to} of {name!r} was made {words.CHAMPION}, and somebody else moved the "
                f"alias meanwhile: it names {where}; `catdog-search models` tells who did what"
            )
        return record.champion

    def tags(self, name: str) -> Mapping[str, str]:
        """The tags of a registered model; empty if there is none of this name.

        Raises:
            StateError: The registry doesn't answer.
        """
        found = self._find(name)
        return {} if found is None else dict(found.tags)

    def tag(self, name: str, key: str, text: str, description: str) -> None:
        """Write a tag of a registered model, creating the model if it doesn't exist.

        Args:
            name: Name of the registered model.
            key: Tag's key.
            text: Tag's value.
            description: Description of a new model.

        Raises:
            StateError: The registry doesn't accept it.
        """
        with told(f"tag {key} of registered model {name!r} can't be written"):
            if self._find(name) is None:
                self._make(name, description)
            self._client.set_registered_model_tag(name, key, text)

    def _write(self, name: str, move: Move) -> None:
        self._client.set_registered_model_tag(name, move.key, move.text)

    def _find(self, name: str) -> RegisteredModel | None:
        import mlflow

        with told(f"registered model {name!r} can't be read"):
            try:
                return self._client.get_registered_model(name)
            except mlflow.exceptions.MlflowException as error:
                if not is_absent(error):
                    raise
                return None

    def _make(self, name: str, description: str | None = None) -> None:
        import mlflow

        try:
            self._client.create_registered_model(name, description=description)
        except mlflow.exceptions.MlflowException:
            if self._find(name) is None:  # else somebody has just created it
                raise

    def _link(self, model_id: str, name: str, version: int) -> None:
        """Note on a logged model that a version is based on it, so that its files are kept.

        MLflow's own `register_model` does so too, but not if it was interrupted before.
        """
        model = find_model(self._client, model_id)
        if model is None:
            return
        link = {"name": name, "version": version}
        links = json.loads(model.tags.get(words.MODEL_VERSIONS, "[]"))
        if any((each["name"], int(each["version"])) == (name, version) for each in links):
            return
        tags = {words.MODEL_VERSIONS: json.dumps([*links, link])}
        self._client.set_logged_model_tags(model_id, tags)

    def _versions(self, name: str) -> list[ModelVersion]:
        query = equals("name", name)
        return list(all_pages(self._client.search_model_versions, filter_string=query))


def register_champion(
    store: Store,
    name: str,
    model_id: str,
    tags: Mapping[str, str],
    description: str | None = None,
) -> Registered:
    """Register a logged model and move the alias `champion` to it.

    A model that is already registered gets no second version, so a repeated call changes nothing,
    and the next call completes an interrupted one.

    Raises:
        StateError: As in `Registry.register` and `Registry.move`.
    """
    registry = Registry(store)
    version, created = registry.register(name, model_id, tags, description)
    of = {key: tags[key] for key in (words.STUDY, words.TRIAL) if key in tags}
    previous = registry.move(name, version, words.PROMOTE, **of)
    uri = CHAMPION_URI.format(name)
    return Registered(uri, version, created, None if previous == version else previous)


def now() -> str:
    """The current time in UTC, in ISO 8601."""
    return _iso(datetime.now(UTC))


def _iso(at: datetime) -> str:
    return at.isoformat(timespec="seconds").replace("+00:00", "Z")


def _champion(found: RegisteredModel) -> int | None:
    version = found.aliases.get(words.CHAMPION)
    return None if version is None else int(version)


def _model(found: RegisteredModel, versions: Iterable[ModelVersion]) -> Model:
    aliases: dict[int, list[str]] = {}
    for alias, version in sorted(found.aliases.items()):
        aliases.setdefault(int(version), []).append(alias)
    known = sorted((_version(v, aliases) for v in versions), key=lambda v: -v.number)
    record = Record.read(found.name, _champion(found), found.tags)
    return Model(found.name, tuple(known), record)


def _time_of(milliseconds: Any) -> str:
    """When a version was registered; a row of a damaged store may hold anything."""
    try:
        return _iso(datetime.fromtimestamp(milliseconds / 1000, UTC))
    except (TypeError, ValueError, OverflowError, OSError):
        return f"unreadable ({str(milliseconds)[:40]!r})"


def _version(found: ModelVersion, aliases: Mapping[int, list[str]]) -> Version:
    number, source = int(found.version), found.source or ""
    return Version(
        number=number,
        aliases=tuple(aliases.get(number, ())),
        registered_at=_time_of(found.creation_timestamp),
        tags=dict(found.tags),
        run_id=found.run_id or None,
        model_id=model_id_of(source),
        source=source,
    )
