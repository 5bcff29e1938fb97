"""The only package that uses MLflow: runs, metrics, figures, models, registry, user interface."""
