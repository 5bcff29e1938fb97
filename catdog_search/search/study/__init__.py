"""A study's records, in Optuna and in MLflow, and how both are kept consistent."""
