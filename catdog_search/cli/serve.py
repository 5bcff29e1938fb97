"""`serve`: a model behind a URL."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from catdog_search.children import ChildError, run_python
from catdog_search.cli.common import MODEL, PULSE, Number, Whole, say, state_option
from catdog_search.errors import StateError

if TYPE_CHECKING:
    from catdog_search.service.champion import Champion

_SUFFIX = ".onnx"
_WATCHER = "catdog_search.exporting.watch"


@click.command()
@click.argument("model", default=MODEL, metavar="[MODEL|FILE.onnx]")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port",
    type=Whole(0, 65535),
    default=8000,
    show_default=True,
    help="Port to listen on; 0 for any that is free.",
)
@click.option(
    "--token",
    envvar="CATDOG_TOKEN",
    help="What whoever asks must show, but for /health and the page's own files; other users of "
    "this machine can read it here, so better in CATDOG_TOKEN  [default: anybody may ask].",
)
@click.option(
    "--max-body-mb",
    type=Number(min=0, max=1000, min_open=True),
    default=32,
    show_default=True,
    metavar="MB",
    help="Largest body that is read.",
)
@click.option(
    "--max-megapixels",
    type=Number(min=0, max=400, min_open=True),
    default=50,
    show_default=True,
    metavar="N",
    help="Largest photo that is decoded, in millions of pixels.",
)
@click.option(
    "--queue",
    type=Whole(min=0),
    default=64,
    show_default=True,
    metavar="N",
    help="Requests that may wait; more are told when to try again.",
)
@click.option(
    "--timeout",
    type=Number(min=0, max=3600, min_open=True),
    default=30,
    show_default=True,
    metavar="S",
    help="Seconds for reading a request, and again for answering it.",
)
@state_option
def serve(  # noqa: PLR0913, PLR0917  one argument for each option
    model: str,
    host: str,
    port: int,
    token: str | None,
    max_body_mb: float,
    max_megapixels: float,
    queue: int,
    timeout: float,
    state: str | None,
) -> None:
    """Answer photos over HTTP, with the champion of MODEL (catdog) or a file of `model export`.

    A new champion, or a new file in FILE's place, answers as soon as it has passed its self-test.
    Ctrl-C ends it.
    """
    from catdog_search.places import StateFolder
    from catdog_search.service.champion import Champion, Served
    from catdog_search.service.run import listen, run, say_to_log
    from catdog_search.service.settings import MB, Settings

    _check_name(model)
    settings = Settings(
        token=_checked(token),
        max_body_bytes=int(max_body_mb * MB),
        max_pixels=int(max_megapixels * 1_000_000),
        queue=queue,
        timeout_s=timeout,
    )
    say_to_log()
    with listen(host, port) as listening:
        if _is_file(model):
            champion = Champion(Path(model))
            _require(champion)
            watcher, starting = None, ""
        else:
            where = StateFolder.at(state)
            champion = Champion(where.served(model))
            if not isinstance(champion.look(), Served):
                _ask_once(model, where.root)
                champion.look()
            watcher = [_WATCHER, "--model", model, "--state", str(where.root)]
            starting = f"the champion of {model!r} in {where.root} is being looked for and exported"
        _say_where(listening, has_token=token is not None)
        if champion.current and (warning := champion.current.model.facts.warning):
            say(f"note: {warning}", err=True)
        say("Ctrl-C ends it" if champion.current else f"{starting}; Ctrl-C ends it")
        sys.stdout.flush()
        with PULSE.held():
            run(settings, champion, listening, watcher, starting)


def _is_file(model: str) -> bool:
    # No registered model's name has a slash.
    return model.endswith(_SUFFIX) or os.sep in model


def _check_name(model: str) -> None:
    if not _is_file(model) and any(mark in model for mark in "@:"):
        raise click.UsageError(
            f"serve {model}: takes the name of a registered model, whose champion answers, or "
            "FILE.onnx; `catdog-search model export` writes one of any other model."
        )


def _ask_once(model: str, root: Path) -> None:
    """Ask the registry before listening, so that a wrong name fails here."""
    say(f"asking for the champion of {model!r} in {root}", err=True)
    try:
        run_python(["-m", _WATCHER, "--once", "--model", model, "--state", str(root)])
    except ChildError as error:
        raise StateError(str(error)) from None


def _checked(token: str | None) -> str | None:
    if token is None and "CATDOG_TOKEN" not in os.environ:
        return None
    # Click treats an empty variable as unset, which would leave the service open.
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise click.UsageError(
            "--token (or CATDOG_TOKEN) must be printable ASCII without spaces, and not empty."
        )
    os.environ["CATDOG_TOKEN"] = token  # where redaction looks for secrets
    return token


def _require(champion: Champion) -> None:
    from catdog_search.service.champion import Served

    found = champion.look()
    if not isinstance(found, Served):
        why = found.reason if found else f"model {champion.path}: can't be found or read"
        raise StateError(why)


def _say_where(listening: socket.socket, *, has_token: bool) -> None:
    from catdog_search.web import base_url, is_loopback

    host, port = listening.getsockname()[:2]
    say(base_url(host, port))
    if is_loopback(host):
        return
    token = (
        "with the token" if has_token else "without any token: --token or CATDOG_TOKEN asks for one"
    )
    say(
        f"warning: {host} is not this machine alone: whoever reaches port {port} can ask for "
        f"answers and read the page, the model's facts and the counters, {token}; it is not "
        "encrypted",
        err=True,
    )
