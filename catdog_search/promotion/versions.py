"""The versions of registered models, and whether what they came from still exists; read-only."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from catdog_search.errors import StateError
from catdog_search.places import StateFolder
from catdog_search.search.study import schema
from catdog_search.search.study.storage import existing_studies, load_study
from catdog_search.tracking import vocabulary as words
from catdog_search.tracking.ledger import Ledger
from catdog_search.tracking.looked_at import tested
from catdog_search.tracking.moves import Move, Outcome
from catdog_search.tracking.promotions import PromotionRun
from catdog_search.tracking.registry import Model, Registry, Said, Version
from catdog_search.tracking.store import Store, nothing_in

# Shown like an alias of MLflow's, but derived from the record of moves.
PREVIOUS = "previous"


@dataclass(frozen=True)
class OnTest:
    """What a version reached on test.

    Attributes:
        accuracy: Accuracy, 0 to 1.
        interval: Bounds of its 95 % interval.
        n: Number of photos.
        looks: Number of looks at these photos so far, its own included; the number at registration
            where it is no longer known which photos they are.
    """

    accuracy: float
    interval: tuple[float, float]
    n: int
    looks: int

    @classmethod
    def read(cls, tags: Mapping[str, str]) -> OnTest | None:
        """What a version's tags say; None where they say nothing, or not in our format."""
        said = tested(tags)
        if said is None:
            return None
        return cls(said.accuracy, (said.low, said.high), said.n, said.looks)


@dataclass(frozen=True)
class VersionRow:
    """One version, for people.

    Attributes:
        model: Name of the registered model.
        version: Its number.
        aliases: MLflow's, and `previous`.
        study: Study whose trial it is; None for one that something else registered.
        trial: Trial's number; None likewise.
        trained_as: Study and trials that trained it, where they are others: those finalists of that
            trial on new seeds. None otherwise.
        metric: Metric of `value`; None where it is no longer known.
        value: The objective on val; None where it isn't stated.
        test: What it reached on test; None where nobody looked.
        registered_at: Time of registration in UTC, in ISO 8601.
        move: Last move that made it champion; None where none is recorded.
        run_id: Id of the run that logged its model.
        model_id: Id of the logged model.
        dataset_digest: Digest of the dataset that it was trained on.
        tags: All tags that it was registered with.
        said: Facts that its files state.
        gone: Lines, one for each thing that was deleted or can't be found here.
    """

    model: str
    version: int
    aliases: tuple[str, ...]
    study: str | None
    trial: str | None
    trained_as: str | None
    metric: str | None
    value: float | None
    test: OnTest | None
    registered_at: str
    move: Move | None
    run_id: str | None
    model_id: str | None
    dataset_digest: str | None
    tags: dict[str, str]
    said: Said
    gone: tuple[str, ...]


@dataclass(frozen=True)
class ModelRows:
    """A registered model, for people.

    Attributes:
        name: Model's name.
        champion: Version that the alias names; None for none.
        previous: Previous champion's version; None for none.
        versions: Versions, newest first.
        moves: Moves of the champion in order, each with its outcome.
    """

    name: str
    champion: int | None
    previous: int | None
    versions: tuple[VersionRow, ...]
    moves: tuple[tuple[Move, Outcome], ...]

    @property
    def unfinished(self) -> Move | None:
        """The last move, if it didn't happen and isn't marked so."""
        return next((move for move, outcome in self.moves if outcome == "open"), None)


def list_models(state: StateFolder) -> list[ModelRows]:
    """All registered models; creates nothing.

    Raises:
        StateError: The registry can't be read.
    """
    store = Store.of(state)
    if store.is_absent():
        return []
    look = _Look(state, Registry(store))
    return [look.rows(model) for model in look.registry.models()]


def find_version(state: StateFolder, name: str, version: int | None) -> ModelRows:
    """A registered model with one version: by default its champion, else its newest.

    Raises:
        StateError: There is none of this name or number, or the registry can't be read.
    """
    registry, model = find_model(state, name)
    number = version or model.record.champion or (model.versions[0].number if model.versions else 0)
    require_version(model, number)
    return _Look(state, registry).rows(model, only=number)


def card_of(state: StateFolder, row: VersionRow) -> str | None:
    """The model card of a version; None where its promotion wrote none or its run is gone.

    Raises:
        StateError: The registry can't be read.
    """
    store = Store.of(state)
    if row.run_id is None or not Registry(store).has_run(row.run_id):
        return None
    run = PromotionRun.of(store, row.run_id)
    return None if run is None else run.card()


def find_model(state: StateFolder, name: str) -> tuple[Registry, Model]:
    """A registered model and its registry; creates nothing.

    Raises:
        StateError: There is none of this name, or the registry can't be read.
    """
    store = Store.of(state)
    if store.is_absent():
        raise StateError(
            f"no registered model {name!r} {nothing_in(store.uri)}; "
            f"{state.command('promote STUDY')} registers one"
        )
    registry = Registry(store)
    return registry, registry.model(name)


def registered(store: Store, name: str) -> Model | None:
    """A registered model; None where there is none of this name. Creates nothing.

    Raises:
        StateError: The registry can't be read.
    """
    if store.is_absent():
        return None
    return next((model for model in Registry(store).models() if model.name == name), None)


def champion_of_others(store: Store, name: str, ours: tuple[str, ...]) -> str | None:
    """What a model's champion tells apart, for people, if that is other classes than ours.

    Args:
        store: Store of the registry.
        name: Name of the registered model.
        ours: Our class names, by index.

    Raises:
        StateError: The registry can't be read.
    """
    model = registered(store, name)
    if model is None or model.record.champion is None:
        return None
    theirs = Registry(store).said(name, model.record.champion).class_names
    if not theirs or theirs == ours:
        return None
    return f"champion version {model.record.champion} of {name!r} tells {' from '.join(theirs)}"


def require_version(model: Model, number: int) -> None:
    """Refuse a number that no version of a model has.

    Raises:
        StateError: No version has it.
    """
    known = [version.number for version in model.versions]
    if number not in known:
        there = f"there are {', '.join(map(str, sorted(known)))}" if known else "it has none"
        raise StateError(f"registered model {model.name!r} has no version {number}; {there}")


class _Look:
    """Looks up versions, reading each study only once.

    Args:
        state: State folder that may hold their studies.
        registry: Registry that holds them.
    """

    def __init__(self, state: StateFolder, registry: Registry) -> None:
        self.registry = registry
        self._state = state
        self._studies = existing_studies(state)
        self._store = Store.of(state)
        self._ledger = Ledger(state, self._store)

    def rows(self, model: Model, only: int | None = None) -> ModelRows:
        record = model.record
        versions = [v for v in model.versions if only in (None, v.number)]
        return ModelRows(
            model.name,
            record.champion,
            record.previous,
            tuple(self._row(model, version) for version in versions),
            record.outcomes(),
        )

    def _row(self, model: Model, version: Version) -> VersionRow:
        tags = version.tags
        study = tags.get(words.STUDY)
        said = self.registry.said(model.name, version.number)
        derived = (PREVIOUS,) if version.number == model.record.previous else ()
        return VersionRow(
            model=model.name,
            version=version.number,
            aliases=tuple(dict.fromkeys((*version.aliases, *derived))),
            study=study,
            trial=tags.get(words.TRIAL),
            trained_as=self._trained_as(version, study),
            metric=tags.get(words.METRIC) or self._metric(study),
            value=_number(tags.get(words.OBJECTIVE)),
            test=self._on_test(version),
            registered_at=version.registered_at,
            move=model.record.moved(version.number),
            run_id=version.run_id,
            model_id=version.model_id,
            dataset_digest=tags.get(words.DATASET_DIGEST) or None,
            tags=dict(tags),
            said=said,
            gone=tuple(self._gone(version, study, said)),
        )

    def _run(self, version: Version) -> PromotionRun | None:
        """The run of the promotion that registered a version; None where there is none left."""
        if version.run_id is None or not self.registry.has_run(version.run_id):
            return None
        return PromotionRun.of(self._store, version.run_id)

    def _trained_as(self, version: Version, study: str | None) -> str | None:
        run = self._run(version)
        choice = ((run.record() if run else None) or {}).get("choice", {})
        if choice.get("trained_in") in (None, study):
            return None
        numbers = ", ".join(map(str, choice["trials"]))
        return f"trial {numbers} of {choice['trained_in']}"

    def _on_test(self, version: Version) -> OnTest | None:
        said, run = OnTest.read(version.tags), self._run(version)
        if said is None or run is None:
            return said
        answers = run.answers("test")
        if answers is None:
            return said
        return replace(said, looks=len(self._ledger.looks(answers.hashes.tolist()).known))

    def _metric(self, study: str | None) -> str | None:
        """The metric from the study, for older versions without it."""
        if study not in self._studies:
            return None
        return load_study(self._state, study).user_attrs.get(schema.METRIC)

    def _gone(self, version: Version, study: str | None, said: Said) -> Iterator[str]:
        if study is not None and study not in self._studies:
            yield f"its study {study!r} isn't in {self._state.root}"
        if version.run_id and not self.registry.has_run(version.run_id):
            yield f"its run {version.run_id} was deleted"
        if said.missing:
            yield said.missing


def _number(text: str | None) -> float | None:
    try:
        return None if text is None else float(text)
    except ValueError:
        return None  # a tag that something else wrote
