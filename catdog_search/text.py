"""External text (names of files, classes, recipes): one way to compare, print and choose it."""

from __future__ import annotations

import csv
import io
import re
import shlex
import unicodedata
from collections.abc import Iterable

# Number of classes of a dataset, a model and a choice of classes, defined only here. Everything
# else takes as many as there are names.
N_CLASSES = 2
_LONGEST_SHOWN = 200

# Control characters, lone surrogates (bytes that aren't text), line and paragraph separators.
_UNPRINTABLE = frozenset(("Cc", "Cs", "Zl", "Zp"))
# Marks that change the direction of the text around them.
_TURNING = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_PLACE = re.compile(r'File ".*", line \d+')
# What comes before the message of an error that is raised within a traced function or a layer.
_BEFORE = re.compile(
    r"in user code:|Graph execution error:|Detected at node|Exception encountered when calling"
    rf"|<stack traces|Traceback \(most recent|[~^* ]+$|{_PLACE.pattern}"
)
# Python reads bytes of file names that aren't UTF-8 as U+DC80 to U+DCFF.
_FIRST_BYTE, _LAST_BYTE, _BYTE_OFFSET = 0xDC80, 0xDCFF, 0xDC00


def printable(text: str) -> str:
    r"""One line that is safe to print anywhere: what a terminal would act on is spelled out.

    An escape becomes `\x1b`, a byte that isn't UTF-8 `\xe9`, a mark that changes the direction
    `\u202e`. The result can be encoded as UTF-8 and contains no line breaks.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(map(_shown, text))


def _shown(char: str) -> str:
    if unicodedata.category(char) not in _UNPRINTABLE and char not in _TURNING:
        return char
    code = ord(char)
    if _FIRST_BYTE <= code <= _LAST_BYTE:
        code -= _BYTE_OFFSET
    return f"\\x{code:02x}" if code <= 0xFF else f"\\u{code:04x}"  # noqa: PLR2004  one byte


def name_key(text: str) -> str:
    """A key equal for names that people see as equal: letters composed or not, in any case."""
    folded = unicodedata.normalize("NFC", text).casefold()
    return unicodedata.normalize("NFC", folded)


def shown_key(text: str) -> str:
    r"""As `name_key`, of the printed form: the byte E9 can be given as `\xe9`."""
    return name_key(printable(text)).strip()


def in_a_line(text: str) -> str:
    """Text that may have several lines, such as a study's purpose, in one line."""
    return " ".join(text.split())


def as_classes(names: Iterable[str]) -> str:
    """These names in the form that `chosen_classes` reads, quoted for a shell."""
    items = (f'"{name}"' if "," in name else name for name in names)
    return shlex.quote(",".join(items))


def chosen_classes(text: str) -> dict[str, str]:
    """Read `FOUND[=OURS],…`, the one grammar in which classes are chosen, renamed and merged.

    An item that contains a comma is put in double quotes; the last `=` counts.

    Returns:
        The new name of each found class, by its current name.

    Raises:
        ValueError: It doesn't name `N_CLASSES` classes; the message says what is allowed.
    """
    chosen: dict[str, str] = {}
    for item in next(csv.reader([text], skipinitialspace=True), []):
        found, equals, ours = (part.strip() for part in item.rpartition("="))
        found = found if equals else ours
        if not found or not ours:
            raise ValueError(f"{printable(item)!r} is not FOUND or FOUND=OURS")
        if any(shown_key(found) == shown_key(other) for other in chosen):
            raise ValueError(f"{printable(found)!r} is given twice")
        chosen[found] = ours
    named = {shown_key(ours): printable(ours) for ours in chosen.values()}
    if len(named) != N_CLASSES:
        raise ValueError(
            f"two classes are wanted, and this makes {', '.join(named.values())}; write "
            "FOUND=OURS,FOUND=OURS, as cats=cat,dogs=dog"
        )
    return {found: named[shown_key(ours)] for found, ours in chosen.items()}


def one_spelling(classes: str) -> str:
    """One text for everything that `chosen_classes` reads as the same, except for case.

    Raises:
        ValueError: `chosen_classes` refuses them.
    """
    out = io.StringIO()
    items = sorted(f"{found}={ours}" for found, ours in chosen_classes(classes).items())
    csv.writer(out, lineterminator="").writerow(items)
    return out.getvalue()


def named_line(error: BaseException) -> str:
    """An error in one line, after the name of its type: `ValueError: too short`."""
    text, kind = _telling_line(str(error)), type(error).__name__
    if not text:
        return kind
    return f"{kind}: {text.removeprefix(f'{kind}: ')[:300]}"


def _telling_line(text: str) -> str:
    """The first line that says what is wrong, without what Keras and TensorFlow put before it."""
    lines = [line.strip() for line in _COLOUR.sub("", text).splitlines()]
    # The line of code below each place is no message.
    code = {n + 1 for n, line in enumerate(lines) if _PLACE.match(line)}
    said = (line for n, line in enumerate(lines) if line and n not in code)
    whole = next((line for line in lines if line), "")
    return next((line for line in said if not _BEFORE.match(line)), whole)


def with_article(noun: str) -> str:
    """A noun with its article: `an int`, `a module`."""
    return f"{'an' if noun[:1].lower() in tuple('aeiou') else 'a'} {noun}"


def shown(value: object) -> str:
    """A value of somebody's file as Python spells it, cut if it is long."""
    said = repr(value)
    return said if len(said) <= _LONGEST_SHOWN else f"{said[:_LONGEST_SHOWN]}…"


def first_line(error: Exception) -> str:
    """The first line of an error's message, printable; its type where it has none."""
    return printable((str(error).strip() or type(error).__name__).splitlines()[0])
