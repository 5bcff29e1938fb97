"""The only room that speaks KerasTuner: its spaces and ours, and its oracles."""
