"""How the family `resnet50` is trained: first what starts at random, then some stages as well."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import layers

from catdog_search.families.resnet50 import ResNet50Params, trained_stages
from catdog_search.models.augmentation import Augment
from catdog_search.models.export import TrainingModel, training_model
from catdog_search.models.resnet50 import Backbone, build_backbone, build_head, centred, digest_of
from catdog_search.places import cache_limit_bytes, features_folder
from catdog_search.training.batches import TrainBatches, ValBatches
from catdog_search.training.features import FeatureCache, Features, n_bytes
from catdog_search.training.optimize import compile_model
from catdog_search.training.pixels import DevicePixels, on_device
from catdog_search.training.plan import (
    CompiledPhase,
    Phase,
    Rest,
    Task,
    TrainingPlan,
    steps_per_call,
)


@dataclass(frozen=True)
class _Wanted:
    """Photos whose features are wanted.

    Attributes:
        photos: uint8 (n, side, side, 3).
        augment: Layer that augments them first.
        facts: Everything that the features depend on.
    """

    photos: Any
    augment: Augment
    facts: Mapping[str, Any]

    def shape(self, of_one: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of the features of all photos, from that of one."""
        return (len(self.photos), *of_one)


class ResNet50Training:
    """The models of one trial of the family `resnet50`.

    Args:
        task: Training to plan.
        cache: Cache of the features of frozen stages.
    """

    def __init__(self, task: Task[ResNet50Params], cache: FeatureCache) -> None:
        params, epochs, weights, say = task.params, task.epochs, task.weights, task.say
        self._params = params
        self._data = task.data
        self._seed = seed = task.seed
        self._execution = execution = task.execution
        self._cache = cache
        self._on_photos = task.on_photos
        self._say = say
        self._backbone = build_backbone(params, weights)
        stages, loaded = self._backbone.stages, self._backbone.loaded
        if absent := ", ".join(stage for stage in stages if stage not in loaded):
            say(f"weights {weights}: has no {absent}, which starts random and is trained")
        self._head = build_head(params, self._backbone.resnet.output_shape[-1], seed)
        self.n_weights = int(self._backbone.resnet.count_params() + self._head.count_params())
        self.as_trained = execution.precision == "float32"
        self._val: tuple[int, Features] | None = None  # with the stage that they feed
        first = len(stages) - len(trained_stages(params, loaded))
        constant = params.schedule == "constant"
        self.phases: list[Phase] = []
        warm_up = min(params.warmup_epochs, epochs - 1) if first < len(loaded) else 0
        if warm_up:
            steady = params.model_copy(update={"schedule": "constant", "ema": 0.0})
            begin = self._beginning(len(loaded), steady, warm_up)
            self.phases.append(Phase(warm_up, begin, early_stopping=False, averaged=False))
        begin = self._beginning(first, params, epochs - warm_up)
        self.phases.append(Phase(epochs, begin, constant, bool(params.ema)))

    def _beginning(
        self, first: int, params: ResNet50Params, epochs: int
    ) -> Callable[[], CompiledPhase]:
        return lambda: self._begin(first, params, epochs)

    def _begin(self, first: int, params: ResNet50Params, epochs: int) -> CompiledPhase:
        """Train from a stage on, on the features of the stages before it."""
        self._backbone.train_from(first)
        frozen, trained = self._backbone.cut(first)
        keeps = frozen is not None and params.views and self._data.digest
        kept = self._kept(frozen, pooled=trained is None) if keeps else None
        self._val = None if kept is None else (first, kept[1])
        if kept is None:
            model, batches, val = self._from_pixels()
        else:
            model, batches, val = self._from_features(*kept, trained)
        share = params.backbone_learning_rate / params.learning_rate
        slow = self._backbone.resnet.trainable_variables
        compile_model(
            model,
            params,
            epochs * len(batches),
            steps_per_call=steps_per_call(self._execution, batches),
            xla=self._execution.xla,
            slow=(slow, share),
        )
        return CompiledPhase(model, batches, val)

    def _from_pixels(self) -> tuple[keras.Model, TrainBatches, ValBatches]:
        params, data = self._params, self._data
        lookup = on_device(data) if self._execution.pixels == "device" else None
        body = _network(self._backbone, self._head, params.image_size)
        model = training_model(body, params.image_size, params, self._seed, lookup)
        rows = lookup is not None
        batches = TrainBatches(data, params.batch_size, self._seed, rows=rows)
        return model, batches, ValBatches(data, rows=rows)

    def _from_features(
        self, views: list[Features], val: Features, trained: keras.Model | None
    ) -> tuple[keras.Model, TrainBatches, ValBatches]:
        rows = self._execution.pixels == "device" and self._has_room(views, val)
        if rows:
            inputs = keras.Input((), dtype="int32", name="row")
            x = DevicePixels(np.concatenate([*views, val]))(inputs)
        else:
            inputs = keras.Input(val.shape[1:], dtype="float16", name="features")
            x = inputs
        model = TrainingModel(inputs, _upper(val.shape[1:], trained, self._head)(x))
        data, size = self._data, self._params.batch_size
        batches = TrainBatches(data, size, self._seed, rows=rows, views=views)
        first = len(views) * len(data.y_train)
        in_val = ValBatches(data, rows=rows, photos=val, first_row=first)
        return model, batches, in_val

    def _has_room(self, views: list[Features], val: Features) -> bool:
        wanted = sum(n_bytes(array.shape) for array in (*views, val))
        room = self._execution.room_bytes
        if room is not None and wanted > room:
            self._say(f"features: {wanted / 1e9:.2f} GB don't fit on the device, and are streamed")
            return False
        return True

    def _kept(self, frozen: keras.Model, *, pooled: bool) -> tuple[list[Features], Features] | None:
        """Features of every view of train, and of val; None where they can't be kept."""
        shape = frozen.output_shape[-1:] if pooled else frozen.output_shape[1:]
        facts = {
            "weights": digest_of(frozen),
            "data": self._data.digest,
            "pooled": pooled,
            "precision": self._execution.precision,
        }
        wanted = self._wanted(facts)
        total = n_bytes((sum(len(each.photos) for each in wanted), *shape))
        self._say(self._about(wanted, shape, total))
        if not self._cache.fits(total):
            return None
        side = self._params.image_size
        photo = keras.Input((side, side, 3), dtype="uint8")
        found = []
        for each in wanted:
            x = frozen(centred(each.augment(photo, training=True)))
            x = layers.GlobalAveragePooling2D()(x) if pooled else x
            compute = _computing(keras.Model(photo, x), each)
            whole = each.shape(shape)
            found.append(self._cache.get(each.facts, whole, compute, self._on_photos))
        return found[:-1], found[-1]

    def _wanted(self, facts: Mapping[str, Any]) -> list[_Wanted]:
        """Every view of train, then val, which is never augmented."""
        strength, kinds = self._params.augmentation, sorted(self._params.augmentations)
        plain = Augment(0.0, (), seed=0)
        val = _Wanted(self._data.x_val, plain, {**facts, "split": "val"})
        train = {**facts, "split": "train"}
        if not kinds:
            return [_Wanted(self._data.x_train, plain, train), val]
        train["augmentation"] = [strength, kinds]
        views = []
        for view in range(self._params.views):
            augment = Augment(strength, kinds, seed=view)
            augment.set_epoch(view)
            views.append(_Wanted(self._data.x_train, augment, {**train, "view": view}))
        return [*views, val]

    def _about(self, wanted: Sequence[_Wanted], shape: tuple[int, ...], total: int) -> str:
        """What is kept, for the user."""
        shown = " x ".join(map(str, shape))
        name = f"{shown} frozen features a photo of {self._params.image_size} px"
        if not self._cache.fits(total):
            return (
                f"{name}: {total / 1e9:.1f} GB are more than the cache may hold, so every step "
                "computes its own"
            )
        n_views = len(wanted) - 1
        how = f"{n_views} augmented views" if self._params.augmentations else "not augmented"
        absent = [each for each in wanted if not self._cache.has(each.facts, each.shape(shape))]
        n_absent = sum(len(each.photos) for each in absent)
        where = f"to be computed for {n_absent} photos" if absent else "in the cache"
        return f"{name}, {how}, {total / 1e6:.0f} MB: {where}"

    def network(self) -> keras.Model:
        """RGB (batch, side, side, 3) -> logits (batch, 1), in float32, with the trained weights."""
        return _network(*self._in_float32, self._params.image_size)

    def rest(self) -> Rest | None:
        """The trained stages and the head, on features of the frozen stages."""
        if self._val is None:
            return None
        first, features = self._val
        backbone, head = self._in_float32
        model = _upper(features.shape[1:], backbone.cut(first)[1], head)
        return Rest(model, ValBatches(self._data, photos=features))

    @functools.cached_property
    def _in_float32(self) -> tuple[Backbone, keras.Model]:
        """Backbone and head with the trained weights, after training."""
        if self._head.compute_dtype == "float32":
            return self._backbone, self._head
        keras.config.set_dtype_policy("float32")
        backbone = build_backbone(self._params, "none")
        head = build_head(self._params, backbone.resnet.output_shape[-1], self._seed)
        backbone.resnet.set_weights(self._backbone.resnet.get_weights())
        head.set_weights(self._head.get_weights())
        return backbone, head


def _network(backbone: Backbone, head: keras.Model, side: int) -> keras.Model:
    photo = keras.Input((side, side, 3), name="pixels")
    pooled = layers.GlobalAveragePooling2D()(backbone.whole(photo))
    return keras.Model(photo, head(pooled), name="resnet50_classifier")


def _upper(shape: tuple[int, ...], trained: keras.Model | None, head: keras.Model) -> keras.Model:
    """The trained part: features -> logits."""
    features = keras.Input(shape, name="features")
    x = layers.Rescaling(1.0)(features)  # out of half precision
    x = x if trained is None else layers.GlobalAveragePooling2D()(trained(x))
    return keras.Model(features, head(x), name="upper")


def _computing(model: keras.Model, wanted: _Wanted) -> Callable[[slice], Any]:
    def compute(rows: slice) -> Any:
        wanted.augment.go_to(rows.start)  # the same view, even when resumed here
        return keras.ops.convert_to_numpy(model.predict_on_batch(wanted.photos[rows]))

    return compute


def make_plan(task: Task[ResNet50Params]) -> TrainingPlan:
    """See `training.plan.Planner`."""
    cache = FeatureCache(features_folder(), cache_limit_bytes(), task.say)
    return ResNet50Training(task, cache)
