"""Text of others: what a terminal would act on, and names that people take for the same."""

from __future__ import annotations

import pytest

from catdog_search.text import name_key, printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("cat.1.jpg", "cat.1.jpg"),
        ("bébé 猫 👩‍👧", "bébé 猫 👩‍👧"),
        ("red\x1b[31m", "red\\x1b[31m"),
        ("two\nlines\r\u2028", "two\\x0alines\\x0d\\u2028"),
        ("b\udce9b", "b\\xe9b"),
        ("gpj.\u202egnp", "gpj.\\u202egnp"),
        ("\x9b31m", "\\x9b31m"),
        ("half \ud83d", "half \\ud83d"),
    ],
)
def test_printable_spells_out_what_a_terminal_acts_on(text: str, shown: str) -> None:
    assert printable(text) == shown
    printable(text).encode()


@pytest.mark.parametrize(
    ("one", "other"), [("Chat", "chat"), ("be\u0301be\u0301", "BÉBÉ"), ("STRASSE", "straße")]
)
def test_name_key_is_the_same_for_what_people_take_for_the_same(one: str, other: str) -> None:
    assert name_key(one) == name_key(other)


def test_name_key_tells_other_names_apart() -> None:
    assert len({name_key(name) for name in ("cat", "cats", "bebe", "bébé")}) == 4
