"""What a study file may say: every key typed, bounded and described where it is declared."""

from __future__ import annotations

import re
from collections.abc import Mapping, Set
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, ConfigDict, Field, field_validator

from catdog_search.families import registry
from catdog_search.families.base import LARGEST_IMAGE, SMALLEST_IMAGE, Domain, Family, TrialParams
from catdog_search.families.hypermodel import Hypermodel
from catdog_search.fields import Table
from catdog_search.objective import Direction, Metric
from catdog_search.space import Knob, Params, Space
from catdog_search.study.narrowing import knobs_of
from catdog_search.text import one_spelling

Duplicates = Literal["near", "exact", "off"]
# Sources of labels other than a file.
LABELS = ("folders", "names")


def absolute_labels(labels: str) -> str:
    """The source of the labels; a file with its absolute path, so that a study finds it again."""
    return labels if labels in LABELS else str(Path(labels).expanduser().absolute())


# Allowed names of a study, which its experiment and its folders share.
NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
# What follows a study's name in that of the study of its finalists.
FINALISTS = ".finalists"
_OF_NAMES = (
    "letters, digits, '.', '_' and '-', at most 64, the first a letter or digit, and not "
    f"{FINALISTS} at the end"
)


def require_free_name(name: str) -> str:
    """A study's name, unless it is one that stands for something else.

    Raises:
        ValueError: It is; the message says what a name may be.
    """
    if not re.fullmatch(NAME, name) or name.endswith(FINALISTS):
        raise ValueError(_OF_NAMES)
    return name


# Suffix of the name of a study that fell back to drawn pictures.
DRAWN = "-drawn"


# Fields of a study that no file states.
NOT_IN_A_FILE = ("found",)


class DataConfig(Table):
    """`[data]`: where the photos come from when the command line doesn't say."""

    source: Literal["photos", "synthetic"] | None = Field(
        None,
        description="synthetic: always the built-in drawn pictures, unless --data is given; "
        "photos: never drawn pictures; without it drawn pictures are a study of its own, "
        "NAME-drawn",
    )
    path: str | None = Field(
        None, description="folder or zip, read where --data and CATDOG_DATA are absent"
    )
    synthetic_n: int = Field(
        2000, ge=40, le=100_000, description="pictures drawn where there are no photos"
    )
    subset: int | None = Field(
        None, ge=2, description="photos of train to use, a nested and stratified choice"
    )
    duplicates: Duplicates = Field(
        "near",
        description="which photos stay in one split; near: copies and what looks the same; exact: "
        "copies byte for byte; off: nobody asks",
    )

    labels: str | None = Field(
        None,
        min_length=1,
        description="what labels are read from; folders, names (as cat.1.jpg), or the path of a "
        "CSV file of two columns, a path or name and a label",
    )
    classes: str | None = Field(
        None,
        min_length=1,
        description="which classes are taken and what for; FOUND[=OURS],…, as cats=cat,dogs=dog",
    )
    keep_splits: bool = Field(
        False, description="photos stay in the split that their folder is named after"
    )

    @field_validator("labels")
    @classmethod
    def _absolute(cls, labels: str | None) -> str | None:
        return None if labels is None else absolute_labels(labels)

    @field_validator("classes")
    @classmethod
    def _one_spelling(cls, classes: str | None) -> str | None:
        return None if classes is None else one_spelling(classes)

    # Choices that a study remembers; `run` has an option of the same name for each.
    REMEMBERED: ClassVar[tuple[str, ...]] = ("duplicates", "labels", "classes", "keep_splits")

    def remembered(self) -> dict[str, Any]:
        """What a study remembers of these settings: the choices that aren't the defaults."""
        choices = {name: getattr(self, name) for name in self.REMEMBERED}
        fields = type(self).model_fields
        return {name: it for name, it in choices.items() if it != fields[name].default}

    def chosen(
        self, options: Mapping[str, Any], remembered: Mapping[str, Any] | None
    ) -> DataConfig:
        """These settings with the choices of one call.

        An option given on the command line takes precedence; without it a study continues with what
        it remembers, and a new study begins with what its file says.

        Args:
            options: Options of the command line, by name; None for those not given.
            remembered: Choices that the study `remembered` when it was made; None for a new one.
        """
        kept: dict[str, Any] = {}
        if remembered is not None:
            fields = type(self).model_fields
            kept = {name: remembered.get(name, fields[name].default) for name in self.REMEMBERED}
        given = {name: it for name, it in options.items() if it is not None}
        return self.model_copy(update={**kept, **given})


class TrainingConfig(Table):
    """`[training]`: the same for every trial."""

    epochs: int = Field(10, ge=1, le=10_000, description="at most so many")
    patience: int = Field(
        3, ge=1, le=10_000, description="epochs without improvement before a trial stops early"
    )
    min_delta: float = Field(0.0, ge=0, description="smallest change that counts as improvement")


# KerasTuner's oracles as samplers, with the options that are specific to each.
ORACLES: Mapping[str, tuple[str, ...]] = {
    "kt-random": (),
    "kt-grid": (),
    "kt-bayesian": ("num_initial_points", "alpha", "beta"),
    "kt-hyperband": ("factor", "hyperband_iterations"),
}


class SamplerConfig(Table):
    """`[sampler]`: who proposes params."""

    name: Literal[
        "tpe",
        "random",
        "grid",
        "qmc",
        "gp",
        "cmaes",
        "kt-random",
        "kt-grid",
        "kt-bayesian",
        "kt-hyperband",
    ] = Field(
        "tpe",
        description="Optuna's sampler, or with kt- KerasTuner's oracle; gp and cmaes want numbers "
        "without conditions, grid no continuous dimension and no condition",
    )
    n_startup_trials: int = Field(
        10, ge=1, le=10_000, description="random trials before tpe, gp or cmaes begin to model"
    )
    num_initial_points: int | None = Field(
        None,
        ge=1,
        le=10_000,
        description="random trials before kt-bayesian begins to model; absent: three for each "
        "param that is searched",
    )
    alpha: float = Field(
        1e-4, gt=0, le=1, description="noise that kt-bayesian expects of the metric"
    )
    beta: float = Field(2.6, ge=0, le=1000, description="how much kt-bayesian explores")
    factor: int = Field(
        3,
        ge=2,
        le=100,
        description="one in so many goes on, for so many times the epochs; kt-hyperband",
    )
    hyperband_iterations: int = Field(
        1, ge=1, le=1000, description="times that kt-hyperband goes through all its brackets"
    )

    def fingerprint(self) -> dict[str, Any]:
        """What makes trials comparable: the name, and the options that apply to it."""
        others = {option for options in ORACLES.values() for option in options}
        return self.model_dump(exclude=others - set(ORACLES.get(self.name, ())))


class PrunerConfig(Table):
    """`[pruner]`: who stops trials that look hopeless."""

    name: Literal["none", "median", "percentile", "asha", "hyperband", "patient"] = Field(
        "median", description="Optuna's pruner; patient waits before median may stop a trial"
    )
    n_startup_trials: int = Field(
        5, ge=0, le=10_000, description="trials before any is pruned; median, percentile, patient"
    )
    n_warmup_epochs: int = Field(
        2, ge=0, le=10_000, description="epochs before a trial is pruned; median, percentile"
    )
    percentile: float = Field(
        25.0, gt=0, lt=100, description="per cent of the trials that go on; percentile"
    )
    min_epochs: int = Field(
        1, ge=1, le=10_000, description="epochs before the first decision; asha, hyperband"
    )
    reduction_factor: int = Field(
        3, ge=2, le=100, description="one in so many goes on; asha, hyperband"
    )
    patience: int = Field(
        2, ge=0, le=10_000, description="epochs without improvement that are borne; patient"
    )


class LimitsConfig(Table):
    """`[limits]`: what a trial may use. Not part of what makes trials comparable."""

    max_parameters: int | None = Field(
        None, ge=1, description="weights of a network; larger ones aren't built"
    )
    max_memory_gb: float | None = Field(
        None,
        gt=0,
        le=1_000_000,
        description="of the worker's process; a larger estimate isn't built, a larger process is "
        "ended. By default 90 % of what the machine has free",
    )
    max_trial_minutes: float | None = Field(
        None, gt=0, description="a trial that is estimated to take longer isn't trained"
    )
    stall_minutes: float = Field(
        10,
        gt=0,
        le=1_000_000,
        description="without a sign of life after which a worker is taken for dead",
    )
    retry_minutes: float = Field(
        5,
        ge=0,
        le=1_000_000,
        description="to try again for where a store is locked or doesn't answer, before the study "
        "stops",
    )
    trials_per_worker: int = Field(
        50, ge=1, le=100_000, description="after which a worker gives way to a fresh one"
    )


class PromotionConfig(Table):
    """`[promotion]`: how a study's champion is chosen, and what it must reach.

    Not part of what makes trials comparable.
    """

    finalists: int = Field(
        3, ge=1, le=100, description="best COMPLETE trials that are trained again, by val"
    )
    seeds: int = Field(
        3,
        ge=1,
        le=100,
        description="new seeds that each finalist is trained on; with one finalist and one seed "
        "the best trial goes on as it is, without a guarantee of its calibration",
    )
    calibration_share: float = Field(
        0.05,
        gt=0,
        le=0.5,
        description="of train, which finalists aren't trained on: it calibrates the champion",
    )
    calibration_photos: int = Field(
        300, ge=2, le=1_000_000, description="of train, at least, for the same"
    )
    error_rate: float = Field(
        0.01,
        gt=0,
        lt=0.5,
        description="of the photos that the champion answers, at most; of others it is not sure",
    )
    costs: Mapping[str, Annotated[float, Field(gt=0)]] = Field(
        default_factory=dict,
        description="of a photo of a class taken for another, by class name; a class that isn't "
        "named costs 1",
    )
    min_accuracy: float | None = Field(
        None,
        ge=0,
        lt=1,
        description="gate: the lower 95 % bound of the accuracy on test is above it, and above the "
        "better floor, which is all that is asked where it is absent",
    )
    margin: float = Field(
        0.01,
        ge=0,
        lt=1,
        description="gate: what the accuracy may fall behind the best champion so far, on the same "
        "photos, at the lower 95 % bound of the difference",
    )
    min_recall_share: float = Field(
        0.7, ge=0, le=1, description="gate: each class's recall on test, in shares of the accuracy"
    )
    max_calibration_error: float = Field(
        0.05,
        gt=0,
        le=1,
        description="gate: on test, over 15 bins of equally many photos, beyond what chance shows",
    )
    max_latency_ms: float | None = Field(
        None,
        gt=0,
        description="gate: one photo on this machine, in ms; absent: measured, not asked",
    )
    max_size_mb: float = Field(200.0, gt=0, description="gate: of the model's file, in MB")
    max_leaked: int = Field(
        0, ge=0, description="gate: photos of test that have a copy, or nearly one, in train"
    )
    drawn_over_photos: bool = Field(
        False,
        description="gate: whether a champion of drawn pictures may follow one of photos",
    )

    @property
    def as_it_is(self) -> bool:
        """Whether the best trial is promoted without being trained again."""
        return self.finalists == self.seeds == 1


class PublishedConfig(Table):
    """`[published.RECIPE]`: what others reached with a recipe, to compare with its results here.

    Not part of what makes trials comparable.
    """

    train_accuracy: float | None = Field(None, ge=0, le=1, description="as published")
    val_accuracy: float | None = Field(None, ge=0, le=1, description="as published")
    precision: float | None = Field(None, ge=0, le=1, description="as published")
    recall: float | None = Field(None, ge=0, le=1, description="as published")


class StudyConfig(Table):
    """One study file, checked. `space` and `recipes` are read by `studies`."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    name: Annotated[str, AfterValidator(require_free_name)] = Field(
        description=f"{_OF_NAMES}; names the study and experiment",
    )
    purpose: str = Field(min_length=1, max_length=2000, description="what the study is to find out")
    family: str = Field(
        default_factory=registry.default,
        description=f"family of models: one of {', '.join(registry.names())}; any: the "
        "param network says which, trial by trial",
    )
    hypermodel: str | None = Field(
        None,
        min_length=1,
        description="of the family hypermodel: code for KerasTuner, as pkg.module:NAME, which is a "
        "HyperModel (class, instance or what makes one) or a function build(hp); it is run",
    )
    weights: str = Field(
        "imagenet",
        min_length=1,
        description="of the family resnet50: imagenet, which keras.applications fetches; none; or "
        "the path of a Keras weights file, whole or ending after a stage",
    )
    image_size: int = Field(
        ge=SMALLEST_IMAGE, le=LARGEST_IMAGE, description="side in pixels that photos are resized to"
    )
    metric: Metric = Field(description="objective; also what early stopping watches")
    direction: Direction = Field(description="of the metric")
    trials: int = Field(ge=1, le=1_000_000, description="finished trials the study asks for")
    timeout: float | None = Field(None, gt=0, le=1e9, description="seconds a call may take")
    seed: int = Field(0, ge=0, le=2**32 - 1, description="every trial's seed comes from it")
    seeds: int = Field(
        1, ge=1, le=1000, description="times each recipe is trained, each time on another seed"
    )
    keep_models: int = Field(3, ge=1, le=1000, description="best trials that keep their model")
    data: DataConfig = DataConfig()
    training: TrainingConfig = TrainingConfig()
    sampler: SamplerConfig = SamplerConfig()
    pruner: PrunerConfig = PrunerConfig()
    limits: LimitsConfig = LimitsConfig()
    promotion: PromotionConfig = PromotionConfig()
    space: Space
    recipes: Mapping[str, Params] = Field(default_factory=dict)
    published: Mapping[str, PublishedConfig] = Field(default_factory=dict)
    # What running `hypermodel` has shown.
    found: Hypermodel | None = None

    def fingerprint(self) -> dict[str, Any]:
        """What makes trials of this study comparable; trials, timeout and purpose don't count."""
        plain = self.model_dump(
            exclude={
                *("space", "recipes", "purpose", "trials", "timeout", "data", "keep_models"),
                *("limits", "seeds", "published", "promotion", "found", "hypermodel"),
            }
        )
        plain["sampler"] = self.sampler.fingerprint()
        plain["space"] = self.space.as_dict()
        plain["recipes"] = {name: dict(params) for name, params in self.recipes.items()}
        if not self.loads_weights:
            del plain["weights"]
        if choices := self.data.remembered():
            plain["data"] = choices
        if self.found is not None:
            plain["hypermodel"] = {"name": self.found.name, "source": self.found.source}
        return plain

    def drawn(self) -> StudyConfig:
        """This study on drawn pictures, renamed so that this name stays free for photos."""
        name = self.name if self.name.endswith(DRAWN) else f"{self.name}{DRAWN}"
        data = self.data.model_copy(update={"source": "synthetic"})
        return self.model_copy(update={"name": name, "data": data})

    def wanted(self, seeds: int | None = None) -> int:
        """Number of finished trials that a call wants; `trials` counts each recipe once.

        Args:
            seeds: Number of seeds of each recipe; None for the study's own.
        """
        return self.trials + ((seeds or self.seeds) - 1) * len(self.recipes)

    @property
    def most_epochs(self) -> int:
        """The most epochs that a trial can have."""
        dimension = None if self.found else self.space.dimensions.get("epochs")
        values = dimension.values if dimension else None
        return max(int(value) or self.training.epochs for value in values or (0,))

    @property
    def loads_weights(self) -> bool:
        """Whether `weights` matters."""
        return registry.loads_weights(self.family)

    def called(self, name: str) -> StudyConfig:
        """This study or its version on drawn pictures, whichever has the given name."""
        drawn = self.drawn()
        return drawn if drawn.name == name else self

    @property
    def stated(self) -> Params:
        """Its values for params that a trial may leave to it, by name; for `as_used`."""
        return {"image_size": self.image_size, "epochs": self.training.epochs}

    def family_of(self, params: Params) -> Family[Any]:
        """The family that a trial belongs to."""
        return registry.resolve(self.family, params)[0]

    def trial_params(self, params: Params) -> TrialParams:
        """A trial's params with the defaults of its family, and with `image_size` resolved."""
        if self.found is not None:
            return self.found.trial(params, self.image_size)
        family, own = registry.resolve(self.family, params)
        own["image_size"] = own.get("image_size") or self.image_size
        trial: TrialParams = family.params.model_validate(own)
        return trial

    def image_sizes(self) -> list[int]:
        """All image sizes that its trials can have, the study's own first."""
        if self.found is not None:
            return list(self.found.image_sizes or (self.image_size,))
        dimension = self.space.dimensions.get("image_size")
        values = [int(v) for v in dimension.values or ()] if dimension else []
        return list(dict.fromkeys([self.image_size, *(v for v in values if v)]))

    def knobs(self) -> Mapping[str, Knob]:
        """What a study file like this one may search, by name."""
        return knobs_of(self.found) if self.found else registry.knobs(self.family)

    def domain(self, unread: Set[str] = frozenset()) -> Domain:
        """The domain of its trials' params.

        Args:
            unread: Those that its file specifies wrongly.
        """
        defaults = {name: knob.default for name, knob in self.knobs().items()}
        return Domain(self.space, defaults, tuple(self.image_sizes()), unread)
