"""A whole search of ours against what one would write instead: an Optuna loop, and KerasTuner.

The same trials on the same photos for the same epochs, each system in a process of its own, in
turns. The peers are as their guides have them: `image_dataset_from_directory` with `cache` and
`prefetch`, augmentation by Keras's layers in the model, `fit` with early stopping that restores
the best weights. Optuna's loop logs each trial's params, epochs and model in MLflow; KerasTuner
keeps what it keeps by itself. Every system starts with nothing but folders of photos and ends with
its best model on disk; imports are counted. The folders hold our split. Ours runs twice: as it
comes, when it chooses bfloat16 on a processor that multiplies it, and in the peers' float32.

    python benchmarks/search.py --data PHOTOS [--photos 4000] [--epochs 4] [--n 3]
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import common
from step import FULL, layers

from catdog_search.data.dataset import Dataset
from catdog_search.families.cnn import CnnParams

IMAGE_SIZE = 64
_TEST = 60
_INTERNAL = "used by this script itself"
_SHARED = {"learning_rate": 1e-3, "batch_size": 64, "dropout": 0.3, "augmentation": 0.3}
_RESIDUAL = {"block": "residual", "convolutions": 2, "normalization": "batch", "head": "average"}
TRIALS: list[dict[str, Any]] = [
    {**_SHARED, "n_blocks": 3, "filters": 32, "dense_units": 128},
    {**_SHARED, "n_blocks": 4, "filters": 16, "dense_units": 0, **_RESIDUAL},
    {**_SHARED, "n_blocks": 4, "filters": 24, "dense_units": 128, **_RESIDUAL},
]
# As `compiled` has it for the peers.
KINDS = FULL.removesuffix("+erasing")


def main() -> None:
    """Measure in turns and print."""
    parser = common.parser(__doc__, n=3)
    parser.add_argument("--photos", type=int, default=4000, help="of train; default: %(default)s")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--system", choices=[*SYSTEMS], help=_INTERNAL)
    parser.add_argument("--folder", type=Path, help=_INTERNAL)
    asked = parser.parse_args()
    if asked.system:
        print(json.dumps({"val_accuracy": SYSTEMS[asked.system](asked.folder, asked.epochs)}))
        return
    found: dict[str, list[dict[str, float]]] = {name: [] for name in SYSTEMS}
    with tempfile.TemporaryDirectory() as work:
        photos = Path(work) / "photos"
        counts = unpack(asked, photos)
        for turn in range(asked.n):
            for name in list(SYSTEMS) if turn % 2 == 0 else reversed(SYSTEMS):
                found[name].append(timed(name, photos, Path(work) / f"{name}-{turn}", asked.epochs))
                print(f"{name}: {found[name][-1]}", file=sys.stderr, flush=True)
    ours = [run["seconds"] for run in found["catdog-search"]]
    rows = [
        {
            "system": name,
            "seconds": common.spread([run["seconds"] for run in runs], 1),
            "ours_over_it": common.ratio(ours, [run["seconds"] for run in runs]),
            "best_val_accuracy": common.spread([run["val_accuracy"] for run in runs], 4),
        }
        for name, runs in found.items()
    ]
    packages = ("keras", "tensorflow", "optuna", "keras-tuner", "mlflow")
    facts = {"image_size": IMAGE_SIZE, "epochs": asked.epochs, "trials": TRIALS}
    common.report(asked, packages, rows, photos=counts, **facts)


def unpack(asked: Any, folder: Path) -> dict[str, int]:
    """Train, and as much of val in proportion, as folders of classes; returns how many.

    Ours wants a test split to leave alone; the peers aren't shown it.
    """
    whole: Dataset = common.packed(asked, IMAGE_SIZE)
    source, manifest = common.source(asked), whole.manifest
    total = len(whole.rows("train"))
    chosen = {"train": manifest.train_rows(min(asked.photos, total))}
    # Every so manieth: they are in the order of their paths, one class after the other.
    chosen["val"] = whole.rows("val")[:: total // len(chosen["train"])]
    test = whole.rows("test")
    chosen["test"] = test[:: len(test) // _TEST]
    for split, rows in chosen.items():
        for row in rows:
            photo = manifest.photos[row]
            path = folder / split / manifest.class_names[photo.label] / Path(photo.key).name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(source.read(photo.key))
    return {split: len(rows) for split, rows in chosen.items()}


def timed(system: str, photos: Path, folder: Path, epochs: int) -> dict[str, float]:
    """Run a system in a process of its own: seconds, and its best accuracy on val."""
    folder.mkdir()
    (folder / "photos").symlink_to(photos)
    command = [sys.executable, __file__, "--system", system, "--folder", str(folder)]
    started = time.perf_counter()
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "KERAS_BACKEND": "tensorflow"}
    done = subprocess.run(
        [*command, "--epochs", str(epochs)],
        env={**environment, "CATDOG_CACHE": str(folder / "cache")},
        capture_output=True,
        text=True,
        check=False,
    )
    seconds = time.perf_counter() - started
    if done.returncode != 0:
        raise SystemExit(f"{system}: {done.stderr[-2000:]}")
    return {"seconds": round(seconds, 2), **json.loads(done.stdout.splitlines()[-1])}


def by_catdog(folder: Path, epochs: int, *options: str) -> float:
    """Ours, by its command line."""
    study = folder / "study.toml"
    lines = [
        *('name = "search"', 'purpose = "A benchmark."', f"image_size = {IMAGE_SIZE}"),
        *('metric = "val_accuracy"', 'direction = "maximize"', f"trials = {len(TRIALS)}"),
        f"training = {{ epochs = {epochs}, patience = 3 }}",
        'pruner = { name = "none" }',
        f"space.augmentation_kinds = {json.dumps(KINDS)}",
    ]
    for name in sorted({name for trial in TRIALS for name in trial}):
        default = CnnParams.model_fields[name].default
        values = [trial.get(name, default) for trial in TRIALS]
        choices = json.dumps(list(dict.fromkeys(values)))
        lines.append(f"space.{name} = {{ choices = {choices} }}")
        lines += [f"recipes.r{i}.{name} = {json.dumps(v)}" for i, v in enumerate(values)]
    study.write_text("\n".join(lines), encoding="utf-8")
    command = [sys.executable, "-m", "catdog_search", "run", "--study", str(study), "--json"]
    where = ["--data", str(folder / "photos"), "--keep-splits", "--state", str(folder / "state")]
    done = subprocess.run([*command, *where, *options], stdout=subprocess.PIPE, check=True)
    return float(json.loads(done.stdout)["best"]["value"])


def by_catdog_in_float32(folder: Path, epochs: int) -> float:
    """Ours, at the peers' precision."""
    return by_catdog(folder, epochs, "--precision", "float32")


def folders(folder: Path) -> tuple[Any, Any]:
    """Train and val as Keras's guide reads them."""
    import keras
    import tensorflow as tf

    def read(split: str, *, shuffle: bool) -> Any:
        photos = keras.utils.image_dataset_from_directory(
            folder / "photos" / split,
            image_size=(IMAGE_SIZE, IMAGE_SIZE),
            batch_size=_SHARED["batch_size"],
            label_mode="binary",
            shuffle=shuffle,
            verbose=False,
        ).cache()
        photos = photos.shuffle(len(photos)) if shuffle else photos
        return photos.prefetch(tf.data.AUTOTUNE)

    return read("train", shuffle=True), read("val", shuffle=False)


def compiled(trial: dict[str, Any]) -> Any:
    """The network of a trial behind Keras's layers, as its guide to augmentation has it."""
    import keras

    from catdog_search.models.cnn import build_cnn

    body = build_cnn(CnnParams.model_validate(trial), IMAGE_SIZE)
    inputs = keras.Input((IMAGE_SIZE, IMAGE_SIZE, 3))
    x = inputs
    for layer in layers(trial["augmentation"])[:-1]:  # all but erasing
        x = layer(x)
    model = keras.Model(inputs, body(x))
    model.compile(
        optimizer=keras.optimizers.Adam(trial["learning_rate"]),
        loss=keras.losses.BinaryCrossentropy(from_logits=True),
        metrics=[keras.metrics.BinaryAccuracy(threshold=0.0, name="accuracy")],
    )
    return model


def callbacks() -> list[Any]:
    """Early stopping."""
    import keras

    return [keras.callbacks.EarlyStopping("val_accuracy", patience=3, restore_best_weights=True)]


def by_optuna(folder: Path, epochs: int) -> float:
    """A loop of Optuna around `fit`, each trial logged in MLflow."""
    import mlflow
    import optuna

    mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
    mlflow.set_experiment("search")
    train, val = folders(folder)

    def objective(trial: optuna.Trial) -> float:
        params = TRIALS[trial.suggest_int("recipe", 0, len(TRIALS) - 1)]
        with mlflow.start_run():
            mlflow.log_params(params)
            model = compiled(params)
            history = model.fit(
                train, validation_data=val, epochs=epochs, callbacks=callbacks(), verbose=0
            ).history
            for epoch, value in enumerate(history["val_accuracy"]):
                mlflow.log_metric("val_accuracy", value, step=epoch)
            needs = [f"{name}=={version(name)}" for name in ("keras", "tensorflow")]
            mlflow.keras.log_model(model, name="model", pip_requirements=needs)
        return float(max(history["val_accuracy"]))

    study = optuna.create_study(
        direction="maximize", storage=f"sqlite:///{folder}/optuna.db", study_name="search"
    )
    for recipe in range(len(TRIALS)):
        study.enqueue_trial({"recipe": recipe})
    study.optimize(objective, n_trials=len(TRIALS))
    return study.best_value


def by_keras_tuner(folder: Path, epochs: int) -> float:
    """KerasTuner, which keeps a checkpoint of each trial's best epoch."""
    import keras_tuner

    train, val = folders(folder)
    tuner = keras_tuner.GridSearch(
        lambda hp: compiled(TRIALS[hp.Int("recipe", 0, len(TRIALS) - 1)]),
        objective=keras_tuner.Objective("val_accuracy", "max"),
        directory=folder,
        project_name="search",
    )
    tuner.search(train, validation_data=val, epochs=epochs, callbacks=callbacks(), verbose=0)
    tuner.get_best_models()
    return float(tuner.oracle.get_best_trials()[0].score)


SYSTEMS: dict[str, Callable[[Path, int], float]] = {
    "catdog-search": by_catdog,
    "catdog-search, float32": by_catdog_in_float32,
    "Optuna loop": by_optuna,
    "KerasTuner": by_keras_tuner,
}


if __name__ == "__main__":
    main()
