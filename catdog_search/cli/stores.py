"""`ui`, `relocate`, `doctor`: commands on the stores."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from catdog_search.cli.common import PULSE, Whole, json_option, say, say_json, state_option

if TYPE_CHECKING:
    from catdog_search.doctor import Difference
    from catdog_search.places import StateFolder
    from catdog_search.search.study.relocate import Relocated
    from catdog_search.tracking.store import Store

# Studies whose pages `ui` prints; MLflow lists the others.
_MOST_PAGES = 10


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port",
    type=Whole(1, 65535),
    default=5000,
    show_default=True,
    help="Port to listen on.",
)
@state_option
def ui(host: str, port: int, state: str | None) -> None:
    """Open MLflow's user interface on the state folder."""
    from catdog_search.places import StateFolder
    from catdog_search.tracking.store import Store, is_server
    from catdog_search.tracking.ui import serve_ui

    where = StateFolder.at(state)
    store = Store.of(where)
    if is_server(store.uri):
        say("MLFLOW_TRACKING_URI names a server that is running:")
        _say_pages(store, store.uri)
        return
    store.require_there()
    if store.is_own and not where.optuna_db.exists():
        say(f"note: {where.root} holds no study{where.elsewhere}")

    def ready(base: str) -> None:
        _say_pages(store, base)
        say("Ctrl-C ends it")
        sys.stdout.flush()

    say(f"MLflow on {store.shown}; starting takes up to half a minute")
    with where.in_use(), PULSE.held():
        code = serve_ui(store, host, port, ready)
    click.get_current_context().exit(code)


def _say_pages(store: Store, base: str) -> None:
    """Where to look: each study's own page, best trial first, or MLflow's list of them."""
    from catdog_search.tracking.ui import page, study_pages

    studies = list(study_pages(store, base))
    for name, url in studies[:_MOST_PAGES]:
        say(f"study {name}: {url}")
    say(f"{'all of them' if studies else 'experiments'}: {page(base)}")


@click.command()
@json_option
@state_option
def relocate(as_json: bool, state: str | None) -> None:
    """Repair a state folder that was moved or copied, by updating the paths stored in it."""
    from catdog_search.places import StateFolder
    from catdog_search.search.study.relocate import relocate as move_in

    where = StateFolder.at(state)
    done = move_in(where)
    if as_json:
        facts = {
            "state": str(where.root),
            "from": [str(place) for place in done.places],
            "copy": done.is_copy,
            "locations": done.locations,
            "kept_models": done.kept,
            "missing_models": list(done.missing),
        }
        say_json(facts)
    else:
        _say_relocated(where, done)
    click.get_current_context().exit(1 if done.missing else 0)


def _say_relocated(state: StateFolder, done: Relocated) -> None:
    here = f"state folder {state.root}"
    if done.places:
        was = str(done.places[0])
        what = (
            "is now a state of its own, copied from" if done.is_copy else "is at home, moved from"
        )
        say(f"{here} {what} {was}; {done.locations} locations rewritten")
    elif done.locations:
        say(f"{here} was at home; {done.locations} locations of earlier places rewritten")
    else:
        say(f"{here} is where its locations say; nothing to relocate")
    there = done.kept - len(done.missing)
    say(f"checked: {there} of {done.kept} kept models are there with their files")
    for model_id in done.missing:
        say(f"missing: the files of model {model_id}; {state.command('doctor')} tells more")


@click.command()
@click.option("--repair", is_flag=True, help="Repair what the databases disagree about.")
@json_option
@state_option
def doctor(repair: bool, as_json: bool, state: str | None) -> None:
    """Check everything a study needs, and that Optuna and MLflow agree."""
    import dataclasses

    from catdog_search.doctor import check_files, compare_stores, examine
    from catdog_search.places import StateFolder

    where = StateFolder.at(state)
    write = (lambda line: None) if as_json else say
    findings = list(check_files(where, repair=repair))
    checks = []
    for check in examine(where):
        checks.append(check)
        write(f"{'ok  ' if check.ok else 'FAIL'}  {check.name}: {check.text}")
    well = all(check.ok for check in checks)
    if well and all(finding.mended for finding in findings):
        findings += compare_stores(where, repair=repair)
    for line in _lines_of(findings, where):
        write(line)
    if well and not findings:
        write("ok    stores: Optuna and MLflow agree, trial by trial")
    well = well and all(finding.mended for finding in findings)
    if as_json:
        facts = {
            "ok": well,
            "checks": [dataclasses.asdict(check) for check in checks],
            "findings": [dataclasses.asdict(finding) for finding in findings],
        }
        say_json(facts)
    click.get_current_context().exit(0 if well else 1)


def _lines_of(findings: list[Difference], state: StateFolder) -> Iterator[str]:
    for finding in findings:
        yield f"{'repaired' if finding.mended else 'differs'}  {finding.text}"
        if not finding.mended:
            yield f"         repair: {finding.mend}"
    if any(finding.mendable and not finding.mended for finding in findings):
        yield f"{state.command('doctor --repair')} repairs this"
