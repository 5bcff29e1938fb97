"""The only room that speaks MLflow: runs, metrics, figures, models, registry, user interface."""
