"""Names of the attributes that Optuna keeps for a study and for its trials."""

from __future__ import annotations

# User attributes of a trial.
RUN_ID = "run_id"
MODEL_ID = "model_id"
RECIPE = "recipe"
REPLICATE = "replicate"  # of a recipe: 0, or higher on further seeds
ATTEMPT = "attempt"
SEED = "seed"
SECONDS = "seconds"  # duration of work so far, in all calls
CRASHES = "crashes"
PARAMS = "params"
ENDING = "ending"
ERROR = "error"
SCORES = "scores"
N_WEIGHTS = "n_weights"
BEST_EPOCH = "best_epoch"  # whose weights were kept, from 0 like Optuna's steps
TRAIN_SCORES = "train_scores"  # in that epoch; in the last one of a trial that was stopped
RUNG = "rung"  # where it stands in KerasTuner's Hyperband
KEPT = "kept"  # whether it was worth a model and figures when it ended

# User attributes of a study.
PARENT_RUN_ID = "parent_run_id"
TRACKING_URI = "tracking_uri"
TRACKED = "tracked"  # earlier tracking URIs
DIGEST = "dataset_digest"
METRIC = "metric"
N_VAL = "n_val"
CLASS_COUNTS = "class_counts"  # photos of train and val by split and class name
PUBLISHED = "published"  # scores that others reached, by recipe
WEIGHTS = "weights_from"  # origin of the weights that the last call loaded
DEVICE = "device"  # name of the device that the last call trained on
DROPPED = "dropped"  # numbers of the trials whose model and figures are no longer kept
RUNS = "runs"  # ids of recreated runs, by trial number as text
FINGERPRINT = "fingerprint"
DATA_STATED = "data_stated"  # choices of photos as its file states them
PHOTOS = "photos"  # the photos that it began with, for people
UID = "study_uid"
OUTSIDE = "outside"  # by trial number as text: its params that the space no longer has
# Photos in a different split from the one their content gives, see `Manifest.moved`.
SPLITS = "splits"
