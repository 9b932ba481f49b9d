"""What a user may choose, declared once: a frozen dataclass whose annotations say type, range and help.

``name: Annotated[TYPE, Field(description=HELP, ge=0)] = DEFAULT`` is a setting. Command options, recipes, manifests and
the metadata of exported files are derived from such declarations, so that a setting added to one arrives in all of
them. A field without a description is no setting.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from annotated_types import Ge, Le
from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from .errors import InvalidInput

T = TypeVar("T")

CLOSED = ConfigDict(extra="forbid", allow_inf_nan=False)
"""The ``__pydantic_config__`` of a declaration: a file with more than its settings is none of it."""


@dataclass(frozen=True)
class Setting:
    """One setting of a declaration.

    ``kind`` is its type without ``None``; ``low`` and ``high`` bound a number, ``metavar`` is how help spells its
    value.
    """

    name: str
    kind: Any
    default: Any
    help: str
    low: float | None = None
    high: float | None = None
    metavar: str | None = None

    @property
    def choices(self) -> tuple[str, ...]:
        """The words it may be; none where it is no choice of words."""
        return get_args(self.kind) if get_origin(self.kind) is Literal else ()


def _cached(function: Callable[[type], T]) -> Callable[[type], T]:
    """`functools.cache` for a function of a class, which its own types take for unhashable."""
    return cache(function)


@_cached
def settings_of(declaration: type) -> tuple[Setting, ...]:
    """The settings of a declaration, in its order."""
    hints = get_type_hints(declaration, include_extras=True)
    found = []
    for field in fields(declaration):
        kind, *notes = get_args(hints[field.name]) if get_origin(hints[field.name]) is Annotated else (None,)
        info = next((note for note in notes if isinstance(note, FieldInfo)), None)
        if info is None or info.description is None:
            continue
        low: Any = next((bound.ge for bound in info.metadata if isinstance(bound, Ge)), None)  # a number, as we use it
        high: Any = next((bound.le for bound in info.metadata if isinstance(bound, Le)), None)
        metavar = (info.examples or [None])[0]
        found.append(Setting(field.name, _without_none(kind), field.default, info.description, low, high, metavar))
    return tuple(found)


def _without_none(kind: Any) -> Any:
    if get_origin(kind) not in (Union, UnionType) or NoneType not in get_args(kind):
        return kind
    return Union[tuple(part for part in get_args(kind) if part is not NoneType)]  # noqa: UP007  a tuple of any length


def check_settings(instance: Any) -> None:
    """Refuse words that are no choice and numbers out of range; for ``__post_init__``.

    Raises:
        InvalidInput: naming the value and what there is.
    """
    for setting in settings_of(type(instance)):
        value = getattr(instance, setting.name)
        if setting.choices and value not in setting.choices:
            raise InvalidInput(f"{setting.name} {value!r} is unknown; choose one of {', '.join(setting.choices)}.")
        too_low = setting.low is not None and value is not None and value < setting.low
        if too_low or (setting.high is not None and value is not None and value > setting.high):
            span = f"{setting.low:g} or more" if setting.high is None else f"{setting.low:g} to {setting.high:g}"
            raise InvalidInput(f"{setting.name} {value} is out of range; give {span}, or leave it out.")


def read_settings(declaration: type[T], values: Mapping[str, Any]) -> T:
    """An instance from the values of a file or of options; what is missing has its default.

    Types are taken strictly, as JSON has them: a list stands for a tuple, and ``true`` for no number.

    Raises:
        InvalidInput: a name or value that the declaration does not have, in a sentence that begins with the name.
    """
    try:
        return _adapter(declaration).validate_json(json.dumps(dict(values), default=str), strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = str(first["loc"][0])
        raise InvalidInput(f"{name}: {first['msg']}, not {values.get(name)!r}.") from error


@_cached
def _adapter(declaration: type) -> TypeAdapter[Any]:
    return TypeAdapter(declaration)
