"""The process beside a service that fetches new champions: started, restarted, ended with it.

It has a pipe from the service, to which nothing is ever written: however the service ends, kill -9
included, the pipe closes, and that ends the process and everything it has started.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import runpy
import signal
import sys
import threading
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Sequence

from catdog_search.children import safe_environment

_LOG = logging.getLogger(__name__)

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 300.0
# A process that lived this long had started well.
_WELL_S = 60.0
_NICE = 10


@contextlib.asynccontextmanager
async def beside(arguments: Sequence[str]) -> AsyncIterator[None]:
    """Keep `python -m ARGUMENTS` running.

    Args:
        arguments: Name of a module, and its arguments.
    """
    task = asyncio.create_task(_keep(arguments))
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def _keep(arguments: Sequence[str]) -> None:
    pause = _FIRST_PAUSE_S
    while True:
        began = time.monotonic()
        code = await _run(arguments)
        if time.monotonic() - began >= _WELL_S:
            pause = _FIRST_PAUSE_S
        _LOG.error("%s ended with %d; again in %.0f s", arguments[0], code, pause)
        await asyncio.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE_S)


async def _run(arguments: Sequence[str]) -> int:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-P", "-m", __name__, *arguments),
        stdin=PIPE,
        env=safe_environment(),
        process_group=0,  # Ctrl-C is for the service
    )
    try:
        return await process.wait()
    finally:
        _end(process)


def _end(process: Process) -> None:
    # With whatever it has started that still runs.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def main(arguments: Sequence[str]) -> None:
    """The process's whole life: run a module, no longer than the service lives.

    Args:
        arguments: See `beside`.
    """
    os.nice(_NICE)  # requests come first
    threading.Thread(target=_end_with_service, args=(os.dup(0),), daemon=True).start()
    # The module must not see the pipe close first, and end without what it has started.
    os.dup2(os.pipe()[0], 0)
    sys.argv = list(arguments)
    runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)


def _end_with_service(service: int) -> None:
    while os.read(service, 1):
        pass
    os.killpg(os.getpgrp(), signal.SIGKILL)


if __name__ == "__main__":
    main(sys.argv[1:])
