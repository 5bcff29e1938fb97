"""What a study file may say: every key typed, bounded and described where it is declared."""

from __future__ import annotations

import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import annotated_types
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    TypeAdapter,
    ValidationError,
    field_validator,
)
from pydantic.fields import FieldInfo

from catdog_search.errors import StudyFileError
from catdog_search.objective import DIRECTION_OF, Direction, Metric
from catdog_search.space import Knob, Params, Space, did_you_mean
from catdog_search.text import one_spelling

Duplicates = Literal["near", "exact", "off"]
# What labels are read from, where that is no file.
LABELS = ("folders", "names")

# Sides of photos, in pixels.
SMALLEST_IMAGE, LARGEST_IMAGE = 8, 1024


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


AUGMENTATIONS = (
    "flip",
    "alternating_flip",
    "rotation",
    "zoom",
    "translation",
    "brightness",
    "contrast",
    "saturation",
    "erasing",
    "mixup",
)
_KIND = "|".join(AUGMENTATIONS)


def _each_once(kinds: str) -> str:
    named = kinds.split("+")
    if len(set(named)) < len(named) or {"flip", "alternating_flip"} <= set(named):
        raise ValueError("each kind once, and flip or alternating_flip")
    return kinds


AugmentationKinds = Annotated[
    str,
    StringConstraints(pattern=rf"^({_KIND})(\+({_KIND}))*$"),
    AfterValidator(_each_once),
]


class TrialParams(_Table):
    """Params that every family has: of size, regularization, augmentation and optimization."""

    image_size: int = Field(
        0,
        ge=0,
        le=LARGEST_IMAGE,
        description="side in pixels of this trial's photos; 0: as the study says",
    )
    dense_units: int = Field(
        128, ge=0, le=4096, description="units of the layer before the output; 0 leaves it out"
    )
    dropout: float = Field(0.5, ge=0, lt=1, description="rate before the dense and output layers")
    weight_decay: float = Field(
        0.0,
        ge=0,
        le=1,
        description="decoupled, times the learning rate; spares biases and normalization",
    )
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="0.1 teaches 0.95 and 0.05")
    augmentation: float = Field(
        0.0,
        ge=0,
        le=1,
        description="strength of augmentation_kinds; at 1: turns by up to 36°, zooms and shifts by "
        "up to 20 %, brightness and contrast by up to 30 %, saturation by up to 50 %, erases "
        "up to 16 %, mixes as Beta(0.4, 0.4); flip mirrors half of the photos at any strength, "
        "alternating_flip each photo in every second epoch",
    )
    augmentation_kinds: AugmentationKinds = Field(
        "flip+rotation+zoom+translation+brightness+contrast",
        description="which: some of " + ", ".join(AUGMENTATIONS) + ", joined by +, each once, and "
        "one of the two flips at most",
    )
    optimizer: Literal["adam", "sgd"] = Field("adam", description="stock Keras optimizer")
    momentum: float = Field(0.9, ge=0, lt=1, description="Nesterov momentum; read by sgd alone")
    learning_rate: float = Field(1e-3, gt=0, le=1, description="highest of the trial")
    schedule: Literal["constant", "cosine", "one-cycle"] = Field(
        "constant",
        description="of the learning rate; one-cycle rises for 30 % of the steps, then falls; with "
        "constant alone training stops early and keeps the best epoch, else the last counts",
    )
    epochs: int = Field(0, ge=0, le=10_000, description="at most so many; 0: as [training] says")
    ema: float = Field(
        0.0, ge=0, lt=1, description="momentum of averaged weights; 0: none; needs a falling rate"
    )
    batch_size: int = Field(64, ge=1, le=4096, description="photos a step")

    @property
    def augmentations(self) -> frozenset[str]:
        """The kinds that are at work."""
        return frozenset(self.augmentation_kinds.split("+")) if self.augmentation else frozenset()

    # What a light epoch takes of the work of another one.
    light_share: ClassVar[float] = 1.0

    def light_epochs(self, epochs: int) -> int:
        """How many of a training's epochs, the first ones, take less work than the others."""
        del epochs
        return 0


class CnnParams(TrialParams):
    """Params of the family `cnn`: convolution blocks, each halving the side, then a dense head."""

    n_blocks: int = Field(3, ge=1, le=7, description="convolution blocks; each halves the side")
    convolutions: int = Field(1, ge=1, le=4, description="convolutions a block")
    filters: int = Field(32, ge=4, le=512, description="filters of the first block")
    filter_growth: float = Field(
        2.0, ge=1, le=4, description="filters of a block over those of the one before; at most 512"
    )
    kernel_size: Literal[3, 5, 7] = Field(3, description="side of a convolution, in pixels")
    block: Literal["plain", "residual", "separable"] = Field(
        "plain",
        description="plain: convolutions, then pooling; residual: all but the first convolution "
        "stand after the pooling, with a shortcut around them; separable: plain with depthwise "
        "separable convolutions",
    )
    activation: Literal["relu", "leaky_relu", "elu", "gelu", "silu"] = Field(
        "relu", description="after every convolution and dense layer"
    )
    normalization: Literal["none", "batch"] = Field(
        "none", description="between a convolution and its activation"
    )
    stem: Literal["none", "whitening"] = Field(
        "none",
        description="before the first block; whitening: a fixed convolution that takes apart what "
        "patches of 2 x 2 pixels have in common, computed from train's photos",
    )
    initialization: Literal["glorot", "he"] = Field(
        "glorot",
        description="of kernels; glorot: as Keras does; he: He's normal one, and the branch beside "
        "a shortcut begins at zero",
    )
    head: Literal["flatten", "average", "max"] = Field(
        "flatten", description="what becomes of the last block's map: all of it, or its mean or max"
    )
    spatial_dropout: float = Field(
        0.0, ge=0, lt=1, description="rate after each block, of whole filter maps"
    )
    progressive: float = Field(
        0.0,
        ge=0,
        le=0.9,
        description="share of the epochs, the first ones, that train on photos of half the side, "
        "at a quarter of the arithmetic; val sees whole ones; needs head average or max",
    )

    test_time_augmentation: Literal["none", "flip"] = Field(
        "none",
        description="what a photo is judged by at the end, and by the exported model; flip: the "
        "mean logit of it and its mirror image",
    )

    light_share: ClassVar[float] = 0.25  # half the side is a quarter of the arithmetic

    def light_epochs(self, epochs: int) -> int:
        """How many of a training's epochs, the first ones, see photos of half the side."""
        return round(self.progressive * epochs)


class ResNet50Params(TrialParams):
    """Params of the family `resnet50`: a pretrained backbone, some stages trained, a fresh head."""

    trainable_stages: int = Field(
        0,
        ge=0,
        le=5,
        description="stages that are trained, counted from the backbone's last; 0: the head alone. "
        "A stage that starts without loaded weights is trained anyway",
    )
    backbone_end: Literal["conv4_block6_out", "conv5_block3_out"] = Field(
        "conv5_block3_out", description="the backbone's last layer; stage 5 is there or not"
    )
    dense_units: int = Field(
        0, ge=0, le=4096, description="units of the layer before the output; 0 leaves it out"
    )
    dropout: float = Field(0.2, ge=0, lt=1, description="rate before the dense and output layers")
    backbone_learning_rate: float = Field(
        1e-4, gt=0, le=1, description="highest of the backbone's; learning_rate is the head's"
    )
    warmup_epochs: int = Field(
        0,
        ge=0,
        le=1000,
        description="epochs, the first ones, that train only what starts random, at a constant "
        "rate, before loaded stages are unfrozen",
    )
    views: int = Field(
        1,
        ge=0,
        le=64,
        description="augmented views of each photo of train whose frozen features are computed, "
        "once, and taken in turn by epoch; 0: afresh in every step, and nothing is kept",
    )

    light_share: ClassVar[float] = 0.0  # a head alone takes next to nothing

    def light_epochs(self, epochs: int) -> int:
        """How many of a training's epochs, the first ones, warm up."""
        return min(self.warmup_epochs, epochs)


FAMILIES: dict[str, type[TrialParams]] = {"cnn": CnnParams, "resnet50": ResNet50Params}
# A study over several families; `network` says which one a trial is of.
ANY_FAMILY = "any"
NETWORK = "network"


def absolute_labels(labels: str) -> str:
    """What labels are read from; a file with its whole path, so that a study finds it again."""
    return labels if labels in LABELS else str(Path(labels).expanduser().absolute())


class DataConfig(_Table):
    """`[data]`: where the photos come from when the command line doesn't say."""

    source: Literal["photos", "synthetic"] = Field(
        "photos",
        description="synthetic: always the built-in drawn pictures, unless --data is given",
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

    # What a study remembers; `run` has an option of the same name for each.
    REMEMBERED: ClassVar[tuple[str, ...]] = ("duplicates", "labels", "classes", "keep_splits")

    def remembered(self) -> dict[str, Any]:
        """What a study remembers of it: the choices that are not the default ones."""
        choices = {name: getattr(self, name) for name in self.REMEMBERED}
        fields = type(self).model_fields
        return {name: it for name, it in choices.items() if it != fields[name].default}

    def chosen(
        self, options: Mapping[str, Any], remembered: Mapping[str, Any] | None
    ) -> DataConfig:
        """These settings with the choices of one call.

        An option that is given counts before all; without it a study goes on with what it
        remembers, and a new one begins with what its file says.

        Args:
            options: Of the command line, by name; None where one isn't given.
            remembered: What `remembered` said when the study was made; None for a new study.
        """
        kept: dict[str, Any] = {}
        if remembered is not None:
            fields = type(self).model_fields
            kept = {name: remembered.get(name, fields[name].default) for name in self.REMEMBERED}
        given = {name: it for name, it in options.items() if it is not None}
        return self.model_copy(update={**kept, **given})


class TrainingConfig(_Table):
    """`[training]`: the same for every trial."""

    epochs: int = Field(10, ge=1, le=10_000, description="at most so many")
    patience: int = Field(
        3, ge=1, le=10_000, description="epochs without improvement before a trial stops early"
    )
    min_delta: float = Field(0.0, ge=0, description="smallest change that counts as improvement")


class SamplerConfig(_Table):
    """`[sampler]`: who proposes params."""

    name: Literal["tpe", "random", "grid", "qmc", "gp", "cmaes"] = Field(
        "tpe",
        description="Optuna's sampler; gp and cmaes want numbers without conditions, grid no "
        "continuous dimension and no condition",
    )
    n_startup_trials: int = Field(
        10, ge=1, le=10_000, description="random trials before tpe, gp or cmaes begin to model"
    )


class PrunerConfig(_Table):
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


class LimitsConfig(_Table):
    """`[limits]`: what a trial may use. Not part of what makes trials comparable."""

    max_parameters: int | None = Field(
        None, ge=1, description="weights of a network; larger ones aren't built"
    )
    max_memory_gb: float | None = Field(
        None,
        gt=0,
        description="of the worker's process; a larger estimate isn't built, a larger process is "
        "ended. By default 90 % of what the machine has free",
    )
    max_trial_minutes: float | None = Field(
        None, gt=0, description="a trial that is estimated to take longer isn't trained"
    )
    stall_minutes: float = Field(
        10, gt=0, description="without a sign of life after which a worker is taken for dead"
    )
    retry_minutes: float = Field(
        5,
        ge=0,
        description="to try again for where a store is locked or doesn't answer, before the study "
        "stops",
    )
    trials_per_worker: int = Field(
        50, ge=1, le=100_000, description="after which a worker gives way to a fresh one"
    )


class PublishedConfig(_Table):
    """`[published.RECIPE]`: what others reached with a recipe, to set beside what it reaches here.

    Not part of what makes trials comparable.
    """

    train_accuracy: float | None = Field(None, ge=0, le=1, description="as published")
    val_accuracy: float | None = Field(None, ge=0, le=1, description="as published")
    precision: float | None = Field(None, ge=0, le=1, description="as published")
    recall: float | None = Field(None, ge=0, le=1, description="as published")


class StudyConfig(_Table):
    """One study file, checked. `space` and `recipes` are read by `studies`."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    name: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$",
        description="letters, digits, '.', '_' and '-', at most 64; names the study and experiment",
    )
    purpose: str = Field(min_length=1, max_length=2000, description="what the study is to find out")
    family: Literal["cnn", "resnet50", "any"] = Field(
        "cnn", description="family of models; any: the knob network says which, trial by trial"
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
    timeout: float | None = Field(None, gt=0, description="seconds a call may take")
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
    space: Space
    recipes: Mapping[str, Params] = Field(default_factory=dict)
    published: Mapping[str, PublishedConfig] = Field(default_factory=dict)

    def fingerprint(self) -> dict[str, Any]:
        """What makes trials of this study comparable; trials, timeout and purpose don't count."""
        plain = self.model_dump(
            exclude={
                *("space", "recipes", "purpose", "trials", "timeout", "data", "keep_models"),
                *("limits", "seeds", "published"),
            }
        )
        plain["space"] = self.space.as_dict()
        plain["recipes"] = {name: dict(params) for name, params in self.recipes.items()}
        if self.family == "cnn":
            del plain["weights"]
        if choices := self.data.remembered():
            plain["data"] = choices
        return plain

    def network(self, params: Params) -> str:
        """The family that a trial is of."""
        return str(params[NETWORK]) if self.family == ANY_FAMILY else self.family

    def trial_params(self, params: Params) -> TrialParams:
        """A trial's params with the defaults of its family; `image_size` is what it comes to."""
        own = {name: value for name, value in params.items() if name != NETWORK}
        own["image_size"] = own.get("image_size") or self.image_size
        return FAMILIES[self.network(params)].model_validate(own)

    def image_sizes(self) -> list[int]:
        """All that its trials can have, the study's own first."""
        dimension = self.space.dimensions.get("image_size")
        values = [int(v) for v in dimension.values or ()] if dimension else []
        return list(dict.fromkeys([self.image_size, *(v for v in values if v)]))


def knobs(family: str) -> dict[str, Knob]:
    """The parameters that a family understands, by name."""
    if family != ANY_FAMILY:
        return {name: _knob(info) for name, info in FAMILIES[family].model_fields.items()}
    allowed = "one of " + ", ".join(FAMILIES)
    network = Knob("choice", allowed, "family of the trial", "cnn", FAMILIES.__contains__)
    return {NETWORK: network, **knobs("resnet50"), **knobs("cnn")}


def _knob(info: FieldInfo) -> Knob:
    annotation: Any = info.annotation
    if info.metadata:
        annotation = Annotated[annotation, *info.metadata]
    strict = ConfigDict(strict=True, allow_inf_nan=False)
    adapter: TypeAdapter[Any] = TypeAdapter(annotation, config=strict)

    def accepts(value: object) -> bool:
        try:
            taken = adapter.validate_python(value)
        except ValidationError:
            return False
        # Where 3 is one of a few, 3.0 would pass, and be another value than 3 is.
        return type(taken) is type(value) or isinstance(taken, float)

    kind = {int: "int", float: "float", bool: "bool"}.get(info.annotation, "choice")  # type: ignore[arg-type]
    return Knob(kind, allowed_values(info), info.description or "", info.default, accepts)  # type: ignore[arg-type]


def allowed_values(info: FieldInfo) -> str:
    """The allowed values of a field, for people: `a whole number in [1, 7]`."""
    annotation = info.annotation
    if typing.get_origin(annotation) is Literal:
        return "one of " + ", ".join(map(str, typing.get_args(annotation)))
    kinds = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}
    arms = [a for a in (typing.get_args(annotation) or (annotation,)) if a is not type(None)]
    kind = kinds.get(arms[0], "a table")
    bounds = _bounds(info)
    return f"{kind} in {bounds}" if bounds else f"{kind}" if kind != "a text" else _text(info)


def _text(info: FieldInfo) -> str:
    return f"a text: {info.description}"


def _bounds(info: FieldInfo) -> str:
    left, right = "(-∞", "∞)"
    for limit in info.metadata:
        match limit:
            case annotated_types.Ge(ge=x):
                left = f"[{x:g}"
            case annotated_types.Gt(gt=x):
                left = f"({x:g}"
            case annotated_types.Le(le=x):
                right = f"{x}]"
            case annotated_types.Lt(lt=x):
                right = f"{x})"
    return "" if (left, right) == ("(-∞", "∞)") else f"{left}, {right}"


def check_study(table: Mapping[str, Any], file: str) -> StudyConfig:
    """Validate the whole of a study file; its space and recipes are already read.

    Raises:
        StudyFileError: The first thing wrong: file, table, key, what came, what is allowed.
    """
    try:
        config = StudyConfig.model_validate(table)
    except ValidationError as error:
        # Unknown keys first: a misspelt key is also reported as a missing one.
        errors = sorted(error.errors(), key=lambda e: e["type"] != "extra_forbidden")
        raise StudyFileError(_one_line(errors[0], file)) from None
    right = DIRECTION_OF[config.metric]
    if config.direction != right:
        raise StudyFileError(
            f"{file} direction: {config.direction!r} with metric {config.metric!r} looks for the "
            f"worst model; it must be {right!r}"
        )
    return config


def _one_line(error: Mapping[str, Any], file: str) -> str:
    *tables, key = (str(part) for part in error["loc"])
    owner: Any = StudyConfig
    for table in tables:
        is_named = typing.get_origin(owner) is Mapping  # tables with names of the user's own
        owner = typing.get_args(owner)[1] if is_named else owner.model_fields[table].annotation
    where = f"{file} [{'.'.join(tables)}]" if tables else file
    if error["type"] == "extra_forbidden":
        return f"{where} {key}: unknown; {did_you_mean(key, owner.model_fields)}"
    allowed = allowed_values(owner.model_fields[key])
    if error["type"] == "missing":
        return f"{where} {key}: is missing; it must be {allowed}"
    return f"{where} {key}: {error['input']!r} is not allowed; it must be {allowed}"
