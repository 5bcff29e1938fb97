"""Find what a user's code searches by running it, in a separate process that prints JSON."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Sequence

from catdog_search.errors import CatdogError
from catdog_search.families import hypermodel as family
from catdog_search.machine.backends import use_backend


def main(arguments: Sequence[str]) -> None:
    """Print what was found, or why nothing was, as a line of JSON; the code prints to stderr."""
    printed = os.dup(1)
    os.dup2(2, 1)
    with contextlib.redirect_stdout(sys.stderr):
        try:
            use_backend()  # before anything imports Keras
            from catdog_search.kerastuner.exploring import discover

            name, *side = arguments
            said = family.tell(discover(name, *map(int, side)))
        except CatdogError as error:
            said = {"error": str(error)}
        except Exception as error:  # anybody's code may leave anything behind
            from catdog_search.kerastuner.targets import told

            said = {"error": f"looking at it failed: {told(error)}"}
    with os.fdopen(printed, "w") as out:
        out.write(json.dumps(said) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
