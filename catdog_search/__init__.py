"""Hyperparameter search and experiment tracking for telling two kinds of photo apart."""

__version__ = "0.1.0"
