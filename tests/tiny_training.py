"""A study for trainings of a moment on a few pictures, and its params."""

from __future__ import annotations

import dataclasses
from typing import Any

import keras

from catdog_search.space import Params
from catdog_search.study import studies
from catdog_search.study.config import StudyConfig
from catdog_search.training import loop
from catdog_search.training.execution import PLAIN, Execution
from catdog_search.training.job import job_of
from catdog_search.training.result import Report, TrainData, TrialResult


def config(**more: Any) -> StudyConfig:
    table = {
        "name": "s",
        "purpose": "p",
        "image_size": 16,
        "metric": "val_accuracy",
        "direction": "maximize",
        "trials": 1,
        "space": {"dropout": 0.0},
        "training": {"epochs": 3, "patience": 3},
        **more,
    }
    return studies.parse(table, "f.toml")


BACKEND = keras.backend.backend()
PARAMS = {"n_blocks": 2, "filters": 8, "dense_units": 0, "dropout": 0.0, "batch_size": 8}


def train(
    params: Params,
    config: StudyConfig,
    data: TrainData,
    report: Report,
    *,
    seed: int,
    execution: Execution = PLAIN,
    stop_after: int | None = None,
    **more: Any,
) -> TrialResult:
    """Train a trial of a study, or its first epochs."""
    job = job_of(config, params, seed=seed, execution=execution)
    job = dataclasses.replace(job, stop_after=stop_after)
    return loop.train(job, data, report, **more)


def go_on(epoch: int, metrics: Any) -> bool:
    return True
