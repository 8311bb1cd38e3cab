"""The file of ``--config``: a run's request as YAML, such as tuning's ``best.yaml``."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    StrictInt,
    StrictStr,
    ValidationError,
)

from bench.cli.options import patients_of, seeds_of
from bench.errors import BenchError, ConfigError, DataError, UnknownNameError
from bench.evaluate.oracles import ORACLES
from bench.execute.request import Request
from bench.faults import first_fault
from bench.files import one_line
from bench.method_references import SHUFFLED
from bench.settings import as_none
from bench.yaml_files import read_yaml

INFORMATIVE = ("objective", "value", "trial")
"""Fields of ``best.yaml`` that say how the settings were found; a run ignores them."""

_OPTIONS = {
    "methods": "--method",
    "dataset": "--dataset",
    "protocol": "--protocol",
    "panel": "--panel",
    "aliases": "--aliases",
    "folds": "--folds",
    "preset": "--preset",
    "seed": "--seed",
    "device": "--device",
    "precision": "--precision",
    "compile": "--compile",
    "data_root": "--data-root",
    "seeds": "--seeds",
    "test_dataset": "--test-dataset",
    "test_data_root": "--test-data-root",
    "train_patients": "--train-patients",
}
"""Fields of a request that a file may have, beside settings, and their options."""


def _as_list(value: Any) -> Any:
    return (value,) if isinstance(value, str | int) else value


def _optional(value: Any) -> Any:
    return as_none(str | None, value)


def _seeds(value: Any) -> Any:
    """Seeds of a list, or of a text such as ``0-4``."""
    return seeds_of(value) if isinstance(value, str) else _as_list(value)


def _limits(value: Any) -> Any:
    """Numbers of training patients of a list or of a text; ``all`` becomes None."""
    if isinstance(value, str):
        return patients_of(value)
    listed = _as_list(value)
    if not isinstance(listed, list | tuple):
        return value  # refused by the type
    return [None if each == "all" else each for each in listed]


_Optional = Annotated[StrictStr | None, BeforeValidator(_optional)]


class _ConfigFile(BaseModel):
    model_config = ConfigDict(extra="forbid")

    method: StrictStr | None = None
    methods: Annotated[tuple[StrictStr, ...], BeforeValidator(_as_list)] = ()
    config: dict[StrictStr, Any] = {}
    settings: dict[StrictStr, Any] = {}
    preset: StrictStr = Request.preset
    dataset: StrictStr = ""
    protocol: StrictStr = Request.protocol
    panel: _Optional = None
    aliases: _Optional = None
    fold: Annotated[StrictInt | None, BeforeValidator(_optional)] = None
    folds: Annotated[
        tuple[StrictInt, ...] | None, BeforeValidator(_as_list), BeforeValidator(_optional)
    ] = None
    seed: Annotated[StrictInt, Field(ge=0)] = Request.seed
    device: StrictStr = Request.device
    precision: StrictStr = Request.precision
    compile: StrictBool = Request.compile
    data_root: _Optional = None
    seeds: Annotated[tuple[StrictInt, ...], BeforeValidator(_seeds)] = ()
    test_dataset: _Optional = None
    test_data_root: _Optional = None
    train_patients: Annotated[tuple[StrictInt | None, ...], BeforeValidator(_limits)] = ()
    objective: Any = None
    value: Any = None
    trial: Any = None


def read_config(path: Path) -> dict[str, Any]:
    """Fields of a request from a YAML file.

    Relative paths in the file are relative to the working directory, as on the command line.

    Returns
    -------
    dict of str to Any
        The fields of :class:`bench.execute.request.Request` that the file has. ``config``, the
        settings of the file's one method, remains under this name.

    Raises
    ------
    DataError
        The file is missing or no YAML, or a field is malformed or given in two ways.
    UnknownNameError
        A field that is neither of a request nor informative.
    """
    content = read_yaml(path)
    if not isinstance(content, dict):
        raise DataError(f"{path}: not a settings file, which has fields such as method and config")
    for name in content:
        if name not in _ConfigFile.model_fields:
            raise UnknownNameError(f"field of {path}", str(name), _ConfigFile.model_fields)
    try:
        parsed = _ConfigFile.model_validate(content)
    except ValidationError as error:
        raise DataError(f"{path}: {first_fault(error)}") from error
    for one, several in (("method", "methods"), ("fold", "folds")):
        if {one, several} <= parsed.model_fields_set:
            raise DataError(f"{path}: has both {one} and {several}; keep one of them")
    fields = {
        name: value
        for name, value in parsed
        if name in parsed.model_fields_set and name not in INFORMATIVE
    }
    if "method" in fields and (label := fields.pop("method")) is not None:
        fields["methods"] = (label,)
    if "fold" in fields:
        fold = fields.pop("fold")
        fields["folds"] = None if fold is None else (fold,)
    for name in ("aliases", "data_root", "test_data_root"):
        if fields.get(name) is not None:
            fields[name] = Path(fields[name])
    return fields


def combine(
    options: Mapping[str, Any], typed: Collection[str], fields: Mapping[str, Any], file: Path
) -> dict[str, Any]:
    """A request's fields from options and from the file of ``--config``.

    Parameters
    ----------
    options
        Fields of a request as the options give them, defaults included.
    typed
        Which of them the user typed.
    fields
        What :func:`read_config` found in the file.
    file
        Path of the file, for messages.

    Returns
    -------
    dict of str to Any
        Fields of a request: the file's, and the options' where the file has none.

    Raises
    ------
    ConfigError
        A typed option and the file give different values, or the file's ``config`` belongs to no
        single method.
    """
    chosen = dict(options)
    for name, option in _OPTIONS.items():
        if name not in fields:
            continue
        if name in typed and not _same(options[name], fields[name]):
            raise ConfigError(
                f"{option} {_shown(options[name])}: {file} has {name} {_shown(fields[name])};"
                " leave out the option or change the file"
            )
        chosen[name] = fields[name]
    of_file = dict(fields.get("settings", {}))
    for name, value in fields.get("config", {}).items():
        key = name if "." in name else f"{_configured(chosen['methods'], file)}.{name}"
        for other in _rivals(key, of_file):
            if not _same(of_file[other], value):
                raise ConfigError(
                    f"{file}: config has {name} {_shown(value)}, settings have {other}"
                    f" {_shown(of_file[other])}"
                )
        of_file[key] = value
    for key, value in options["settings"].items():
        for other in _rivals(key, of_file):
            if not _same(of_file[other], value):
                raise ConfigError(
                    f"--set {key}={_shown(value)}: {file} sets {other} to"
                    f" {_shown(of_file[other])}; leave out the option or change the file"
                )
    chosen["settings"] = {**of_file, **options["settings"]}
    return chosen


def _configured(methods: tuple[str, ...], file: Path) -> str:
    """The one method that ``config`` in the file belongs to."""
    names = {label.removeprefix(f"{SHUFFLED}:") for label in methods} - {SHUFFLED, *ORACLES}
    if len(names) != 1:
        which = f"is for one method, not for {', '.join(sorted(names))}" if names else "has none"
        raise ConfigError(f"{file}: config {which}; name it, or write settings of method.setting")
    return names.pop()


def _rivals(key: str, settings: Mapping[str, Any]) -> Iterator[str]:
    """Keys that set the same setting, of the same method or of all."""
    owner, _, name = key.rpartition(".")
    for other in settings:
        owner_of_other, _, name_of_other = other.rpartition(".")
        if name == name_of_other and (owner == owner_of_other or not owner or not owner_of_other):
            yield other


def _same(one: Any, other: Any) -> bool:
    one, other = (as_none(str | None, value) for value in (one, other))
    if isinstance(one, str) != isinstance(other, str):
        # YAML reads 1e-3 as a text; a setting takes it as the number.
        try:
            return float(one) == float(other)
        except (TypeError, ValueError):
            return str(one) == str(other)
    if isinstance(one, tuple) and isinstance(other, tuple):
        return set(one) == set(other)
    if isinstance(one, str | Path):
        return one == other or Path(one).absolute() == Path(other).absolute()
    return bool(one == other)


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return "none" if value is None else one_line(value, 80)


def require_method_and_dataset(fields: Mapping[str, Any]) -> None:
    """Refuse a request that names no method or no dataset.

    Raises
    ------
    BenchError
        With the option that is missing.
    """
    if not fields["methods"]:
        raise BenchError(
            "no method named; see 'bench list methods', or name a settings file with --config"
        )
    if not fields["dataset"]:
        raise BenchError(
            "no dataset named: --dataset is required where no file of --config names one; see"
            " 'bench list datasets'"
        )
