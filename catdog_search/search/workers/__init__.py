"""Processes that train trials, here or elsewhere, and what is said to them."""
