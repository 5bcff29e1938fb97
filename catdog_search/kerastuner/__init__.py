"""The only package that uses KerasTuner: its spaces and ours, and its oracles."""
