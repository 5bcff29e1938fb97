"""How the family `cnn` is trained: one phase, from pixels."""

from __future__ import annotations

import keras

from catdog_search.data.decode import Pixels
from catdog_search.families.cnn import CnnParams
from catdog_search.models.augmentation import Shrink
from catdog_search.models.cnn import WHITENING, build_cnn
from catdog_search.models.export import training_model
from catdog_search.training.batches import TrainBatches, ValBatches
from catdog_search.training.callbacks import ProgressiveCallback
from catdog_search.training.execution import Execution
from catdog_search.training.optimize import compile_model
from catdog_search.training.pixels import on_device
from catdog_search.training.plan import (
    CompiledPhase,
    Phase,
    Task,
    TrainingPlan,
    mixup_alpha,
    steps_per_call,
)
from catdog_search.training.result import TrainData
from catdog_search.training.whitening import whitening_kernel


class CnnTraining:
    """The models of one trial of the family `cnn`.

    Args:
        params: Params of the trial, with its image size in pixels.
        epochs: Maximum number of epochs, at least 1.
        data: Train and val.
        seed: Seed of weights, dropout, order and augmentation, from 0.
        execution: Execution on the device.
    """

    def __init__(
        self, params: CnnParams, epochs: int, data: TrainData, seed: int, execution: Execution
    ) -> None:
        self._params = params
        self._data = data
        self._seed = seed
        self._execution = execution
        self._epochs = epochs
        # TensorFlow's single operation for batch normalization; JAX compiles Keras's into one.
        fused = params.normalization == "batch" and keras.backend.backend() == "tensorflow"
        self._body = build_cnn(params, params.image_size, seed, fused=fused)
        self._is_stock = not fused and execution.precision == "float32"
        if params.stem == "whitening":
            _whiten(self._body.get_layer(WHITENING), data.x_train)
        self.n_weights = int(self._body.count_params())
        once = params.test_time_augmentation == "none"
        self.as_trained = once and execution.precision == "float32"
        constant = params.schedule == "constant"
        self.phases = [Phase(epochs, self._begin, constant, bool(params.ema))]

    def _begin(self) -> CompiledPhase:
        params, data, execution = self._params, self._data, self._execution
        lookup = on_device(data) if execution.pixels == "device" else None
        shrink = Shrink() if params.progressive else None
        model = training_model(self._body, params.image_size, params, self._seed, lookup, shrink)
        rows = lookup is not None
        batches = TrainBatches(data, params.batch_size, self._seed, mixup_alpha(params), rows=rows)
        compile_model(
            model,
            params,
            self._epochs * len(batches),
            steps_per_call=steps_per_call(execution, batches),
            xla=execution.xla,
        )
        halved = params.light_epochs(self._epochs)
        callbacks = [ProgressiveCallback(shrink, halved)] if shrink else []
        val = ValBatches(data, rows=rows, shares=len(model.inputs) > 1)
        return CompiledPhase(model, batches, val, callbacks)

    def network(self) -> keras.Model:
        """RGB (batch, side, side, 3) -> logits (batch, 1), in float32, with the trained weights.

        Stock layers only; with `test_time_augmentation` the mean over a photo and its mirror image.
        """
        stock = self._body if self._is_stock else self._rebuilt()
        if self._params.test_time_augmentation == "none":
            return stock
        photo = keras.Input(stock.input_shape[1:], name="pixels")
        both = [stock(photo), stock(keras.ops.flip(photo, axis=2))]
        return keras.Model(photo, keras.layers.Average()(both), name="mirrored")

    def rest(self) -> None:
        """None: no features are kept, so all of it must be computed."""

    def _rebuilt(self) -> keras.Model:
        keras.config.set_dtype_policy("float32")
        stock = build_cnn(self._params, self._params.image_size)
        stock.set_weights(self._body.get_weights())
        return stock


def _whiten(layer: keras.layers.Conv2D, photos: Pixels) -> None:
    layer.kernel.assign(whitening_kernel(photos, layer.kernel_size[0]))
    layer.trainable = False


def make_plan(task: Task[CnnParams]) -> TrainingPlan:
    """See `training.plan.Planner`."""
    return CnnTraining(task.params, task.epochs, task.data, task.seed, task.execution)
