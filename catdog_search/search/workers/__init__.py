"""Processes that train trials, here or elsewhere, and the messages to and from them."""
