"""Train one trial and score it; knows neither Optuna nor MLflow."""
