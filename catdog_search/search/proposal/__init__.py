"""Propose the params of the next trial."""
