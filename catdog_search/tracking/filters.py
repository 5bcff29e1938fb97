"""Conditions in MLflow's search language, which are built here and nowhere else."""

from __future__ import annotations

from catdog_search.errors import StateError


def equals(field: str, value: str) -> str:
    """The condition that a field has a value, whatever characters that has.

    Args:
        field: Field's name in MLflow, with the backticks that it needs.
        value: Value that the field has; any text.

    Raises:
        StateError: The value holds both kinds of quote, of which MLflow has no way to write it.
    """
    quote = next((mark for mark in "'\"" if mark not in value), None)
    if quote is None:
        raise StateError(f"{value!r}: MLflow can't search for a name that holds both ' and \"")
    return f"{field} = {quote}{value}{quote}"
