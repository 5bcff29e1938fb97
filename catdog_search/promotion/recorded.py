"""The study to promote, as its file and its own run describe it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from catdog_search.data.sources import open_source
from catdog_search.errors import CatdogError, StateError, StudyFileError
from catdog_search.places import StateFolder
from catdog_search.search.prepare import Prepared, Request, prepare
from catdog_search.search.study.settings import is_as_made, made_with, require_same
from catdog_search.search.study.storage import load_study, remembered_weights
from catdog_search.search.study.views import StudyView, load_view
from catdog_search.study import studies
from catdog_search.study.config import StudyConfig
from catdog_search.tracking.recorded import RunReader
from catdog_search.tracking.store import Store

Say = Callable[[str], None]


def config_of(state: StateFolder, asked: str, say: Say) -> StudyConfig:
    """The configuration of a study that was run.

    From the named file, else from the file of its name if that still describes the study, else
    from the text that its run keeps.

    Args:
        state: State folder that keeps the study.
        asked: Study's name, or the path of its file.
        say: Callback for what a user should know, a line each.

    Raises:
        StudyFileError: The file is wrong, or there is none and its run keeps none.
        StateError: There is no such study.
    """
    if Path(asked).suffix == ".toml":
        return studies.load(asked)
    study = load_study(state, asked)
    if (path := studies.available().get(asked)) is not None:
        config = studies.load(str(path))
        if config.name == asked and is_as_made(study, config):
            return config
        say(f"{path} says otherwise than study {asked} was made with; its own run's copy is taken")
    view = load_view(state, asked)
    content = RunReader(Store.of(state)).file(view.parent_run_id or "", asked)
    if not content:
        raise StudyFileError(
            f"study {asked!r}: its run keeps no study file; name the file: --study FILE"
        )
    config = studies.parse_file(content, f"the file that study {asked} was made with")
    # It may have been renamed since.
    return config.called(asked).model_copy(update={"name": asked})


def prepare_as_it_was(config: StudyConfig, view: StudyView, request: Request, say: Say) -> Prepared:
    """As `prepare`, with the photos that the study has, wherever they are.

    Args:
        config: Study's configuration.
        view: Study as it stands.
        request: Request of the call; its study is this one.
        say: Callback for what a user should know, a line each.

    Raises:
        StateError: The photos or the settings are not those of the study.
        DataError: They can't be read; --data says where they are.
    """
    made = made_with(load_study(request.state, config.name))
    data = request.data or _where(config, view, request.state)
    weights = request.weights or remembered_weights(request.state, config.name)
    asked = {
        "study": config,
        "data": data,
        "subset": made.get("subset"),
        "weights": weights if config.loads_weights else request.weights,
    }
    prepared = prepare(Request(**{**vars(request), **asked}), say)
    require_same(
        load_study(request.state, config.name), prepared.config, prepared.dataset, request.state
    )
    return prepared


def _where(config: StudyConfig, view: StudyView, state: StateFolder) -> str | None:
    """Where the study's photos were; None for drawn pictures."""
    kind, location = RunReader(Store.of(state)).photos(view.parent_run_id or "")
    if kind == "synthetic" or location is None:
        return None
    try:
        open_source(location)
    except CatdogError as error:
        raise StateError(
            f"study {config.name!r}: its photos were in {location}, and can't be read there now: "
            f"{error}; say where they are: --data PATH"
        ) from None
    return location
