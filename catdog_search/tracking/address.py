"""Check, before anything starts, that the store of a tracking URI can be used here."""

from __future__ import annotations

import importlib.metadata

from catdog_search.errors import StateError
from catdog_search.redact import redact

_DATABASES = ("postgresql", "mysql", "mssql")
_OTHERS = ("sqlite", "http", "https", "file", "databricks", "databricks-uc", "uc")
# Packages to install for modules that SQLAlchemy imports, where the names differ.
_PACKAGES = {
    "psycopg": "psycopg[binary]",
    "psycopg2": "psycopg2-binary",
    "MySQLdb": "mysqlclient",
    "mysql": "mysql-connector-python",
}


def require_usable(uri: str) -> None:
    """Refuse a URI that can't be used as a store here.

    Raises:
        StateError: Its scheme is unknown, its driver isn't installed, or it isn't an address.
    """
    scheme, colon, _ = uri.partition(":")
    if not colon or "/" in scheme:
        return  # a path, which is left for MLflow to check
    kind = scheme.split("+")[0].lower()
    if kind in _DATABASES:
        _require_driver(uri)
    elif kind == "sqlite" and uri.removeprefix(f"{scheme}://") in ("", "/", "/:memory:"):
        raise StateError(f"{_named(uri)} is in memory, which workers can't share; give it a path")
    elif kind not in (*_OTHERS, *_plugins()):
        known = ", ".join((*_OTHERS[:4], *_DATABASES, _OTHERS[4]))
        raise StateError(f"{_named(uri)}: {scheme!r} is none of {known}")


def _plugins() -> set[str]:
    """Schemes that other installed packages add to MLflow."""
    found = importlib.metadata.entry_points(group="mlflow.tracking_store")
    return {point.name for point in found}


def _require_driver(uri: str) -> None:
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        make_url(uri).get_dialect().import_dbapi()
    except ModuleNotFoundError as error:
        module = str(error.name).split(".")[0]
        raise StateError(
            f"{_named(uri)}: its driver {module} is not installed; "
            f"pip install '{_PACKAGES.get(module, module)}'"
        ) from None
    except (ArgumentError, ValueError, AttributeError):
        raise StateError(
            f"{_named(uri)} is no address of a database, which is "
            "DIALECT[+DRIVER]://[USER:PASSWORD@]HOST[:PORT]/DATABASE"
        ) from None


def _named(uri: str) -> str:
    return f"MLflow store {redact(uri)} (MLFLOW_TRACKING_URI)"
