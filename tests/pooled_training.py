"""How the family of `pooled_family` is trained."""

from __future__ import annotations

import keras
from pooled_family import PooledParams

from catdog_search.models.export import training_model
from catdog_search.training.batches import TrainBatches, ValBatches
from catdog_search.training.optimize import compile_model
from catdog_search.training.plan import CompiledPhase, Phase, Task


class PooledTraining:
    as_trained = True

    def __init__(self, task: Task[PooledParams]) -> None:
        self._task = task
        side = task.params.image_size
        photo = keras.Input((side, side, 3))
        x = keras.layers.AveragePooling2D(task.params.pool)(photo)
        logits = keras.layers.Dense(1, dtype="float32")(keras.layers.Flatten()(x))
        self._body = keras.Model(photo, logits)
        self.n_weights = int(self._body.count_params())
        self.phases = [Phase(task.epochs, self._begin, early_stopping=False, averaged=False)]

    def _begin(self) -> CompiledPhase:
        task, params = self._task, self._task.params
        model = training_model(self._body, params.image_size, params, task.seed)
        batches = TrainBatches(task.data, params.batch_size, task.seed)
        compile_model(model, params, task.epochs * len(batches))
        return CompiledPhase(model, batches, ValBatches(task.data))

    def network(self) -> keras.Model:
        return self._body

    def rest(self) -> None:
        pass


def make_plan(task: Task[PooledParams]) -> PooledTraining:
    return PooledTraining(task)
