"""MLflow's model registry: versions and the alias others load by."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping
from dataclasses import dataclass

from catdog_search.errors import StateError
from catdog_search.text import printable
from catdog_search.tracking.filters import equals
from catdog_search.tracking.looked_at import require_ours
from catdog_search.tracking.store import Store

CHAMPION = "champion"


@dataclass(frozen=True)
class Registered:
    """A model version under its alias.

    Attributes:
        uri: Model's URI, `models:/<name>@champion`.
        version: Version of the registered model, from 1.
        created: Whether this call registered it; False where that was done before.
        previous: Version that held the alias before, from 1; None where no other did.
    """

    uri: str
    version: int
    created: bool
    previous: int | None


def register_champion(
    store: Store, name: str, model_id: str, tags: Mapping[str, str]
) -> Registered:
    """Register a logged model and move the alias `champion` to it.

    A model that is registered already gets no second version, so a repeated call changes nothing.

    Raises:
        StateError: The model or its files are gone, it isn't one of ours, or MLflow refuses the
            name.
    """
    if "@" in name:
        raise StateError(f"--model {name}: an @ parts a model's name from its alias; leave it out")
    client = store.client()
    import mlflow

    source = f"models:/{model_id}"
    try:
        require_ours(source)
        known = client.search_model_versions(equals("name", name))
        version = next((v for v in known if v.source == source), None)
        created = version is None
        if version is None:
            with contextlib.redirect_stderr(io.StringIO()):  # it prints what we return
                version = mlflow.register_model(source, name, tags=dict(tags))
        previous = client.get_registered_model(name).aliases.get(CHAMPION)
        client.set_registered_model_alias(name, CHAMPION, version.version)
    except (mlflow.exceptions.MlflowException, OSError, ValueError) as error:
        first = printable(str(error).strip().splitlines()[0])
        raise StateError(f"model {source} can't be registered as {name!r}: {first}") from error
    return Registered(
        uri=f"models:/{name}@{CHAMPION}",
        version=int(version.version),
        created=created,
        previous=None if previous in (None, version.version) else int(previous),
    )
