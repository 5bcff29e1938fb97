"""The names of runs, tags, metrics, params and files in MLflow, each defined once."""

from __future__ import annotations

# Tags of every run. MLflow's own begin with `mlflow.`; only runs of trials have a parent.
PARENT = "mlflow.parentRunId"
NOTE = "mlflow.note.content"
SOURCE_NAME, SOURCE_TYPE = "mlflow.source.name", "mlflow.source.type"
LOGGED_TABLES = "mlflow.loggedArtifacts"
DATA_CONTEXT = "mlflow.data.context"
MODEL_VERSIONS = "mlflow.modelVersions"  # of a logged model
STUDY = "study"
ROLE = "role"
ROLE_STUDY, ROLE_TRIAL, ROLE_PROMOTION = "study", "trial", "promotion"

# Tags of a study's run.
STUDY_UID = "study_uid"
COMMIT = "commit"
NOW = "now."  # prefix for a param that has changed since the study began
BEST_TRIAL = "best_trial"
BEST_RUN_ID = "best_run_id"

# Tags of a trial's run.
TRIAL = "trial"
TRIAL_STATE = "trial_state"
ENDING = "ending"
ERROR = "error"
SEED = "seed"
ATTEMPT = "attempt"
RECIPE = "recipe"
NETWORK = "network"
RANK = "rank"
OUTSIDE = "outside_the_space"
PREVIOUS_ATTEMPT, NEXT_ATTEMPT = "previous_attempt", "next_attempt"
RECREATED = "recreated"
TEST_LOOKED_AT = "test_looked_at"

# Tags of a promotion's run. The run of the study that trained its networks is not its parent, since
# a promotion isn't a trial.
PROMOTION_KEY, ANSWERING_KEY = "promotion_key", "answering_key"
TRAINED_IN = "trained_in"
PROMOTED = "promoted"

# Tags of both.
DATASET_DIGEST = "dataset_digest"
BACKEND, DEVICE, EXECUTION = "backend", "device", "execution"
DATA_KIND, DATA_LOCATION, DATA_NOTICE = "data_kind", "data_location", "data_notice"

# Metrics logged at the end of a trial; those logged after each epoch have Keras's names.
OBJECTIVE = "objective"
N_WEIGHTS = "n_weights"
# Step at which the epoch whose weights were kept was logged: from 1, or from 0 in runs of earlier
# versions.
BEST_EPOCH = "best_epoch"
FINAL = "final_"
AT_THE_END = (OBJECTIVE, N_WEIGHTS, BEST_EPOCH)
# Metrics of a study's run.
BEST_VALUE = "best_value"
BEST = "best/"

# Params of a study's run.
WEIGHTS = "weights"
SUBSET = "subset"  # number of photos of train that it uses, or a text for all

# Files of a study's run.
VERSIONS_FILE = "versions.json"
AUDIT_FILE, LEFT_OUT_FILE = "data/audit.json", "data/left_out.json"
SPLITS_FILE = "data/splits.json"
TRIALS_FILE = "trials.json"
# Folder of both.
FIGURES = "figures"
# Files of a trial's run.
PREDICTIONS_FILE = "val/predictions.npz"

# Folder, in the run of a model that was shown photos of test, of their hashes:
# `looks/<digest>.json`.
LOOKS = "looks"

# Files of a promotion's run; answers are in a folder for each split.
ANSWERS_FILE = "answers.npz"
PROMOTION_FILE, CARD_FILE = "promotion.json", "card.md"

# Alias of a registered model.
CHAMPION = "champion"

# Tags of a registered model: one for each move of its champion, `champion_move.0001.<hex>`.
MOVE = "champion_move."
# Commands that move it, as recorded in a move.
PROMOTE, ROLLBACK = "promote", "rollback"

# The registered model that is the ledger of looks at photos of test; it has no versions.
LEDGER = "catdog-search-test-looks"
# Its tags: one for each look, `test_look.0001.<hex>`.
LOOK = "test_look."

# Tags of a model version, besides STUDY, TRIAL, OBJECTIVE and DATASET_DIGEST.
RUN_ID = "run_id"
METRIC = "metric"
FORM, THRESHOLD = "form", "threshold"
TEST_ACCURACY, TEST_INTERVAL, TEST_N = "test_accuracy", "test_accuracy_95", "test_photos"
TEST_LOOKS = "test_looks"
