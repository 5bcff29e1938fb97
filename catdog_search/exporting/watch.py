"""Keeps the served file up to date with the registry, beside a service that knows no MLflow.

`python -m catdog_search.exporting.watch --model NAME [--state DIR] [--every SECONDS | --once]` asks
the registry, now and then, and writes the champion's file where another one is champion. It ends
when standard input does, so that it doesn't outlive the service that holds the other end.
"""

from __future__ import annotations

import argparse
import os
import sys
import threading

from catdog_search.errors import CatdogError
from catdog_search.exporting.served import refresh
from catdog_search.places import StateFolder
from catdog_search.text import first_line, printable
from catdog_search.tracking.store import Store

EVERY_S = 5.0


def watch(state: StateFolder, name: str, every: float = EVERY_S) -> None:
    """Look for a new champion, forever.

    Args:
        state: State folder with the registry, to which the file is written.
        name: Name of the registered model.
        every: Seconds between two looks.
    """
    store, said = Store.of(state), ""
    pause = threading.Event()
    while True:
        try:
            line = "put in its place" if refresh(state, store, name) else said
        except CatdogError as error:
            line = first_line(error)
        if line != said:
            print(f"champion of {printable(name)}: {line}", file=sys.stderr, flush=True)  # noqa: T201
        said = line
        pause.wait(every)


def _end_with_parent() -> None:
    sys.stdin.buffer.read()
    os._exit(0)


def main() -> None:
    """Watch as the command line says."""
    parser = argparse.ArgumentParser(prog="watch", description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--state")
    parser.add_argument("--every", type=float, default=EVERY_S)
    parser.add_argument("--once", action="store_true")
    asked = parser.parse_args()
    state = StateFolder.at(asked.state)
    if asked.once:
        try:
            refresh(state, Store.of(state), asked.model)
        except CatdogError as error:
            sys.exit(first_line(error))
        return
    threading.Thread(target=_end_with_parent, daemon=True).start()
    watch(state, asked.model, asked.every)


if __name__ == "__main__":
    main()
