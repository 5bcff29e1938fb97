"""Find, read and check study files."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import catdog_search
from catdog_search.errors import RequestError, StudyFileError
from catdog_search.families import hypermodel, registry
from catdog_search.families.base import SMALLEST_IMAGE
from catdog_search.families.hypermodel import Hypermodel
from catdog_search.space import Choice, Fixed, Params, Space, did_you_mean, parse_space
from catdog_search.study.config import ORACLES, StudyConfig, check_study
from catdog_search.study.narrowing import narrowed, preferred
from catdog_search.text import printable

# An image size is packed before the first trial, so they can't be many.
_MOST_SIZES = 16
# Of a recipe: MLflow names a run after it.
_LONGEST_NAME = 250
# Of a study that has no file.
_LONGEST_STUDY, _TRIALS = 64, 20
# Side in pixels of photos where neither a study nor the code that it searches says one.
_SIDE = 64
# Optuna's grid sampler lists all points, for every trial anew.
_MOST_POINTS = 1_000_000

PACKAGE = Path(catdog_search.__file__).resolve().parent


def folders() -> list[Path]:
    """Where studies are looked for: ./studies first, then those that came with the package."""
    shipped = [PACKAGE / "shipped_studies", PACKAGE.parent / "studies"]
    return [p for p in (Path("studies"), *shipped) if p.is_dir()]


def available() -> dict[str, Path]:
    """All study files by name; a nearer one hides a farther one of the same name."""
    found: dict[str, Path] = {}
    for folder in folders():
        for path in sorted(folder.glob("*.toml")):
            found.setdefault(path.stem, path)
    return found


def find(name_or_file: str) -> Path:
    """The path of a study, by its name or as a path to a .toml file.

    Raises:
        StudyFileError: There is none.
    """
    path = Path(name_or_file)
    if path.suffix == ".toml":
        if path.is_file():
            return path
        raise StudyFileError(f"{path}: no such study file")
    found = available()
    if name_or_file not in found:
        raise StudyFileError(
            f"no study named {name_or_file!r}; {did_you_mean(name_or_file, found)}"
        )
    return found[name_or_file]


def load(name_or_file: str) -> StudyConfig:
    """Read and check a study, without loading anything heavy.

    Of the family `hypermodel`, the code that it names is run, in a process of its own.

    Raises:
        StudyFileError: Where and what is wrong, and what is allowed.
    """
    path = str(find(name_or_file))
    return parse_file(read(path).encode(), path)


def read(path: str) -> str:
    """The text of a study file.

    Raises:
        StudyFileError: It can't be read, or is no text.
    """
    try:
        return Path(path).read_bytes().decode()
    except OSError as error:
        raise StudyFileError(f"{path}: can't be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise StudyFileError(f"{path}: is not TOML: {error}") from None


def named_code(text: str, file: str) -> str | None:
    """The code that a study file names, which checking it runs; None where it names none.

    Raises:
        StudyFileError: It is not TOML.
    """
    named = _as_table(text.encode(), file).get("hypermodel")
    return printable(named) if isinstance(named, str) else None


def parse_file(content: bytes, file: str) -> StudyConfig:
    """Check the content of a study file as it was read; `file` is named in messages.

    Raises:
        StudyFileError: As `load`.
    """
    return parse(_as_table(content, file), file)


def file_of_hypermodel(code: str, name: str | None) -> str:
    """What a study file would say that searches somebody's code as it is.

    Args:
        code: The code, as `pkg.module:NAME`.
        name: The study's name; None makes one of the code's.

    Raises:
        RequestError: The name is that of a study file.
    """
    if name is not None and (Path(name).suffix == ".toml" or name in available()):
        raise RequestError(
            f"--study {name}: is a study file, which --hypermodel does without; choose another "
            f'name, or write family = "hypermodel" and hypermodel = "{code}" into a file'
        )
    own = name or re.sub(r"[^A-Za-z0-9._-]+", "-", code).strip("-._")[:_LONGEST_STUDY]
    lines = {
        "name": own,
        "purpose": f"To find the best of {code}.",
        "family": hypermodel.NAME,
        "hypermodel": code,
        "metric": "val_accuracy",
        "direction": "maximize",
        "trials": _TRIALS,
    }
    # A JSON text is a TOML text.
    return "".join(
        f"{key} = {json.dumps(value, ensure_ascii=False)}\n" for key, value in lines.items()
    )


def outline(path: Path) -> tuple[int, str]:
    """Trials and purpose of a study file that runs nobody's code, for a list.

    Raises:
        StudyFileError: As `load`.
    """
    table = _as_table(read(str(path)).encode(), str(path))
    if registry.is_found(str(table.get("family"))):
        table = {**table, "space": Space({}), "recipes": {}, "image_size": SMALLEST_IMAGE}
        config = check_study(table, str(path))
    else:
        config = load(str(path))
    return config.trials, config.purpose


def _as_table(content: bytes, file: str) -> dict[str, Any]:
    try:
        return tomllib.loads(content.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise StudyFileError(f"{file}: is not TOML: {error}") from None


def parse(table: Mapping[str, Any], file: str) -> StudyConfig:
    """Check the content of a study file; `file` is named in messages."""
    family, families = table.get("family", registry.default()), registry.names()
    if family not in families:
        raise StudyFileError(f"{file} family: {family!r}; {did_you_mean(str(family), families)}")
    code = _code_of(table, file)
    space = _space_of(table, code, file)
    if code is not None:
        code = replace(code, space=space)
        table = {**table, "image_size": _image_size(code, table, file)}
    recipes = _parse_recipes(_subtable(table, "recipes", file), space, code, file)
    config = check_study({**table, "space": space, "recipes": recipes}, file)
    config = config.model_copy(update={"found": code})
    for name in config.published:
        if name not in recipes:
            raise StudyFileError(f"{file} [published.{name}]: {did_you_mean(name, recipes)}")
    _check_image_sizes(config, file)
    if problem := next(registry.problems(config.family, config.domain()), None):
        raise StudyFileError(f"{file} {problem}")
    _check_sampler(config, file)
    if config.sampler.name == "kt-hyperband":
        _check_hyperband(config, file)
    if code is None:
        _check_schedule(config, file)  # the code's schedule is its own
    return config


def _code_of(table: Mapping[str, Any], file: str) -> Hypermodel | None:
    """What the code that a study names searches; None where its family says that."""
    named = table.get("hypermodel")
    if not registry.is_found(table.get("family", registry.default())):
        if named is not None:
            raise StudyFileError(
                f'{file} hypermodel: {named!r} needs family = "hypermodel"; add that'
            )
        return None
    if not isinstance(named, str):
        raise StudyFileError(
            f"{file} hypermodel: is missing or no text; it must be pkg.module:NAME"
        )
    try:
        code = hypermodel.find(named)
    except RequestError as error:
        raise StudyFileError(f"{file} hypermodel: {error}") from None
    if not code.space.dimensions:
        raise StudyFileError(f"{file} hypermodel: {named} asks nothing of hp; nothing to search")
    return code


def _space_of(table: Mapping[str, Any], code: Hypermodel | None, file: str) -> Space:
    """What a study searches: what its file says, or what that leaves of what its code does."""
    said, where = _subtable(table, "space", file), f"{file} [space]"
    if code is not None:
        return narrowed(code, said, where)
    knobs = registry.knobs(str(table.get("family", registry.default())))
    space = parse_space(said, knobs, where)
    if not space.dimensions:
        raise StudyFileError(f"{where}: is missing or empty; there is nothing to search")
    return space


def _image_size(code: Hypermodel, table: Mapping[str, Any], file: str) -> Any:
    """The side that the code's networks take; where they take any, what the study says."""
    said, sizes = table.get("image_size"), code.image_sizes
    if not sizes:
        return _SIDE if said is None else said
    if said is not None and said not in sizes:
        one_of = " or ".join(map(str, sizes))
        raise StudyFileError(
            f"{file} image_size: {said}, but {code.name} takes photos of {one_of} px; leave it out"
        )
    return said or sizes[0]


def _subtable(table: Mapping[str, Any], key: str, file: str) -> Mapping[str, Any]:
    value = table.get(key, {})
    if not isinstance(value, dict):
        raise StudyFileError(f"{file} {key}: {value!r} is not a table; write [{key}]")
    return value


def _parse_recipes(
    table: Mapping[str, Any], space: Space, code: Hypermodel | None, file: str
) -> dict[str, Params]:
    recipes: dict[str, Params] = {}
    for name, params in table.items():
        where = f"{file} [recipes.{name}]"
        if not 1 <= len(name) <= _LONGEST_NAME:
            raise StudyFileError(f"{where}: its name must have 1 to {_LONGEST_NAME} characters")
        if not isinstance(params, dict):
            raise StudyFileError(f"{where}: {params!r} is not a table of params")
        if code is not None:
            params = preferred(code, space, params)  # noqa: PLW2901  what it leaves out
        if problems := space.problems(params):
            raise StudyFileError(f"{where} {problems[0]}")
        recipes[name] = space.canonical(params)
    return recipes


def _check_image_sizes(config: StudyConfig, file: str) -> None:
    """Photos are packed at each of them."""
    sizes = config.image_sizes()
    if len(sizes) > _MOST_SIZES:
        raise StudyFileError(
            f"{file} [space] image_size: {len(sizes)} sizes, each of which is packed; at most "
            f"{_MOST_SIZES}; give choices or a step"
        )
    if min(sizes) < SMALLEST_IMAGE:
        raise StudyFileError(
            f"{file} [space] image_size: {min(sizes)} is not allowed; it must be at least "
            f"{SMALLEST_IMAGE}, or 0 for the study's own"
        )


def _check_sampler(config: StudyConfig, file: str) -> None:
    """Some samplers can't propose for every space; Optuna would quietly draw at random there."""
    name = config.sampler.name
    if name in {"tpe", "random", *ORACLES} - {"kt-grid"}:
        return
    for dimension, spec in config.space.dimensions.items():
        at = f"{file} [sampler] name: {name!r} can't search [space] {dimension}"
        if isinstance(spec, Fixed) or name == "kt-grid":
            continue
        if spec.when:
            raise StudyFileError(f"{at}: it is active only now and then; use tpe or random")
        if name in ("gp", "cmaes") and isinstance(spec, Choice):
            raise StudyFileError(f"{at}: its choices have no order; use a range, or tpe or random")
        if name == "grid" and spec.count is None:
            raise StudyFileError(f"{at}: it is continuous; give it choices or a step")
    points = config.space.size().combinations
    if name in ("grid", "kt-grid") and points > _MOST_POINTS:
        raise StudyFileError(
            f"{file} [sampler] name: {name!r} lists all {points} points of [space], at most "
            f"{_MOST_POINTS}; use tpe, random or qmc"
        )


def _check_hyperband(config: StudyConfig, file: str) -> None:
    """It alone says how long a trial trains."""
    at = f"{file} [sampler] name: 'kt-hyperband' stops trials itself"
    if config.pruner.name != "none":
        raise StudyFileError(f'{at}; [pruner] name must be "none", not {config.pruner.name!r}')
    if config.found is None and any(config.domain().values("epochs")):
        raise StudyFileError(f"{at}; leave epochs out of [space], [training] epochs are the most")


def _check_schedule(config: StudyConfig, file: str) -> None:
    """Compare like with like: pruners at equal epochs of equal schedules, averages at their end."""
    domain = config.domain()
    for name in ("epochs", "schedule"):
        values = domain.values(name)
        if config.pruner.name != "none" and len(values) > 1:
            raise StudyFileError(
                f"{file} [pruner] name: {config.pruner.name!r} compares trials epoch by epoch, but "
                f"[space] {name} differs between them ({', '.join(map(str, values))}); "
                'use name = "none", or fix it'
            )
    averaged = config.space.dimensions.get("ema")
    if averaged is None or (averaged.count == 1 and averaged.contains(0.0)):
        return
    schedules = averaged.when.get("schedule", domain.values("schedule"))
    if "constant" in schedules:
        raise StudyFileError(
            f"{file} [space] ema: averages weights towards the end of a falling rate, but schedule "
            'can be constant, where the best epoch counts; add when = { schedule = "cosine" }'
        )
