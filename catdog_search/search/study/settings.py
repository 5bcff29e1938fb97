"""The settings that a study was made with, and those that it is asked to continue with."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import optuna

from catdog_search.data.dataset import Dataset
from catdog_search.errors import CatdogError, StateError
from catdog_search.families.weights import weights_id
from catdog_search.places import StateFolder
from catdog_search.search.study.schema import FINGERPRINT, PARENT_RUN_ID, PHOTOS
from catdog_search.space import Space, Value
from catdog_search.study.config import LABELS, DataConfig, StudyConfig
from catdog_search.tracking.recorded import RunReader
from catdog_search.tracking.store import Store

# Numbers that differ by less than this count as the same.
_ROUNDING = 1e-9

# Settings whose change makes trials incomparable, and why.
_FIXED = {
    "dataset_digest": "scores on other photos can't be compared",
    "subset": "more photos of train make better scores by themselves",
    "data": "other choices make other splits",
    "metric": "trials are ranked by it",
    "direction": "trials are ranked by it",
    "family": "another family has other params",
    "image_size": "larger photos make better scores by themselves; search it in [space]",
    "training": "how long trials may train changes their scores by itself",
    "weights": "other weights make other scores by themselves",
    "seed": "the seeds of trials follow from it",
    "hypermodel": "other code searches and trains otherwise",
    "recipes": "its trials had other params; give the changed recipe a name of its own",
}


def made_with(study: optuna.Study) -> dict[str, Any]:
    """Settings that a study was made with, which `open_study` compares; empty before a run."""
    stored = study.user_attrs.get(FINGERPRINT)
    found: dict[str, Any] = json.loads(stored) if stored else {}
    return found


def settings_of(config: StudyConfig, dataset: Dataset) -> dict[str, Any]:
    """Settings that make the trials of a study comparable, including its photos and weights."""
    now = {
        **config.fingerprint(),
        "dataset_digest": dataset.digest,
        "subset": dataset.subset,
    }
    if "weights" in now:
        now["weights"] = weights_id(config.weights)
    return now


def require_same(
    study: optuna.Study, config: StudyConfig, dataset: Dataset, state: StateFolder
) -> dict[str, Any]:
    """Refuse settings that a study wasn't made with.

    Args:
        study: Study in Optuna's storage.
        config: Study's configuration.
        dataset: Dataset that it is to train on.
        state: State folder that keeps the study.

    Returns:
        Settings that it should remember.

    Raises:
        StateError: It was made with another space, objective or dataset; the differences are named.
    """
    now = as_read_back(settings_of(config, dataset))
    then = _with_moved_labels(made_with(study), now)
    found = list(differences(_with_defaults(then), _with_defaults(now)))
    if refused := [each for each in found if not may_change(each, then, now)]:
        said = "; ".join(_refusal(each, study, dataset, state) for each in refused)
        raise StateError(
            f"study {config.name!r} in {state.root} has trials that could not be compared with "
            f"those to come: {said}. Give the changed study another name, use another --state, or "
            f"remove this one: {state.command(f'study delete {config.name}')}"
        )
    return _updated(then, now, found)


def _with_defaults(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with the choices of photos that weren't stated, so that each is compared."""
    fields = DataConfig.model_fields
    defaults = {name: fields[name].default for name in DataConfig.REMEMBERED}
    return {**settings, "data": {**defaults, **settings.get("data", {})}}


def is_as_made(study: optuna.Study, config: StudyConfig) -> bool:
    """Whether a study was made with these settings, as far as a study file states them."""
    made = made_with(study)
    said = as_read_back(config.fingerprint())
    of_call = ("dataset_digest", "subset", "weights", "data")
    then, now = ({k: v for k, v in each.items() if k not in of_call} for each in (made, said))
    return not any(differences(then, now))


def _with_moved_labels(then: dict[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """Settings that a study remembers, but with the current path of its labels file.

    The content of the file is compared by the dataset's digest.
    """
    was, moved = (dict(facts.get("data", {})) for facts in (then, now))
    files = {data.get("labels") for data in (was, moved)}
    if files & {None, *LABELS} or len(files) == 1:
        return then
    return {**then, "data": {**was, "labels": moved["labels"]}}


@dataclass(frozen=True)
class Difference:
    """A setting that has changed.

    Attributes:
        key: Its path, such as `space.dropout.high`.
        before: What it was; None where it wasn't there.
        after: What it is; None where it isn't there.
    """

    key: str
    before: Any
    after: Any

    def __str__(self) -> str:
        """As `space.dropout.high was 0.5, now 0.6`."""
        return f"{self.key} was {_say(self.before)}, now {_say(self.after)}"


def differences(
    then: Mapping[str, Any], now: Mapping[str, Any], path: str = ""
) -> Iterator[Difference]:
    """Every leaf that differs.

    A new recipe is not a difference: it is tried next.
    """
    for key in sorted({*then, *now}):
        before, after, at = then.get(key), now.get(key), f"{path}{key}"
        if _is_same(before, after) or (path == "recipes." and key not in then):
            continue
        if isinstance(before, dict) and isinstance(after, dict):
            yield from differences(before, after, f"{at}.")
        else:
            yield Difference(at, before, after)


def may_change(found: Difference, then: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Whether trials before and after a change remain comparable.

    Args:
        found: The change.
        then: All settings that the study remembers.
        now: All settings that are asked for.
    """
    first = found.key.partition(".")[0]
    if first in ("space", "sampler", "pruner"):
        return True
    if first == "recipes":  # it gained or lost a param along with the space, or is gone
        return found.before is None or found.after is None
    return found.key == "training.epochs" and _only_goes_on_longer(then, now)


def _only_goes_on_longer(then: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Whether epochs were added without affecting earlier ones, as at a constant rate."""
    more = int(now["training"]["epochs"]) > int(then["training"]["epochs"])
    return more and all(_schedules(each) <= {"constant"} for each in (then, now))


def _schedules(settings: Mapping[str, Any]) -> set[Value]:
    dimension = Space.of_dict(settings["space"]).dimensions.get("schedule")
    return {"constant"} if dimension is None else set(dimension.values or ())


def _updated(
    then: Mapping[str, Any], now: Mapping[str, Any], found: list[Difference]
) -> dict[str, Any]:
    """The settings to remember, including the changes."""
    changed = {each.key.partition(".")[0] for each in found} - {"recipes"}
    updated = {**then, **{key: now[key] for key in changed}}
    known = then.get("recipes", {})
    kept = {name: now["recipes"].get(name, params) for name, params in known.items()}
    return {**updated, "recipes": kept} if "recipes" in then else updated


def about_photos(dataset: Dataset) -> str:
    """Description of a dataset that a study remembers, for people."""
    manifest, n = dataset.manifest, len(dataset.manifest.used())
    if manifest.kind == "synthetic":
        return f"{n:,} drawn pictures"
    return f"{n:,} photos of {manifest.location}"


def _refusal(found: Difference, study: optuna.Study, dataset: Dataset, state: StateFolder) -> str:
    first = found.key.partition(".")[0]
    said = str(found)
    if first == "dataset_digest":
        was, now = study.user_attrs.get(PHOTOS, "other photos"), about_photos(dataset)
        digests = f"digest {found.before[:8]}, now {found.after[:8]}"
        said = f"photos were {was}, now {now}{_new_and_gone(study, dataset, state)} ({digests})"
    why = _FIXED.get(first)
    return f"{said} ({why})" if why else said


def _new_and_gone(study: optuna.Study, dataset: Dataset, state: StateFolder) -> str:
    """How many photos are others than a study has; empty where that isn't known, or all are."""
    try:
        known = RunReader(Store.of(state)).hashes(study.user_attrs.get(PARENT_RUN_ID, ""))
    except CatdogError:
        return ""
    then, now = (set(itertools.chain(*by.values())) for by in (known or {}, dataset.hashes()))
    if then == now:
        return ", the same ones with other labels or splits"
    if then.isdisjoint(now):
        return ""
    return f", of those used {len(now - then):,} new and {len(then - now):,} gone"


def as_read_back(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as a study reads them back from its storage."""
    plain: dict[str, Any] = json.loads(json.dumps(settings))
    return plain


def _is_same(before: object, after: object) -> bool:
    """Whether two values differ at most in rounding: 0.3 was once 0.30000000000000004."""
    if isinstance(before, float) and isinstance(after, float):
        return math.isclose(before, after, rel_tol=_ROUNDING)
    if isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        return all(map(_is_same, before, after))
    return before == after


def _say(value: object) -> str:
    return "not set" if value is None else json.dumps(value, ensure_ascii=False)
