"""Searches in MLflow: conditions in its query language, and all pages of results."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from catdog_search.errors import StateError


def equals(field: str, value: str) -> str:
    """The condition that a field has a value, whatever characters the value contains.

    Args:
        field: Field's name in MLflow, with the backticks that it needs.
        value: Value that the field has; any text.

    Raises:
        StateError: The value holds both kinds of quote, which MLflow's language can't express.
    """
    quote = next((mark for mark in "'\"" if mark not in value), None)
    if quote is None:
        raise StateError(f"{value!r}: MLflow can't search for a name that holds both ' and \"")
    return f"{field} = {quote}{value}{quote}"


def all_pages(search: Callable[..., Any], **options: Any) -> Iterator[Any]:
    """All results of a search, page by page.

    Args:
        search: Search of MLflow's client that takes a `page_token`.
        options: Its other arguments.
    """
    token = None
    while True:
        page = search(**options, page_token=token)
        yield from page
        token = page.token
        if not token:
            return
