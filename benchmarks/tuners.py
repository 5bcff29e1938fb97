"""Our search against KerasTuner's tuners: one hypermodel, the same photos, the same seconds.

Each system has the seconds of `--seconds` from the start of its process, imports included, then it
is stopped; what is in flight counts for nothing. All train 12 epochs at most, in batches of 32 and
in float32, with early stopping (patience 3), and start without recipes. The photos are decoded
before, so that all see the same pixels. KerasTuner's score of a trial is that of its luckiest
epoch, ours that of the weights it ends with; so each system's best model is scored once by the same
code, on photos of train that no system was given.

    python benchmarks/tuners.py --data PHOTOS [--photos 2000] [--seconds 150] [--n 3]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import common
import numpy as np
from common_tuned import IMAGE_SIZE, build
from PIL import Image

from catdog_search.data.dataset import Dataset

EPOCHS, PATIENCE, BATCH_SIZE = 12, 3, 32
_FRESH = 3000
_INTERNAL = "used by this script itself"
OURS = "catdog-search"
# Seconds since the start, and the best value on val so far.
Curve = list[tuple[float, float]]


class OutOfTime(BaseException):
    """The seconds are over; no `Exception`, which a tuner would take for a failed trial."""


def main() -> None:
    """Measure in turns and print."""
    asked = arguments()
    if asked.system:
        print(json.dumps(TASKS[asked.system](asked)))
        return
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in (OURS, *TUNERS)}
    with tempfile.TemporaryDirectory() as work:
        photos = Path(work) / "photos"
        counts = unpack(asked, photos)
        for seed in range(1, asked.n + 1):
            for name in list(found) if seed % 2 else reversed(found):
                folder = Path(work) / f"{name}-{seed}"
                folder.mkdir()
                search = by_catdog if name == OURS else by_tuner
                found[name].append(scored(search(asked, name, photos, folder, seed), photos))
                print(f"{name}: {found[name][-1]}", file=sys.stderr, flush=True)
    packages = ("keras", "tensorflow", "optuna", "keras-tuner", "mlflow")
    rows = [row_of(name, runs, found[OURS]) for name, runs in found.items()]
    facts = {"seconds": asked.seconds, "image_size": IMAGE_SIZE, "epochs": EPOCHS}
    common.report(asked, packages, rows, photos=counts, **facts)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = common.parser(__doc__, n=3)
    parser.add_argument("--photos", type=int, default=2000, help="of train; default: %(default)s")
    parser.add_argument("--seconds", type=float, default=150.0, help="for each search")
    parser.add_argument("--system", choices=[*TASKS], help=_INTERNAL)
    parser.add_argument("--folder", type=Path, help=_INTERNAL)
    parser.add_argument("--seed", type=int, help=_INTERNAL)
    parser.add_argument("--started", type=float, help=_INTERNAL)
    return parser.parse_args()


def unpack(asked: argparse.Namespace, folder: Path) -> dict[str, int]:
    """Decoded photos in folders of classes; returns how many.

    The split `test` holds photos of train beyond those chosen: nobody's test is looked at.
    """
    whole: Dataset = common.packed(asked, IMAGE_SIZE)
    names = whole.manifest.class_names
    chance = np.random.default_rng(0)
    train, val = (chance.permutation(len(whole.rows(split))) for split in ("train", "val"))
    rest = train[asked.photos : asked.photos + _FRESH]
    some = val[: round(len(val) * asked.photos / len(train))]
    chosen = {"train": ("train", train[: asked.photos]), "val": ("val", some)}
    chosen["test"] = ("train", rest)
    for into, (split, rows) in chosen.items():
        x, y = whole.split(split)
        for row in rows:
            path = folder / into / names[int(y[row].item())] / f"{row}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.asarray(x[row])).save(path)
    return {split: len(rows) for split, (_, rows) in chosen.items()}


def by_catdog(
    asked: argparse.Namespace, name: str, photos: Path, folder: Path, seed: int
) -> dict[str, Any]:
    """Ours, by its command line, which is interrupted when the time is up."""
    study, state = folder / "tuners.toml", folder / "state"
    study.write_text(
        f"""name = "tuners"
purpose = "A benchmark."
family = "hypermodel"
hypermodel = "common_tuned:build"
metric = "val_accuracy"
direction = "maximize"
trials = 100000
seed = {seed}
training = {{ epochs = {EPOCHS}, patience = {PATIENCE} }}
space = {{}}
""",
        encoding="utf-8",
    )
    where = ["--state", str(state)]
    command = [sys.executable, "-m", "catdog_search", "run", "--study", str(study), *where]
    started = time.time()
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [*command, "--data", str(photos), "--keep-splits"],
            stdout=log,
            stderr=log,
            cwd=Path(__file__).parent,
            env=environment(folder),
        )
        try:
            process.wait(asked.seconds)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)
            process.wait(60)
    model, best = folder / "model.keras", best_run(state)
    export = [sys.executable, "-m", "catdog_search", "model", "export", f"run:{best}"]
    run([*export, "--to", str(model), *where], folder)
    return {**curve_of(state, started), "model": model}


def best_run(state: Path) -> str:
    """The run of MLflow whose trial is best."""
    show = [sys.executable, "-m", "catdog_search", "show", "--study", "tuners", "--json"]
    said = json.loads(run([*show, "--state", str(state)], state.parent))
    return str(said["best"]["run_id"])


def curve_of(state: Path, started: float) -> dict[str, Any]:
    """The best value over seconds, and how many trials ended, as Optuna's study has it."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    trials = optuna.load_study(
        study_name="tuners", storage=f"sqlite:///{state}/optuna.db"
    ).get_trials(states=[optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED])
    curve, best = [], 0.0
    for trial in sorted(trials, key=lambda trial: trial.datetime_complete):
        if trial.state is optuna.trial.TrialState.COMPLETE and trial.value > best:
            best = trial.value
            curve.append((trial.datetime_complete.timestamp() - started, best))
    return {"curve": curve, "trials": len(trials)}


def by_tuner(
    asked: argparse.Namespace, name: str, photos: Path, folder: Path, seed: int
) -> dict[str, Any]:
    """One of KerasTuner's tuners, in a process of its own."""
    (folder / "photos").symlink_to(photos)
    script = [sys.executable, __file__, "--system", name, "--folder", str(folder)]
    asks = [f"--seed={seed}", f"--seconds={asked.seconds}", f"--started={time.time()}"]
    said = json.loads(run([*script, *asks], folder).splitlines()[-1])
    return {**said, "model": folder / "model.keras"}


def tuned_by(asked: argparse.Namespace) -> dict[str, Any]:
    """What a process of KerasTuner does: search until the seconds are over, save the best model."""
    import keras
    import keras_tuner

    keras.utils.set_random_seed(asked.seed)
    curve: Curve = []

    class Timed(getattr(keras_tuner, asked.system)):  # type: ignore[misc]
        """Notes when a trial ended."""

        def on_trial_end(self, trial: Any) -> None:
            super().on_trial_end(trial)
            best = self.oracle.get_best_trials(1)[0].score
            curve.append((time.time() - asked.started, float(best)))

    class Deadline(keras.callbacks.Callback):
        """Ends the search within a batch."""

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            if time.time() - asked.started > asked.seconds:
                raise OutOfTime

    many = {"max_epochs": EPOCHS, "hyperband_iterations": 1000}
    tuner = Timed(
        build,
        objective=keras_tuner.Objective("val_accuracy", "max"),
        seed=asked.seed,
        directory=asked.folder,
        project_name="tuners",
        **(many if asked.system == "Hyperband" else {"max_trials": 100000}),
    )
    stopping = keras.callbacks.EarlyStopping(
        "val_accuracy", patience=PATIENCE, restore_best_weights=True
    )
    train, val = (read(asked.folder / "photos" / split) for split in ("train", "val"))
    # Hyperband sets the epochs itself.
    epochs = {} if asked.system == "Hyperband" else {"epochs": EPOCHS}
    with contextlib.suppress(OutOfTime):
        tuner.search(
            train, validation_data=val, callbacks=[stopping, Deadline()], verbose=0, **epochs
        )
    tuner.get_best_models(1)[0].save(asked.folder / "model.keras")
    return {"curve": curve, "trials": len(curve)}


def read(folder: Path) -> Any:
    """Photos in memory, as Keras's guide reads them; train's order is drawn anew every epoch."""
    import keras
    import tensorflow as tf

    photos = keras.utils.image_dataset_from_directory(
        folder,
        image_size=(IMAGE_SIZE, IMAGE_SIZE),
        batch_size=None,
        label_mode="binary",
        shuffle=False,
        verbose=False,
    ).cache()
    photos = photos.shuffle(len(photos)) if folder.name == "train" else photos
    return photos.batch(BATCH_SIZE).prefetch(tf.data.AUTOTUNE)


def scored(searched: dict[str, Any], photos: Path) -> dict[str, Any]:
    """The search, and its best model's accuracy on photos that it wasn't given."""
    model = searched.pop("model")
    script = [sys.executable, __file__, "--system", _SCORE, "--folder", str(model)]
    said = run([*script, "--data", str(photos / "test")], model.parent)
    return {**searched, **json.loads(said.splitlines()[-1])}


def score(asked: argparse.Namespace) -> dict[str, Any]:
    """Accuracy of a model in a file on a folder of photos."""
    import keras

    model = keras.models.load_model(asked.folder, compile=False)
    right, total = 0, 0
    for x, y in read(Path(asked.data)):
        right += int(((model.predict_on_batch(x) > 0.5) == (np.asarray(y) > 0.5)).sum())
        total += len(y)
    return {"accuracy": right / total}


def environment(folder: Path) -> dict[str, str]:
    """Of every system's process."""
    quiet = {"TF_CPP_MIN_LOG_LEVEL": "3", "KERAS_BACKEND": "tensorflow"}
    return {**os.environ, **quiet, "CATDOG_CACHE": str(folder / "cache")}


def run(
    command: list[str], folder: Path, cwd: Path | None = None, *, refusing: bool = False
) -> str:
    """What a command prints; its failure ends the benchmark, a refusal where it may refuse not."""
    done = subprocess.run(
        command, cwd=cwd, env=environment(folder), capture_output=True, text=True, check=False
    )
    if done.returncode not in ((0, 1) if refusing else (0,)):
        raise SystemExit(f"{' '.join(command)}: {done.stderr[-2000:]}")
    return done.stdout


def row_of(name: str, runs: list[dict[str, Any]], ours: list[dict[str, Any]]) -> dict[str, Any]:
    """One system's results; the difference is ours less its, seed by seed."""
    values = [run["accuracy"] for run in runs]
    less = [a["accuracy"] - b for a, b in zip(ours, values, strict=True)]
    return {
        "system": name,
        "accuracy": common.spread(values, 4),
        "ours_minus_it": common.spread(less, 4),
        "best_on_val": common.spread([run["curve"][-1][1] for run in runs], 4),
        "trials": common.spread([run["trials"] for run in runs], 0),
        "first_trial_s": common.spread([run["curve"][0][0] for run in runs], 1),
        "curves": [[(round(s, 1), round(v, 4)) for s, v in run["curve"]] for run in runs],
    }


_SCORE = "score"
TUNERS = ("RandomSearch", "BayesianOptimization", "Hyperband")
TASKS: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    **dict.fromkeys(TUNERS, tuned_by),
    _SCORE: score,
}


if __name__ == "__main__":
    main()
