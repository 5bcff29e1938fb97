"""How the family `cnn` is trained: one phase, from pixels."""

from __future__ import annotations

import keras

from catdog_search.config import CnnParams
from catdog_search.models.augmentation import Shrink
from catdog_search.models.cnn import build_cnn
from catdog_search.models.export import training_model
from catdog_search.training.batches import TrainBatches, ValBatches
from catdog_search.training.callbacks import ProgressiveCallback
from catdog_search.training.execution import Execution
from catdog_search.training.family import Fed, Phase, mixup_alpha, steps_per_call
from catdog_search.training.optimize import compile_model
from catdog_search.training.pixels import on_device
from catdog_search.training.result import TrainData


class CnnTraining:
    """The models of one trial of the family `cnn`.

    Args:
        params: Of the trial, with its image size.
        epochs: At most so many.
        data: Train and val.
        seed: Of weights, dropout, order and augmentation.
        execution: How it runs.
    """

    def __init__(
        self, params: CnnParams, epochs: int, data: TrainData, seed: int, execution: Execution
    ) -> None:
        self._params = params
        self._data = data
        self._seed = seed
        self._execution = execution
        self._epochs = epochs
        self._body = build_cnn(params, params.image_size, seed)
        self.n_weights = int(self._body.count_params())
        constant = params.schedule == "constant"
        self.phases = [Phase(epochs, self._begin, constant, bool(params.ema))]

    def _begin(self) -> Fed:
        params, data, execution = self._params, self._data, self._execution
        lookup = on_device(data) if execution.pixels == "device" else None
        model = training_model(self._body, params.image_size, params, self._seed, lookup)
        rows = lookup is not None
        batches = TrainBatches(data, params.batch_size, self._seed, mixup_alpha(params), rows=rows)
        compile_model(
            model,
            params,
            self._epochs * len(batches),
            steps_per_call=steps_per_call(execution, batches),
            xla=execution.xla,
        )
        shrinks = [layer for layer in model.layers if isinstance(layer, Shrink)]
        halved = params.light_epochs(self._epochs)
        callbacks = [ProgressiveCallback(shrink, halved) for shrink in shrinks]
        val = ValBatches(data, rows=rows, shares=len(model.inputs) > 1)
        return Fed(model, batches, val, callbacks)

    def network(self) -> keras.Model:
        """RGB (batch, side, side, 3) -> logits (batch, 1), in float32, with what was learned."""
        if self._body.compute_dtype == "float32":
            return self._body
        keras.config.set_dtype_policy("float32")
        full = build_cnn(self._params, self._params.image_size)
        full.set_weights(self._body.get_weights())
        return full
