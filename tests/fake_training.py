"""A stand-in for training, put in at its seam: no Keras, milliseconds, and it fails on demand.

What the n-th training since the file at FAKE_CALLS was made does stands in FAKE_ACTIONS, a JSON
object like {"2": "crash"}; the others train. `EROFS` and other names of errors raise that error.
FAKE_LIMIT is what it may take of `load`; above it runs out of memory. FAKE_BUSY_MS is what MLflow
waits for a locked database in this process, instead of 20 s. With FAKE_NO_FIGURES the figures of a
trial fail after the first, with FAKE_BLANK_FIGURES they are blank, which is quick.
With FAKE_CHECKPOINTS it saves checkpoints and goes on from them; that file has what it trained.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import json
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from sqlalchemy import event
from sqlalchemy.engine import Engine

from catdog_search.families.base import TrialParams
from catdog_search.families.cnn import CnnParams
from catdog_search.figures.predictions import TRIAL_FIGURES
from catdog_search.outcomes import Ending
from catdog_search.tracking import trial_files, trial_log
from catdog_search.training.execution import Device
from catdog_search.training.job import TrainingJob
from catdog_search.training.result import OnBatch, Report, TrainData, TrialResult


@contextlib.contextmanager
def wait_less_for_locks(milliseconds: str) -> Iterator[None]:
    """MLflow tells sqlite to wait for 20 s, in words of its own."""

    def shorten(
        connection: Any, cursor: Any, statement: str, parameters: Any, context: Any, many: bool
    ) -> tuple[str, Any]:
        if statement.startswith("PRAGMA busy_timeout"):
            statement = f"PRAGMA busy_timeout = {milliseconds};"
        return statement, parameters

    event.listen(Engine, "before_cursor_execute", shorten, retval=True)
    try:
        yield
    finally:
        event.remove(Engine, "before_cursor_execute", shorten)


def _fail_at_figures() -> None:
    whole = trial_files.keep_figures

    def fail(client: Any, run_id: str, figures: Mapping[str, Any]) -> None:
        name = next(iter(figures))
        whole(client, run_id, {name: figures[name]})
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    trial_files.keep_figures = fail


def _draw_nothing() -> None:
    def log_blank(client: Any, run_id: str, *_: object) -> None:
        figures = {name: Figure(figsize=(1, 1)) for name in TRIAL_FIGURES}
        trial_files.keep_figures(client, run_id, figures)

    trial_log.log_figures = log_blank


_whole_life = contextlib.ExitStack()


class FakeTrainer:
    def __init__(self, backend: str) -> None:
        self._backend = backend

    def prepare(self, *, concurrency: int, deterministic: bool) -> None:
        pass

    def look_at_device(self) -> Device:
        """The first that a worker calls, whatever had imported this: now the environment counts."""
        if "FAKE_BUSY_MS" in os.environ:
            _whole_life.enter_context(wait_less_for_locks(os.environ["FAKE_BUSY_MS"]))
        if "FAKE_NO_FIGURES" in os.environ:
            _fail_at_figures()
        if "FAKE_BLANK_FIGURES" in os.environ:
            _draw_nothing()
        return Device(f"a stand-in for {self._backend}")

    def product_rate(self) -> float:
        return 1e11

    def is_out_of_memory(self, error: Exception) -> bool:
        return isinstance(error, MemoryError)

    def train(
        self,
        job: TrainingJob,
        data: TrainData,
        report: Report,
        *,
        on_batch: OnBatch,
        say: Callable[[str], None],
        checkpoint: Path,
    ) -> TrialResult:
        action, params = _action(), job.params
        if "FAKE_LIMIT" in os.environ and load(params) > float(os.environ["FAKE_LIMIT"]):
            raise MemoryError("more than there is")
        history: list[dict[str, float]] = []
        done = _kept(checkpoint)
        for epoch in range(job.last):
            if epoch >= done and not _train_epoch(epoch, on_batch):
                return _result(Ending.INTERRUPTED, history, data)
            if action and epoch == 1:
                _mishap(action)
            history.append(_metrics(params, epoch))
            if action == "diverge":
                return _result(Ending.DIVERGED, history, data)
            if epoch >= done:
                _keep(checkpoint, job.seed, epoch)
            if not report(epoch, history[-1]):
                return _result(Ending.PRUNED, history, data)
        return _result(Ending.FINISHED, history, data)


def _train_epoch(epoch: int, on_batch: OnBatch) -> bool:
    for step in range(int(os.environ.get("FAKE_STEPS", "1"))):
        time.sleep(float(os.environ.get("FAKE_STEP_S", "0")))
        if not on_batch(epoch, step + 1, 1):
            return False
    return True


def _kept(checkpoint: Path) -> int:
    """Epochs that are trained already."""
    keeps = "FAKE_CHECKPOINTS" in os.environ
    return int(checkpoint.read_text()) if keeps and checkpoint.exists() else 0


def _keep(checkpoint: Path, seed: int, epoch: int) -> None:
    if "FAKE_CHECKPOINTS" in os.environ:
        checkpoint.write_text(str(epoch + 1))
        with Path(os.environ["FAKE_CHECKPOINTS"]).open("a") as file:
            file.write(f"seed {seed}, epoch {epoch}\n")


class AbsentTrainer(FakeTrainer):
    """One whose packages are not installed."""

    def prepare(self, *, concurrency: int, deterministic: bool) -> None:
        importlib.import_module("no_such_module")


def load(params: TrialParams) -> float:
    """What a trial takes of the memory."""
    assert isinstance(params, CnnParams)
    return params.filters * params.batch_size * params.n_blocks


def _crash() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _killed_by_the_kernel() -> None:
    """As it looks from outside: a SIGKILL, and one more in the counter."""
    counter = Path(os.environ["FAKE_OOM_COUNTER"])
    counter.write_text("low 0\noom 1\noom_kill 1\n")
    _crash()


def _hog() -> None:
    held = [np.ones(10**7) for _ in range(8)]  # 640 MB, touched
    time.sleep(60)
    del held


def _hang() -> None:
    time.sleep(60)


def _out_of_memory() -> None:
    raise MemoryError("no more")


def _bug() -> None:
    raise ZeroDivisionError("a bug on demand")


_MISHAPS: dict[str, Callable[[], None]] = {
    "crash": _crash,
    "killed_by_the_kernel": _killed_by_the_kernel,
    "hog": _hog,
    "hang": _hang,
    "out_of_memory": _out_of_memory,
    "bug": _bug,
    "diverge": lambda: None,
}


def _mishap(action: str) -> None:
    if action in _MISHAPS:
        _MISHAPS[action]()
    elif action != "nothing":
        number = getattr(errno, action)
        raise OSError(number, os.strerror(number))


def value(params: TrialParams) -> float:
    """The value that a trial ends with: smooth in its params, best at dropout 0.3."""
    assert isinstance(params, CnnParams)
    return 0.5 + 0.2 * params.n_blocks - abs(params.dropout - 0.3)


def _action() -> str | None:
    if "FAKE_CALLS" not in os.environ:
        return None
    calls = Path(os.environ["FAKE_CALLS"])
    with calls.open("a") as file:
        file.write("call\n")
    actions: dict[str, str] = json.loads(os.environ.get("FAKE_ACTIONS", "{}"))
    return actions.get(str(len(calls.read_text().splitlines())))


def _metrics(params: TrialParams, epoch: int) -> dict[str, float]:
    accuracy = value(params) * (epoch + 1) / (epoch + 1.5)
    loss = 1 - accuracy / 2
    return {
        "loss": loss,
        "accuracy": accuracy,
        "val_loss": loss,
        "val_accuracy": accuracy,
        "val_balanced_accuracy": accuracy - 0.1,
        "val_auc": accuracy / 2 + 0.5,
        "learning_rate": 0.001,
        "seconds": 0.01,
    }


def _result(ending: Ending, history: list[dict[str, float]], data: TrainData) -> TrialResult:
    finished = ending is Ending.FINISHED
    probabilities = np.where(np.arange(len(data.y_val)) % 2, 0.9, 0.1).astype(np.float32)
    return TrialResult(
        ending=ending,
        history=history,
        best_epoch=len(history) - 1 if history else None,
        scores={
            **{k: v for k, v in history[-1].items() if k.startswith("val_")},
            "val_f1": 0.5,
        }
        if finished
        else {},
        val_probabilities=probabilities if finished else np.empty(0, np.float32),
        model=None,
        n_weights=42,
    )
