"""The best trials trained again on new seeds, as a study of their own.

The best of many trials is best partly by luck: its val score flatters it. New seeds tell how much
of it lasts, and a part of train is set aside, from which nothing learns.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from catdog_search.data.calibration import set_aside
from catdog_search.data.dataset import Dataset
from catdog_search.data.manifest import CALIBRATION
from catdog_search.errors import RequestError, StateError
from catdog_search.families import registry
from catdog_search.places import StateFolder
from catdog_search.promotion.expected import cost_of, expected_s
from catdog_search.search.coordinator import Report, run_study
from catdog_search.search.events import Listener
from catdog_search.search.prepare import Prepared
from catdog_search.search.study.settings import made_with
from catdog_search.search.study.storage import existing_studies, load_study, remembered_splits
from catdog_search.search.study.views import StudyView, TrialRow, load_view, view_of
from catdog_search.space import Params, params_key
from catdog_search.study.config import FINALISTS, PrunerConfig, SamplerConfig, StudyConfig

_LONGEST_NAME = 64
_DIGITS = 8


@dataclass(frozen=True)
class Finalist:
    """A set of params that is trained again.

    Attributes:
        name: Name of its recipe in the study of finalists.
        trial: The best trial of the promoted study that had these params.
        seeds: Its COMPLETE trials on new seeds, in the order of the seeds; empty before training.
        operations: Multiply-adds that one photo takes; 0 where only building it would tell.
        begins_alike: Whether every training begins with the same loaded weights.
    """

    name: str
    trial: TrialRow
    seeds: tuple[TrialRow, ...]
    operations: int
    begins_alike: bool

    @property
    def values(self) -> list[float]:
        """The objective on val, seed by seed."""
        return [row.value for row in self.seeds if row.value is not None]


@dataclass(frozen=True)
class Plan:
    """The plan for a study of finalists.

    Attributes:
        prepared: Arguments of `run_study`.
        finalists: Finalists, best first.
        wanted: Number of seeds of each.
        missing: Number of trainings that are not over yet.
        left: Number of trainings that an earlier call with other counts left waiting; they come
            before the missing ones.
        outside: Numbers of better trials that are left out, since the space, which has changed
            since, no longer has their params.
        seconds: Expected duration of what is missing or left, from how long trials of the same
            params took, in s; None where that isn't known.
    """

    prepared: Prepared
    finalists: tuple[Finalist, ...]
    wanted: int
    missing: int
    left: int
    outside: tuple[int, ...]
    seconds: float | None

    @property
    def study(self) -> str:
        """Name of the study of finalists."""
        return self.prepared.config.name

    @property
    def calibration(self) -> int:
        """Number of photos of train that are set aside."""
        return self._counted(CALIBRATION)

    @property
    def train(self) -> int:
        """Number of photos of train, including those."""
        return self._counted("train") + self.calibration

    def _counted(self, split: str) -> int:
        return sum(photo.split == split for photo in self.prepared.dataset.manifest.photos)


def name_of(study: str) -> str:
    """Name of the study that trains a study's finalists."""
    if len(study) + len(FINALISTS) <= _LONGEST_NAME:
        return study + FINALISTS
    digest = hashlib.sha256(study.encode()).hexdigest()[:_DIGITS]
    return f"{study[: _LONGEST_NAME - len(FINALISTS) - _DIGITS - 1]}-{digest}{FINALISTS}"


def require_no_finalists(study: str) -> None:
    """Refuse to promote a study of finalists.

    Raises:
        RequestError: It is one.
    """
    if study.endswith(FINALISTS):
        of = study.removesuffix(FINALISTS)
        raise RequestError(f"study {study!r} holds finalists; promote {of!r}, whose they are")


def best_of(view: StudyView, most: int) -> list[TrialRow]:
    """The best COMPLETE trials of a study, one per set of params.

    Raises:
        StateError: There is none.
    """
    ranked = view.ranked()
    if not ranked:
        counts = ", ".join(f"{n} {s}" for s, n in sorted(view.counts.items())) or "no trial"
        raise StateError(f"study {view.name!r} has no COMPLETE trial to promote ({counts})")
    first: dict[str, TrialRow] = {}
    for row in ranked:
        first.setdefault(params_key(row.params), row)
    return list(first.values())[:most]


def plan(view: StudyView, prepared: Prepared) -> Plan:
    """Plan what is to be trained again, by the study's `[promotion]`.

    Args:
        view: Study to promote.
        prepared: Arguments that it would be continued with.

    Raises:
        StateError: It has no COMPLETE trial in its space, or its finalists were trained with
            different photos set aside.
        DataError: Train has too few photos to set some aside.
    """
    config, state = prepared.config, prepared.state
    asked = config.promotion
    name = name_of(config.name)
    dataset = _dataset(prepared, prepared.dataset)
    _require_same_aside(state, name, dataset)
    there, before = _so_far(state, name)
    ranked = best_of(view, len(view.trials))
    inside = [row for row in ranked if not row.outside][: asked.finalists]
    if not inside:
        raise StateError(
            f"study {config.name!r}: its COMPLETE trials are all outside of the space as it is "
            "now; widen that again, or promote the best as it is: --finalists 1 --seeds 1"
        )
    known = {_digest_in(row.recipe): row.recipe for row in there if row.recipe}
    recipes = {known.get(_digest_of(row)) or _recipe_name(row): row for row in inside}
    derived = config.model_copy(
        update={
            "name": name,
            "purpose": f"The best of {config.name} on new seeds, for promotion.",
            "seed": _seed(config.seed),
            "sampler": SamplerConfig(name="random"),
            "pruner": PrunerConfig(name="none"),
            "recipes": {**before, **{each: row.varied for each, row in recipes.items()}},
            "published": {},
        }
    )
    over = {(row.recipe, row.replicate) for row in there if row.is_over}
    begun = {(row.recipe, row.replicate) for row in there}
    wanted = [(each, seed) for seed in range(asked.seeds) for each in recipes]
    missing = [pair for pair in wanted if pair not in over]
    left = begun - over - set(missing)
    n_trials = len(there) + len(set(missing) - begun)
    by_digest = {_digest_of(row): row for row in reversed(view.ranked())}
    to_go = [by_digest.get(_digest_in(each or "")) for each, _ in (*missing, *left)]
    options = dataclasses.replace(
        prepared.options,
        trials=n_trials,
        seeds=asked.seeds,
        timeout=None,
        recipes=list(recipes),
        study_file=_as_file(derived),
        remake=lambda: _dataset(prepared, _remade(prepared)),
    )
    derived = derived.model_copy(update={"trials": max(n_trials, 1), "keep_models": 1000})
    return Plan(
        prepared=Prepared(derived, dataset, state, options),
        finalists=tuple(_finalist(config, each, row, there) for each, row in recipes.items()),
        wanted=asked.seeds,
        missing=len(missing),
        left=len(left),
        outside=tuple(
            row.number
            for row in itertools.takewhile(lambda r: r != inside[-1], ranked)
            if row.outside
        ),
        seconds=expected_s(config, view.ranked(), to_go, there),
    )


def train(planned: Plan, listener: Listener) -> Report:
    """Train what is missing, resuming where possible.

    Raises:
        StateError: As in `run_study`.
    """
    prepared = planned.prepared
    return run_study(prepared.config, prepared.dataset, prepared.state, listener, prepared.options)


def trained(planned: Plan) -> tuple[Finalist, ...]:
    """The finalists with their seeds, except those without a COMPLETE trial.

    Raises:
        StateError: There is none left.
    """
    view = load_view(planned.prepared.state, planned.study)
    config = planned.prepared.config
    found = [_finalist(config, f.name, f.trial, view.trials) for f in planned.finalists]
    whole = tuple(dataclasses.replace(f, seeds=f.seeds[: planned.wanted]) for f in found if f.seeds)
    if not whole:
        ended = ", ".join(sorted({str(row.error or row.state) for row in view.trials}))
        raise StateError(f"study {planned.study!r}: no finalist was trained to its end: {ended}")
    return whole


def _finalist(
    config: StudyConfig, name: str, trial: TrialRow, rows: Sequence[TrialRow]
) -> Finalist:
    own = [row for row in rows if row.recipe == name and row.value is not None]
    params = config.trial_params(trial.params)
    cost = cost_of(config, params)
    begins_alike = registry.family_of(params).loads_weights and config.weights != "none"
    return Finalist(
        name=name,
        trial=trial,
        seeds=tuple(sorted(own, key=lambda row: row.replicate)),
        operations=cost.multiply_adds + cost.forward_only + cost.once if cost else 0,
        begins_alike=begins_alike,
    )


def _recipe_name(row: TrialRow) -> str:
    """Includes a digest of the params: in a recreated study this number is of another trial."""
    return f"trial-{row.number:04d}-{_digest_of(row)}"


def _digest_of(row: TrialRow) -> str:
    return hashlib.sha256(params_key(row.params).encode()).hexdigest()[:_DIGITS]


def _digest_in(recipe: str) -> str:
    """Identifies params, even if another trial with the same params is now the best."""
    return recipe.rpartition("-")[2]


def _so_far(state: StateFolder, name: str) -> tuple[list[TrialRow], Mapping[str, Params]]:
    """Trials of the study of finalists, and the recipes that it was made with and must keep."""
    if name not in existing_studies(state):
        return [], {}
    study = load_study(state, name)
    return view_of(study).trials, made_with(study).get("recipes", {})


def _seed(seed: int) -> int:
    """A seed derived from the study's, so that the finalists' trials have new ones."""
    digest = hashlib.sha256(f"finalists:{seed}".encode()).digest()
    return int.from_bytes(digest[:4], "big")


def _dataset(prepared: Prepared, dataset: Dataset) -> Dataset:
    """The photos with a part of train set aside, at every image size."""
    config = prepared.config
    sizes = {side: dataclasses.replace(dataset, image_size=side) for side in config.image_sizes()}
    asked = config.promotion
    return set_aside(sizes, asked.calibration_share, asked.calibration_photos)[config.image_size]


def _require_same_aside(state: StateFolder, name: str, dataset: Dataset) -> None:
    remembered = remembered_splits(state, name)
    if remembered is not None and remembered[0] != dataset.digest:
        raise StateError(
            f"study {name!r} was trained with other photos set aside than [promotion] "
            "calibration_share and calibration_photos ask for now; change them back, or use "
            "another --state"
        )


def _remade(prepared: Prepared) -> Dataset:
    assert prepared.options.remake is not None, "a prepared call can"
    return prepared.options.remake()


def _as_file(config: StudyConfig) -> str:
    """Text kept as the study file of the finalists' run, for which nobody wrote one."""
    facts = json.dumps(config.fingerprint(), indent=2, sort_keys=True, default=str)
    lines = "\n".join(f"# {line}" for line in facts.splitlines())
    return f"# {config.purpose} Made by catdog-search promote, of:\n{lines}\n"
