"""A state folder that an earlier version left behind, killed in its last trial, is gone on with.

`states/VERSION` holds the folder, the study file it was made with, and what that version said of
its trials; `view.json` names the commit.
"""

from __future__ import annotations

import json
import tarfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from tiny_study import call, register_best

from catdog_search.outcomes import Ending
from catdog_search.places import StateFolder

STATES = sorted((Path(__file__).parent / "states").iterdir())
INTERRUPTED = 11


@pytest.fixture(params=STATES, ids=lambda folder: folder.name)
def earlier(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, Path]:
    """The folder of a version, and its state, unpacked at a place that it doesn't know."""
    folder: Path = request.param
    with tarfile.open(folder / "state.tar.xz") as packed:
        packed.extractall(tmp_path, filter="data")
    state = tmp_path / "state"
    call("relocate", "--state", str(state))
    return folder, state


def said_of(state: Path) -> dict[str, Any]:
    shown: dict[str, Any] = json.loads(
        call("show", "--study", "quick", "--json", "--state", str(state)).output
    )
    return shown


def known(rows: list[dict[str, Any]], *, models: bool) -> list[dict[str, Any]]:
    """What the earlier version knew of the trials that were over, spelled as this one does."""
    names = ["number", "state", "value", "epochs", "params", "run_id", *["model_id"] * models]
    plain = [{name: row[name] for name in names} for row in rows[:INTERRUPTED]]
    endings = [Ending.read(row["ending"]).value for row in rows[:INTERRUPTED]]
    return [{**row, "ending": ending} for row, ending in zip(plain, endings, strict=True)]


def test_earlier_state_is_shown_gone_on_with_compared_and_asked_for_a_champion(
    earlier: tuple[Path, Path],
) -> None:
    folder, state = earlier
    facts = json.loads((folder / "view.json").read_text())
    shown = said_of(state)
    assert known(shown["trials"], models=True) == known(facts["trials"], models=True)
    assert shown["trials"][INTERRUPTED]["state"] == "RUNNING"

    study = str(folder / "quick.toml")
    done = call("run", "--study", study, "--state", str(state))
    found = next(state.glob("artifacts/quick/*/artifacts/versions.json"))
    same = json.loads(found.read_text())["keras"] == version("keras")
    goes_on = "resumes after epoch 3" if same else "the trial begins anew"
    assert f"trial {INTERRUPTED}: {goes_on}" in done.output.replace("note: ", "")

    shown = said_of(state)
    # The last trial may have taken the place of another one's model.
    assert known(shown["trials"], models=False) == known(facts["trials"], models=False)
    assert shown["trials"][INTERRUPTED]["state"] in ("COMPLETE", "PRUNED")
    assert len(shown["trials"]) == INTERRUPTED + 1
    compared = json.loads(call("compare", "--json", "--state", str(state)).stdout)
    assert compared["entries"][0]["name"] == "small-cnn"
    # Its study file is from before [promotion], its photos are too few to set some aside, and its
    # best trial is no better than a floor: that is found out, and said.
    as_it_is = ["--finalists", "1", "--seeds", "1", "--json", "--state", str(state)]
    told = json.loads(call("promote", "--study", study, *as_it_is, code=1).stdout)
    assert told["trial"] == shown["best"]["number"]
    verdicts = {gate["name"]: gate["verdict"] for gate in told["gates"]}
    assert (verdicts["round trip"], verdicts["accuracy"]) == ("passed", "failed")
    assert (told["promoted"], told["version"]) == (False, None)
    best = register_best(StateFolder.at(str(state)), study="quick")
    assert (best.version, best.created) == (1, True)
    assert call("doctor", "--state", str(state)).exit_code == 0
    assert StateFolder.at(str(state)).mlflow_db.exists()
