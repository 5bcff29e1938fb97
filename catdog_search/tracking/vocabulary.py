"""The names that runs, their tags, metrics, params and files have in MLflow, each in one place."""

from __future__ import annotations

# Tags of every run. MLflow's own begin with `mlflow.`; the parent is that of a study's trials.
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
NOW = "now."  # before the name of a param that has changed since the study began
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
PREVIOUS_ATTEMPT, NEXT_ATTEMPT = "previous_attempt", "next_attempt"
RECREATED = "recreated"
TEST_LOOKED_AT = "test_looked_at"

# Tags of a promotion's run. The run of the study that its networks were trained in is not its
# parent: it is no trial.
PROMOTION_KEY, ANSWERING_KEY = "promotion_key", "answering_key"
TRAINED_IN = "trained_in"
PROMOTED = "promoted"

# Tags of both.
DATASET_DIGEST = "dataset_digest"
BACKEND, DEVICE, EXECUTION = "backend", "device", "execution"
DATA_KIND, DATA_LOCATION, DATA_NOTICE = "data_kind", "data_location", "data_notice"

# Metrics, logged at the end of a trial; what is logged after each epoch has Keras's names.
OBJECTIVE = "objective"
N_WEIGHTS = "n_weights"
# The step at which the epoch was logged whose weights were kept: epochs count from 1, in runs of
# earlier versions from 0.
BEST_EPOCH = "best_epoch"
FINAL = "final_"
AT_THE_END = (OBJECTIVE, N_WEIGHTS, BEST_EPOCH)
# Metrics of a study's run.
BEST_VALUE = "best_value"
BEST = "best/"

# Params of a study's run.
WEIGHTS = "weights"
SUBSET = "subset"  # photos of train that it takes, or a text that says all

# Files of a study's run.
VERSIONS_FILE = "versions.json"
AUDIT_FILE, LEFT_OUT_FILE = "data/audit.json", "data/left_out.json"
SPLITS_FILE = "data/splits.json"
TRIALS_FILE = "trials.json"
# Folder of both.
FIGURES = "figures"
# Files of a trial's run.
PREDICTIONS_FILE = "val/predictions.npz"

# Folder of the run of a model that was shown photos of test: their hashes, `looks/<digest>.json`.
LOOKS = "looks"

# Files of a promotion's run; answers lie in a folder for each split.
ANSWERS_FILE = "answers.npz"
PROMOTION_FILE, CARD_FILE = "promotion.json", "card.md"

# Alias of a registered model.
CHAMPION = "champion"

# Tags of a registered model: one for each move of its champion, `champion_move.0001.<hex>`.
MOVE = "champion_move."
# Commands that move it, as a move names them.
PROMOTE, ROLLBACK = "promote", "rollback"

# The registered model that is the ledger of looks at photos of test; it has no versions.
LEDGER = "catdog-search-test-looks"
# Its tags: one for each look, `test_look.0001.<hex>`.
LOOK = "test_look."

# Tags of a model version; STUDY, TRIAL, OBJECTIVE and DATASET_DIGEST too.
RUN_ID = "run_id"
METRIC = "metric"
FORM, THRESHOLD = "form", "threshold"
TEST_ACCURACY, TEST_INTERVAL, TEST_N = "test_accuracy", "test_accuracy_95", "test_photos"
TEST_LOOKS = "test_looks"
