"""Reports on studies and models, side by side."""
