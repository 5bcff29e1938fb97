"""The machine that this runs on: its memory, its cgroups, its Keras backends."""
