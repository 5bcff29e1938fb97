"""Child processes import nothing from the folder that they happen to be started in.

Started with `-m` or `-c`, Python puts the current folder first in `sys.path`: a `random.py` among
somebody's photos would be run.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

# For Python 3.11 and later, inherited by child Python processes.
_SAFE_PATH = "PYTHONSAFEPATH"


def trusted_path() -> list[str]:
    """Where imports may come from: `sys.path` without the current folder, with our own package."""
    own = str(Path(__file__).resolve().parents[1])
    path = [entry for entry in sys.path if entry]
    return path if own in path else [*path, own]  # last, so that nothing there hides another module


def safe_environment() -> dict[str, str]:
    """The environment for a Python process that may run in a different folder."""
    given = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    path = os.pathsep.join(os.path.abspath(entry) for entry in given if entry)
    return {**os.environ, _SAFE_PATH: "1"} | ({"PYTHONPATH": path} if path else {})


class ChildError(Exception):
    """A process that we started failed; the text is the last line of its stderr."""


def run_python(
    arguments: Sequence[str], longest_s: float | None = None, folder: str | None = None
) -> str:
    """Run a separate Python process and return what it prints.

    Args:
        arguments: Arguments of the interpreter.
        longest_s: Seconds that it may take; None for no limit.
        folder: Folder that it runs in; None for this one.

    Raises:
        ChildError: It failed, or took longer.
    """
    try:
        done = subprocess.run(
            [sys.executable, *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=longest_s,
            cwd=folder,
            env=safe_environment(),
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise ChildError(f"it took more than {longest_s:g} s") from None
    if done.returncode:
        raise ChildError(next(reversed(done.stderr.strip().splitlines()), "no word"))
    return done.stdout


@contextlib.contextmanager
def starting_safely() -> Iterator[None]:
    """For `multiprocessing`, whose children inherit the environment and `sys.path` as they are."""
    before, path = os.environ.get(_SAFE_PATH), list(sys.path)
    os.environ[_SAFE_PATH] = "1"
    sys.path[:] = trusted_path()
    try:
        yield
    finally:
        sys.path[:] = path
        if before is None:
            del os.environ[_SAFE_PATH]
        else:
            os.environ[_SAFE_PATH] = before
