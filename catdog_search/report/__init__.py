"""What studies and models are worth, side by side."""
