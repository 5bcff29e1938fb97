"""Run a study: Optuna proposes, a worker trains, the coordinator records."""
