"""Text of others: what a terminal would act on, and names that people take for the same."""

from __future__ import annotations

import pytest

from catdog_search.text import name_key, named_line, printable


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


KERAS_LAYER = (
    "Exception encountered when calling Sequential.call().\n\n"
    "\x1b[1mInput 0 of layer 'dense' has shape (4, 5)\x1b[0m\n\nArguments received by it:\n  x=3"
)
TRACED = (
    'in user code:\n\n    File "/a/own.py", line 18, in step  *\n        loss = loss_fn(y, x)\n'
    '    File "/keras/losses.py", line 3, in call\n        raise ValueError(\n\n'
    "    ValueError: Argument `output` must have rank 1. Received: 2\n\n"
)
GRAPH = (
    "Graph execution error:\n\nDetected at node a/b defined at (most recent call last):\n"
    '  File "/a/own.py", line 22, in <module>\n\n  File "/k/t.py", line 117, in handler\n\n'
    "indices[0,0] = 7 is not in [0, 2)\n\t [[{{node a/b}}]] [Op:x]"
)


@pytest.mark.parametrize(
    ("message", "line"),
    [
        ("too short", "ValueError: too short"),
        ("", "ValueError"),
        ("\n first\nsecond", "ValueError: first"),
        ("in user code:", "ValueError: in user code:"),
        (KERAS_LAYER, "ValueError: Input 0 of layer 'dense' has shape (4, 5)"),
        (TRACED, "ValueError: Argument `output` must have rank 1. Received: 2"),
        (TRACED.replace("ValueError:", "TypeError:"), "ValueError: TypeError: Argument `output` "),
        (GRAPH, "ValueError: indices[0,0] = 7 is not in [0, 2)"),
    ],
)
def test_line_of_an_error_is_the_one_that_says_what_is_wrong(message: str, line: str) -> None:
    assert named_line(ValueError(message)).startswith(line)
