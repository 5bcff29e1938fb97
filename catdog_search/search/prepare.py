"""Prepare a call: from its request to the arguments of `run_study`.

A request that can't be met is refused here, before minutes of packing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from catdog_search.data import telling
from catdog_search.data.dataset import Dataset, as_it_was
from catdog_search.data.sources import (
    SYNTHETIC_NOTICE,
    Source,
    choose_source,
    has_photos,
    require_named,
)
from catdog_search.errors import RequestError
from catdog_search.families import registry
from catdog_search.machine.backends import choose_backend
from catdog_search.places import StateFolder
from catdog_search.search.coordinator import Options
from catdog_search.search.proposal.sampler import require_sampler
from catdog_search.search.study.storage import (
    remembered_data,
    remembered_splits,
    stated_data,
)
from catdog_search.study import studies
from catdog_search.study.config import DataConfig, Duplicates, StudyConfig
from catdog_search.text import in_a_line
from catdog_search.tracking.store import Store
from catdog_search.training.execution import NOTHING_FORCED, ForcedExecution, check

Say = Callable[[str], None]


@dataclass(frozen=True)
class Request:
    """Request of a call; None takes what the study remembers, else what its file says.

    Attributes:
        study: Name or path of a study file, or a study that has been checked. With `hypermodel`,
            the name of a study that has no file; None names it after the code.
        state: State folder that keeps the study.
        hypermodel: Code for KerasTuner, as `pkg.module:NAME`, to search without a study file.
        data: Folder or zip of photos.
        subset: Number of photos of train to use, from 2.
        labels: Source of the labels: `folders`, `names` or the path of a CSV file.
        classes: Class names as `FOUND[=OURS],…`, see `text.chosen_classes`.
        keep_splits: Whether photos stay in the split that their folder is named after.
        duplicates: Kind of duplicates that stay in one split.
        weights: Backbone's weights: `imagenet`, `none`, or the path of a Keras weights file.
        trials: Number of finished trials wanted, from 1, those of earlier calls and recipes
            included.
        timeout: Time that the call may take, in s.
        seeds: Number of seeds that each recipe is trained on, from 1.
        concurrency: Number of trials that train concurrently, from 1.
        deterministic: Whether the same trial must give bit-identical numbers.
        forced: Forced choices of how trainings run on the device.
    """

    study: str | StudyConfig | None
    state: StateFolder
    hypermodel: str | None = None
    data: str | None = None
    subset: int | None = None
    labels: str | None = None
    classes: str | None = None
    keep_splits: bool | None = None
    duplicates: Duplicates | None = None
    weights: str | None = None
    trials: int | None = None
    timeout: float | None = None
    seeds: int | None = None
    concurrency: int = 1
    deterministic: bool = False
    forced: ForcedExecution = NOTHING_FORCED


@dataclass(frozen=True)
class Prepared:
    """Arguments of `run_study`, except its listener.

    Attributes:
        config: Study's configuration, with this call's choices.
        dataset: Study's photos, packed at every image size of its space.
        state: State folder that keeps the study; it exists.
        options: Options of this call.
    """

    config: StudyConfig
    dataset: Dataset
    state: StateFolder
    options: Options

    @property
    def wanted(self) -> int:
        """Number of finished trials wanted, those of earlier calls and recipes included."""
        return self.options.trials


def prepare(request: Request, say: Say) -> Prepared:
    """Find and check a study, and pack its photos.

    Args:
        request: Request of the call.
        say: Callback for what a user should know, a line each.

    Raises:
        BackendError: There is no backend, or it can't do what is forced.
        StudyFileError: There is no such study, or its file is wrong.
        RequestError: Weights for a study that loads none; neither a study nor a hypermodel, or
            an invalid one.
        StateError: The sampler's package, a store or the state folder can't be used.
        DataError: The weights can't be loaded, or the photos can't be used.
    """
    check(request.forced, choose_backend())
    config, where, text = _study(request, say)
    forced = _forced(config, request.forced)
    _require_recipes(config, request.seeds)
    require_named(config.data, request.data)
    config = _with_weights(config, request.weights)
    require_sampler(config.sampler)
    state = request.state
    Store.of(state).require_open()
    said = config.name
    if config.data.source is None and not has_photos(config.data, request.data):
        config = config.drawn()
    say(f"study {config.name}{where}: {in_a_line(config.purpose)}")
    if config.name != said:
        say(
            f"no photos were given, so this runs on drawn pictures, as a study of its own: "
            f"{config.name}; with --data PATH it is {said}"
        )
    if config.found:
        epochs, patience = config.training.epochs, config.training.patience
        say(
            f"note: a trial has at most {epochs} epochs, and ends after {patience} without "
            "improvement; [training] of a study file sets others"
        )
        for note in config.found.notes:
            say(f"note: {note}")
    config = _with_data_choices(config, text, request, say)
    source = choose_source(config.data, request.data)
    say(f"data: {SYNTHETIC_NOTICE}" if source.kind == "synthetic" else f"data: {source.location}")
    state.create()  # a folder that can't be created is refused here too

    def remake() -> Dataset:
        return _packed(config, choose_source(config.data, request.data), request, lambda line: None)

    dataset = _packed(config, source, request, say)
    say(f"state: {state.root}")
    options = Options(
        trials=_wanted(config, request),
        timeout=request.timeout or config.timeout,
        seeds=request.seeds or config.seeds,
        concurrency=request.concurrency,
        deterministic=request.deterministic,
        forced=forced,
        study_file=text,
        remake=remake,
    )
    return Prepared(config, dataset, state, options)


def _study(request: Request, say: Say) -> tuple[StudyConfig, str, str]:
    """The study, where its file is (for people) and its text; both empty if already checked."""
    asked = request.study
    if isinstance(asked, StudyConfig):
        return asked, "", ""
    if request.hypermodel is not None:
        text = studies.file_of_hypermodel(request.hypermodel, asked)
        where = f"--hypermodel {request.hypermodel}"
    elif asked is not None:
        where = str(studies.find(asked))
        text = studies.read(where)
    else:
        raise RequestError("say what to run: --study NAME|FILE, or --hypermodel pkg.module:NAME")
    if code := studies.named_code(text, where):
        say(f"hypermodel {code}: it is run, to see what it searches; this takes a while")
    config = studies.parse_text(text, where)
    return config.called(asked or config.name), f" ({where})", text


def _require_recipes(config: StudyConfig, asked: int | None) -> None:
    """Refuse several seeds where there is no recipe to train on them."""
    if asked is not None and asked > 1 and not config.recipes:
        raise RequestError(
            f"--seeds {asked}: is the number of seeds of each recipe, and study {config.name} has "
            "none"
        )


def _forced(config: StudyConfig, forced: ForcedExecution) -> ForcedExecution:
    """How trainings run; a hypermodel reads its photos and compiles its steps in its own way.

    Raises:
        RequestError: A hypermodel is asked for another way.
    """
    if config.found is None:
        return forced
    for option, said in (
        ("--pixels device", forced.pixels == "device"),
        ("--steps-per-call", forced.steps_per_call),
        ("--xla", forced.xla),
    ):
        if said:
            raise RequestError(f"{option}: a hypermodel says that itself; leave it out")
    precision = forced.precision or "float32"
    return replace(forced, pixels="stream", precision=precision, steps_per_call=1)


def _with_weights(config: StudyConfig, weights: str | None) -> StudyConfig:
    """The study with other weights for its backbone; unusable ones are refused."""
    if not config.loads_weights:
        if weights is not None:
            loading = " and ".join(filter(registry.loads_weights, registry.names()))
            raise RequestError(
                f"--weights {weights}: study {config.name} is of the family {config.family}, "
                f"which starts random; only {loading} load weights"
            )
        return config
    wanted = weights or config.weights
    registry.require_weights(config.family, config.domain(), wanted)
    return config.model_copy(update={"weights": wanted})


def _wanted(config: StudyConfig, request: Request) -> int:
    return request.trials or config.wanted(request.seeds)


def _with_data_choices(config: StudyConfig, text: str, request: Request, say: Say) -> StudyConfig:
    """The study with its choices of photos: those given, else those that it remembers.

    What has changed in its file counts as given, so that it isn't passed over silently.
    """
    given = {name: getattr(request, name) for name in DataConfig.REMEMBERED}
    before = stated_data(request.state, config.name) if text else None
    if before is not None:
        now = studies.data_stated(text)
        changed = [n for n in given if given[n] is None and now.get(n) != before.get(n)]
        given |= {name: getattr(config.data, name) for name in changed}
    data = config.data.chosen(given, remembered_data(request.state, config.name))
    for name in given:
        value = getattr(data, name)
        if given[name] is None and value != getattr(config.data, name):
            say(f"{name}: {'not set' if value is None else value}, as the study began")
    return config.model_copy(update={"data": data})


def _packed(config: StudyConfig, source: Source, request: Request, say: Say) -> Dataset:
    subset = request.subset or config.data.subset
    sizes = telling.load(source, config.image_sizes(), say, subset, config.data.duplicates)
    return _as_remembered(sizes, request.state, config, say)


def _as_remembered(
    sizes: Mapping[int, Dataset], state: StateFolder, config: StudyConfig, say: Say
) -> Dataset:
    """The photos at the study's own image size; an existing study keeps its splits at all sizes."""
    dataset = sizes[config.image_size]
    remembered = remembered_splits(state, config.name)
    if remembered is None or remembered[0] == dataset.digest:
        return dataset
    found = {side: as_it_was(each, *remembered) for side, each in sizes.items()}
    if (kept := found[config.image_size]) is None:
        return dataset  # other photos; the study says so
    say(f"splits: as the study began; digest {kept.digest}")
    return kept
