"""Families of models, augmentation, and the exported model that takes raw photos."""
