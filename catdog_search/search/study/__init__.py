"""What a study keeps of itself, in Optuna and in MLflow, and how both are held together."""
