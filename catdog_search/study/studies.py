"""Find, read and check study files."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator, Mapping, Set
from dataclasses import replace
from pathlib import Path
from typing import Any

import catdog_search
from catdog_search.errors import Mistakes, RequestError, StudyFileError
from catdog_search.families import hypermodel, registry
from catdog_search.families.base import LARGEST_IMAGE, SMALLEST_IMAGE
from catdog_search.families.hypermodel import Hypermodel
from catdog_search.space import Choice, Fixed, Knob, Params, Space, did_you_mean
from catdog_search.study.checking import check_study
from catdog_search.study.config import DRAWN, ORACLES, DataConfig, StudyConfig
from catdog_search.study.narrowing import narrowed, preferred
from catdog_search.study.space_file import parse_space
from catdog_search.text import printable, shown

# Every image size is packed before the first trial, so there can't be many.
_MOST_SIZES = 16
# Maximum length of a recipe's name: MLflow names a run after it.
_LONGEST_NAME = 250
# Longest name, and number of trials, of a study that has no file.
_LONGEST_STUDY, _TRIALS = 64, 20
# Side of photos in pixels where neither a study nor the code that it searches states one.
_SIDE = 64
# Optuna's grid sampler lists all points again for every trial.
_MOST_POINTS = 1_000_000

PACKAGE = Path(catdog_search.__file__).resolve().parent

_HYPERBAND = "kt-hyperband"
_STOPS_ITSELF = f"[sampler] name: {_HYPERBAND!r} stops trials itself"


def folders() -> list[Path]:
    """Where to look for studies: ./studies first, then those shipped with the package."""
    shipped = [PACKAGE / "shipped_studies", PACKAGE.parent / "studies"]
    return [p for p in (Path("studies"), *shipped) if p.is_dir()]


def available() -> dict[str, Path]:
    """All study files by name; those in earlier folders hide later ones of the same name."""
    found: dict[str, Path] = {}
    for folder in folders():
        for path in sorted(folder.glob("*.toml")):
            found.setdefault(path.stem, path)
    return found


def find(name_or_file: str) -> Path:
    """The path of a study, by its name or as a path to a .toml file.

    NAME-drawn is the study NAME on drawn pictures, unless a file has that name.

    Raises:
        StudyFileError: There is none.
    """
    path = Path(name_or_file)
    if path.suffix == ".toml":
        if path.is_file():
            return path
        raise StudyFileError(f"{path}: no such study file")
    found = available()
    for name in (name_or_file, name_or_file.removesuffix(DRAWN)):
        if name in found:
            return found[name]
    raise StudyFileError(f"no study named {name_or_file!r}; {did_you_mean(name_or_file, found)}")


def load(name_or_file: str) -> StudyConfig:
    """Read and check a study, without loading anything heavy.

    For the family `hypermodel`, the code that it names is run in a separate process.

    Raises:
        StudyFileError: It is wrong; the message says where, what is wrong and what is allowed.
    """
    path = str(find(name_or_file))
    return parse_text(read(path), path).called(name_or_file)


def read(path: str) -> str:
    """The text of a study file.

    Raises:
        StudyFileError: It can't be read or isn't text.
    """
    try:
        return _decoded(Path(path).read_bytes(), path)
    except OSError as error:
        raise StudyFileError(f"{path}: can't be read: {error.strerror}") from None


def _decoded(content: bytes, file: str) -> str:
    try:
        # Editors on Windows begin a file with a byte order mark, which TOML doesn't know.
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise StudyFileError(f"{file}: is not TOML: {error}") from None


def named_code(text: str, file: str) -> str | None:
    """The code that a study file names, which is run to check the file; None if it names none.

    Raises:
        StudyFileError: It is not TOML.
    """
    named = _as_table(text, file).get("hypermodel")
    return printable(named) if isinstance(named, str) else None


def parse_file(content: bytes, file: str) -> StudyConfig:
    """Check the raw content of a study file; `file` is named in messages.

    Raises:
        StudyFileError: As in `load`.
    """
    return parse_text(_decoded(content, file), file)


def parse_text(text: str, file: str) -> StudyConfig:
    """As `parse_file`, for its text."""
    return parse(_as_table(text, file), file)


def file_of_hypermodel(code: str, name: str | None) -> str:
    """Text of a study file that would search a user's code as it is.

    Args:
        code: The code, as `pkg.module:NAME`.
        name: The study's name; None derives one from the code's.

    Raises:
        RequestError: The name is that of a study file.
    """
    if name is not None and (Path(name).suffix == ".toml" or name in available()):
        raise RequestError(
            f"--study {name}: is the name of a study file, and --hypermodel needs none; choose "
            f'another name, or write family = "hypermodel" and hypermodel = "{code}" into a file'
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
    # JSON strings are valid TOML strings.
    return "".join(
        f"{key} = {json.dumps(value, ensure_ascii=False)}\n" for key, value in lines.items()
    )


def outline(path: Path) -> tuple[int, str]:
    """Trials and purpose of a study file, for a list, without running any user's code.

    Raises:
        StudyFileError: As in `load`.
    """
    table = _as_table(read(str(path)), str(path))
    if registry.is_found(str(table.get("family"))):
        table = {**table, "space": Space({}), "recipes": {}, "image_size": SMALLEST_IMAGE}
        mistakes = Mistakes()
        config, _ = check_study(table, str(path), mistakes)
        mistakes.require_none()
    else:
        config = load(str(path))
    return config.trials, config.purpose


def data_stated(text: str) -> dict[str, Any]:
    """The choices of photos that the text of a study file states, as it spells them."""
    table = tomllib.loads(text).get("data", {})
    return {name: table[name] for name in DataConfig.REMEMBERED if name in table}


def _as_table(text: str, file: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise StudyFileError(f"{file}: is not TOML: {error}") from None
    except RecursionError:
        raise StudyFileError(f"{file}: is nested too deeply; a study has two levels") from None
    except ValueError as error:  # a number with thousands of digits
        raise StudyFileError(f"{file}: holds a number that can't be read: {error}") from None


def parse(table: Mapping[str, Any], file: str) -> StudyConfig:
    """Check the content of a study file; `file` is named in messages.

    Raises:
        StudyFileError: Everything that is wrong with it.
    """
    mistakes = Mistakes()
    family = _family(table, file, mistakes)
    table = _with_pruner(table)
    code = None if family is None else _code_of(table, file)
    space, unread = _parse_space(table, family, code, file, mistakes)
    if code is not None:
        code = replace(code, space=space)
        table = {**table, "image_size": _image_size(code, table, file)}
    knobs = {} if family is None else registry.knobs(family)
    recipes = _parse_recipes(table, space, unread, code, knobs, file, mistakes)
    stated = {**table, "family": family or registry.default()}
    config, wrong = check_study({**stated, "space": space, "recipes": recipes}, file, mistakes)
    config = config.model_copy(update={"found": code})
    named = table.get("recipes", {})
    for name in config.published:
        if isinstance(named, dict) and name not in named:
            known = did_you_mean(name, named) if named else "it has none"
            mistakes.found.append(f"{file} [published.{name}]: is no recipe of it; {known}")
    if config.seeds > 1 and named == {} and "seeds" not in wrong:
        mistakes.found.append(
            f"{file} seeds: {config.seeds} is the number of seeds of each recipe, and it has none"
        )
    if family is not None:
        _check_together(config, unread, wrong, file, mistakes)
    mistakes.require_none()
    return config


def _with_pruner(table: Mapping[str, Any]) -> Mapping[str, Any]:
    """The table with no pruner, unless it names one, where the sampler stops trials itself."""
    sampler, pruner = table.get("sampler"), table.get("pruner", {})
    is_hyperband = isinstance(sampler, dict) and sampler.get("name") == _HYPERBAND
    if not is_hyperband or not isinstance(pruner, dict):
        return table
    return {**table, "pruner": {"name": "none", **pruner}}


def _require_rest(table: Mapping[str, Any], file: str) -> None:
    """Check what needs no code, before code is run for minutes.

    Raises:
        StudyFileError: Everything that is wrong with it.
    """
    mistakes = Mistakes()
    rest = {"image_size": SMALLEST_IMAGE, **table, "space": Space({}), "recipes": {}}
    config, wrong = check_study(rest, file, mistakes)
    if wrong.isdisjoint(("sampler", "sampler.name", "pruner", "pruner.name")):
        mistakes.found += _pruner_beside_hyperband(config, file)
    mistakes.require_none()


def _check_together(
    config: StudyConfig, unread: Set[str], wrong: Set[str], file: str, mistakes: Mistakes
) -> None:
    """Check settings that are right individually, but may not fit together.

    Dimensions that are `unread` and keys that are `wrong` are left out.
    """
    unknown = unread | (wrong & {"image_size"})
    if "image_size" not in unknown:
        mistakes.found += _image_size_problems(config, file)
    problems = registry.problems(config.family, config.domain(unknown))
    mistakes.found += [f"{file} {problem}" for problem in problems]
    mistakes.found += _sampler_problems(config, file)
    mistakes.found += _hyperband_problems(config, file)
    if config.found is not None:
        return  # the code's schedule is its own
    if unread.isdisjoint(("epochs", "schedule")) and wrong.isdisjoint(("pruner", "pruner.name")):
        mistakes.found += _pruner_problems(config, file)
        mistakes.found += _min_epochs_problems(config, file)
    if unread.isdisjoint(("ema", "schedule")):
        mistakes.found += _averaging_problems(config, file)


def _family(table: Mapping[str, Any], file: str, mistakes: Mistakes) -> str | None:
    family, families = table.get("family", registry.default()), registry.names()
    if family in families:
        return str(family)
    mistakes.found.append(f"{file} family: {family!r}; {did_you_mean(str(family), families)}")
    return None


def _parse_space(
    table: Mapping[str, Any],
    family: str | None,
    code: Hypermodel | None,
    file: str,
    mistakes: Mistakes,
) -> tuple[Space, frozenset[str]]:
    """The space, or what the file leaves of its code's space; and the names that can't be read."""
    said = _subtable(table, "space", file, mistakes)
    if code is not None:
        return narrowed(code, said or {}, f"{file} [space]"), frozenset()
    if said is not None and not said:
        mistakes.found.append(f"{file} [space]: is missing or empty; there is nothing to search")
    if not said or family is None:
        return Space({}), frozenset(said or ())
    space = parse_space(said, registry.knobs(family), f"{file} [space]", mistakes)
    return space, frozenset(said).difference(space.dimensions)


def _code_of(table: Mapping[str, Any], file: str) -> Hypermodel | None:
    """What the code that a study names searches; None where the family determines that."""
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
    _require_rest(table, file)
    where = file if file.endswith(named) else f"{file} hypermodel: {named}"
    try:
        code = hypermodel.find(named, _stated_side(table))
    except RequestError as error:
        raise StudyFileError(f"{where}: {error}") from None
    if not code.space.dimensions:
        raise StudyFileError(f"{where}: asks nothing of hp; nothing to search")
    return code


def _stated_side(table: Mapping[str, Any]) -> int | None:
    """The side that a study states, if photos may have it; what else it says is told later."""
    said = table.get("image_size")
    is_side = type(said) is int and SMALLEST_IMAGE <= said <= LARGEST_IMAGE
    return said if is_side else None


def _image_size(code: Hypermodel, table: Mapping[str, Any], file: str) -> Any:
    """The side that the code's networks take; if they take any, the one that the study states."""
    said, sizes = table.get("image_size"), code.image_sizes
    if not sizes:
        return _SIDE if said is None else said
    if said is not None and said not in sizes:
        one_of = " or ".join(map(str, sizes))
        raise StudyFileError(
            f"{file} image_size: {said}, but {code.name} takes photos of {one_of} px; leave it out"
        )
    return said or sizes[0]


def _subtable(
    table: Mapping[str, Any], key: str, file: str, mistakes: Mistakes
) -> Mapping[str, Any] | None:
    """A table of the file; empty if it is missing, None if it isn't a table."""
    value = table.get(key, {})
    if isinstance(value, dict):
        return value
    mistakes.found.append(f"{file} {key}: {shown(value)} is not a table; write [{key}]")
    return None


def _parse_recipes(
    table: Mapping[str, Any],
    space: Space,
    unread: Set[str],
    code: Hypermodel | None,
    knobs: Mapping[str, Knob],
    file: str,
    mistakes: Mistakes,
) -> dict[str, Params]:
    recipes: dict[str, Params] = {}
    for name, params in (_subtable(table, "recipes", file, mistakes) or {}).items():
        where = f"{file} [recipes.{name}]"
        if not 1 <= len(name) <= _LONGEST_NAME:
            mistakes.found.append(f"{where}: its name must have 1 to {_LONGEST_NAME} characters")
        if not isinstance(params, dict):
            mistakes.found.append(f"{where}: {params!r} is not a table of params")
            continue
        if not space.dimensions and not (unread and knobs):
            continue  # nothing is known of what it may say
        if code is not None:
            params = preferred(code, space, params)  # noqa: PLW2901  what it leaves out
        problems = [*_never_allowed(params, unread, knobs), *space.problems(params, unread)]
        mistakes.found += [f"{where} {problem}" for problem in problems]
        if not problems:
            recipes[name] = space.canonical(params)
    return recipes


def _never_allowed(
    params: Mapping[str, Any], unread: Set[str], knobs: Mapping[str, Knob]
) -> Iterator[str]:
    """Values of a recipe that no space may have, of params whose space can't be read."""
    for name, value in params.items():
        if name in unread and name in knobs and not knobs[name].accepts(value):
            yield f"{name}: {shown(value)} is not allowed; it must be {knobs[name].allowed}"


def _image_size_problems(config: StudyConfig, file: str) -> Iterator[str]:
    """Problems with image sizes: photos are packed at each of them."""
    sizes = config.image_sizes()
    if len(sizes) > _MOST_SIZES:
        yield (
            f"{file} [space] image_size: {len(sizes)} sizes, each of which is packed; at most "
            f"{_MOST_SIZES}; give choices or a step"
        )
    if min(sizes) < SMALLEST_IMAGE:
        yield (
            f"{file} [space] image_size: {min(sizes)} is not allowed; it must be at least "
            f"{SMALLEST_IMAGE}, or 0 for the study's own"
        )


def _sampler_problems(config: StudyConfig, file: str) -> Iterator[str]:
    """Some samplers can't handle every space; there Optuna would silently sample at random."""
    name = config.sampler.name
    if name in {"tpe", "random", *ORACLES} - {"kt-grid"}:
        return
    for dimension, spec in config.space.dimensions.items():
        at = f"{file} [sampler] name: {name!r} can't search [space] {dimension}"
        if isinstance(spec, Fixed) or name == "kt-grid":
            continue
        if spec.when:
            yield f"{at}: it is active only now and then; use tpe or random"
        elif name in ("gp", "cmaes") and isinstance(spec, Choice):
            yield f"{at}: its choices have no order; use a range, or tpe or random"
        elif name == "grid" and spec.count is None:
            yield f"{at}: it is continuous; give it choices or a step"
    points = config.space.size().combinations
    if name in ("grid", "kt-grid") and points > _MOST_POINTS:
        yield (
            f"{file} [sampler] name: {name!r} lists all {points} points of [space], at most "
            f"{_MOST_POINTS}; use tpe, random or qmc"
        )


def _hyperband_problems(config: StudyConfig, file: str) -> Iterator[str]:
    """Only Hyperband itself decides how long a trial trains."""
    if config.sampler.name != _HYPERBAND:
        return
    yield from _pruner_beside_hyperband(config, file)
    if config.found is None and any(config.domain().values("epochs")):
        yield (
            f"{file} {_STOPS_ITSELF}; leave epochs out of [space], [training] epochs are the most"
        )


def _pruner_beside_hyperband(config: StudyConfig, file: str) -> Iterator[str]:
    if config.sampler.name == _HYPERBAND and config.pruner.name != "none":
        yield (
            f'{file} {_STOPS_ITSELF}; [pruner] name must be "none", not {config.pruner.name!r}; '
            "leave it out"
        )


def _min_epochs_problems(config: StudyConfig, file: str) -> Iterator[str]:
    """A pruner whose first decision comes after the last epoch would never decide."""
    longest = config.most_epochs
    wanted = config.pruner.min_epochs
    if config.pruner.name in ("asha", "hyperband") and wanted > longest:
        yield (
            f"{file} [pruner] min_epochs: {wanted} is more than a trial's epochs; "
            f"it must be in [1, {longest}]"
        )


def _pruner_problems(config: StudyConfig, file: str) -> Iterator[str]:
    """Pruners compare trials at equal epochs of equal schedules."""
    domain = config.domain()
    for name in ("epochs", "schedule"):
        values = domain.values(name)
        if config.pruner.name != "none" and len(values) > 1:
            yield (
                f"{file} [pruner] name: {config.pruner.name!r} compares trials epoch by epoch, but "
                f"[space] {name} differs between them ({', '.join(map(str, values))}); "
                'use name = "none", or fix it'
            )


def _averaging_problems(config: StudyConfig, file: str) -> Iterator[str]:
    """Weights are averaged towards the end of a falling rate."""
    averaged = config.space.dimensions.get("ema")
    if averaged is None or (averaged.count == 1 and averaged.contains(0.0)):
        return
    schedules = averaged.when.get("schedule", config.domain().values("schedule"))
    if "constant" in schedules:
        yield (
            f"{file} [space] ema: averages weights towards the end of a falling rate, but schedule "
            'can be constant, where the best epoch counts; add when = { schedule = "cosine" }'
        )
