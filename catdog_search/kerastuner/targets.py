"""Import a user's code for KerasTuner by its name; importing it runs it.

It may be in the current folder, which comes last on the path, so that nothing there hides an
installed module. Nothing beside the module is looked for.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import importlib.util
import inspect
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import catdog_search
from catdog_search.errors import RequestError
from catdog_search.kerastuner.package import keras_tuner
from catdog_search.space import nearest
from catdog_search.text import named_line, with_article

_ALLOWED = "it must be a HyperModel, its class, a function that makes one, or a function build(hp)"
_DIGITS = 16
_OURS = Path(catdog_search.__file__).parent


@dataclass(frozen=True)
class Target:
    """Code that was imported.

    Attributes:
        name: Its name, as `pkg.module:NAME`.
        source: Digest of its module's source.
        hypermodel: The `keras_tuner.HyperModel`.
    """

    name: str
    source: str
    hypermodel: Any

    @property
    def has_own_fit(self) -> bool:
        """Whether it trains its networks itself."""
        return type(self.hypermodel).fit is not keras_tuner().HyperModel.fit


def load(name: str) -> Target:
    """Import a hypermodel.

    Args:
        name: Its name, as `pkg.module:NAME`.

    Raises:
        RequestError: There is no such object, it can't be imported, or it isn't a hypermodel.
    """
    module_name, _, attribute = name.partition(":")
    keras_tuner()  # before the path grows
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and f"{module_name}.".startswith(f"{error.name}."):
            meant = nearest(module_name, [path.stem for path in Path(here).glob("*.py")])
            raise RequestError(
                f"no module {error.name!r} in {here} or installed"
                + (f"; did you mean '{meant}:{attribute}'?" if meant else "")
            ) from None
        raise RequestError(f"its import failed: {told(error)}") from error
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # anybody's code may raise anything
        raise RequestError(f"its import failed: {told(error)}") from error
    found: Any = module
    for part in attribute.split("."):
        if not hasattr(found, part):
            where = getattr(module, "__file__", None) or "built in"
            meant = nearest(part, [other for other in vars(found) if other[:1] != "_"])
            raise RequestError(
                f"{module_name} has no {attribute} ({where})"
                + (f"; did you mean {meant!r}?" if meant else "")
            )
        found = getattr(found, part)
    return Target(name, _digest(module_name, module), _as_hypermodel(found))


def _digest(name: str, module: Any) -> str:
    path = getattr(module, "__file__", None)
    if path is None:
        raise RequestError(f"{name} has no source file, whose digest a study remembers")
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()[:_DIGITS]


def _as_hypermodel(found: Any) -> Any:
    kind = keras_tuner().HyperModel
    if isinstance(found, kind):
        return found
    if not callable(found):
        raise RequestError(f"is {with_article(type(found).__name__)}; {_ALLOWED}")
    if inspect.isclass(found):
        if not issubclass(found, kind):
            raise RequestError(f"is a class, but not a HyperModel; {_ALLOWED}")
        if _required(found):
            raise RequestError(
                "is a class that needs arguments; name an instance, or a function that makes one"
            )
    elif not _takes_nothing(found):
        return _of_function(found)
    return _made_by(found)


def _made_by(factory: Any) -> Any:
    try:
        with no_exit("factory"):
            made = factory()
    except Exception as error:  # anybody's code may raise anything
        if _takes_anything(factory) and isinstance(error, TypeError | LookupError):
            return _of_function(factory)  # a decorator's wrapper, which hands on what it is given
        raise RequestError(f"making it failed: {told(error)}") from error
    return made if isinstance(made, keras_tuner().HyperModel) else _of_function(made)


def _of_function(build: Any) -> Any:
    if not callable(build) or inspect.isclass(build):
        raise RequestError(f"makes {with_article(type(build).__name__)}; {_ALLOWED}")
    if not _takes_hp(build):
        raise RequestError(f"takes other arguments than hp; {_ALLOWED}")
    hypermodel = keras_tuner().HyperModel(name=getattr(build, "__name__", None))
    hypermodel.build = build
    return hypermodel


def _required(function: Callable[..., Any]) -> list[inspect.Parameter]:
    variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [
        each
        for each in inspect.signature(function).parameters.values()
        if each.default is inspect.Parameter.empty and each.kind not in variable
    ]


def _takes_nothing(function: Callable[..., Any]) -> bool:
    given = inspect.signature(function).parameters
    return not _required(function) and "hp" not in given


def _takes_anything(function: Callable[..., Any]) -> bool:
    """Whether its signature doesn't say what it takes."""
    given = inspect.signature(function).parameters.values()
    return any(each.kind is inspect.Parameter.VAR_POSITIONAL for each in given)


def _takes_hp(function: Callable[..., Any]) -> bool:
    given = list(inspect.signature(function).parameters.values())
    by_keyword = inspect.Parameter.KEYWORD_ONLY
    return bool(given) and given[0].kind != by_keyword and len(_required(function)) <= 1


def build(target: Target, values: Mapping[str, Any]) -> tuple[Any, Any]:
    """Build the code's network with some values; returns it, and the `hp` that the code asked.

    Raises:
        Exception: Whatever the code raises.
    """
    hyperparameters = asking(values)
    with no_exit("build"):
        return target.hypermodel.build(hyperparameters), hyperparameters


@contextlib.contextmanager
def no_exit(what: str) -> Iterator[None]:
    """Code that would end the process raises instead.

    Raises:
        RequestError: It did.
    """
    try:
        yield
    except (Exception, KeyboardInterrupt):
        raise
    except BaseException as error:  # SystemExit, or one of the code's own
        raise RequestError(f"its {what} ends the process: {told(error)}") from error


def asking(values: Mapping[str, Any]) -> Any:
    """An `hp` that answers with the given values, and with defaults otherwise."""
    hyperparameters = keras_tuner().HyperParameters()
    hyperparameters.values = dict(values)
    return hyperparameters


def told(error: BaseException) -> str:
    """An error of a user's code in one line, with the line of that code that led to it."""
    line = named_line(error)
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not _is_installed(frame.filename)]
    # A SyntaxError names its place itself.
    if not own or isinstance(error, SyntaxError) or is_failed_trial(error):
        return line
    return f"{line} ({Path(own[-1].filename).name}, line {own[-1].lineno})"


def _is_installed(file: str) -> bool:
    """Whether a file belongs to Python, to us, or to a package, rather than to a project."""
    homes = [_OURS, *(Path(sysconfig.get_path(name)) for name in ("stdlib", "purelib", "platlib"))]
    return file.startswith("<") or any(Path(file).is_relative_to(home) for home in homes)


def is_failed_trial(error: BaseException) -> bool:
    """Whether an error says that these params are invalid, rather than that the code is wrong."""
    kind = keras_tuner().errors.FailedTrialError
    return isinstance(error, kind) or type(error).__name__ == kind.__name__
