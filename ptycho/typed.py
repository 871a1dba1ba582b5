"""Frozen dataclasses whose fields have the types that they state: of files, options and callers alike."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from numbers import Integral, Real
from reprlib import Repr
from types import NoneType, UnionType
from typing import Any, Literal, Self, Union, get_args, get_origin, get_type_hints

from ptycho.deprecation import renamed_keys

_SHORT = Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 100
"""Values in messages: those of a file may be of any length, or depth."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """What all the settings share: fields of the types that they state, to and from plain dictionaries, strictly."""

    def __post_init__(self) -> None:
        for name, kind in field_types(type(self)).items():
            object.__setattr__(self, name, _converted(type(self), name, kind, getattr(self, name)))

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Inverse of `to_dict`; a key that does not exist is an error, not ignored."""
        return cls(**cls.checked(values))

    @classmethod
    def checked(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """Some of the settings, each as the type of its field; ValueError names a key or a value that is wrong."""
        kinds, values = field_types(cls), renamed_keys(cls.__name__, values)
        unknown = sorted(set(values) - set(kinds))
        if unknown:
            raise ValueError(
                f"{cls.__name__} has no setting {', '.join(map(_SHORT.repr, unknown[:9]))}; it has {', '.join(kinds)}"
            )
        return {name: _converted(cls, name, kinds[name], value) for name, value in values.items()}

    def _require(self, condition: bool, name: str, expected: str) -> None:
        if not condition:
            raise _wrong(type(self), name, getattr(self, name), expected)


def field_types(config: type[Config]) -> dict[str, Any]:
    """The type of each field of a config."""
    hints = get_type_hints(config)
    return {f.name: hints[f.name] for f in fields(config)}


def _wrong(config: type[Config], name: str, value: object, expected: str) -> ValueError:
    return ValueError(f"{config.__name__}.{name} is {_SHORT.repr(value)}; expected {expected}")


def _converted(config: type[Config], name: str, kind: Any, value: object) -> Any:
    """A value as the type of its field: integers serve as numbers, lists as tuples, tables as configs."""
    try:
        return _as_kind(kind, value)
    except TypeError:
        raise _wrong(config, name, value, _described(kind)) from None


_NUMBERS: dict[Any, type] = {int: Integral, float: Real}


def _as_kind(kind: Any, value: Any) -> Any:
    origin, kinds = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        # None last: of the others one has the better conversion.
        return (
            None if value is None and NoneType in kinds else _as_first([k for k in kinds if k is not NoneType], value)
        )
    if origin is Literal and isinstance(value, str) and value in kinds:
        return value
    if origin is tuple and isinstance(value, list | tuple):
        kinds = kinds[:1] * len(value) if kinds[-1] is Ellipsis else kinds
        if len(kinds) == len(value):
            return tuple(_as_kind(k, v) for k, v in zip(kinds, value, strict=True))
    if origin is dict and isinstance(value, Mapping):
        return dict(value)
    if kind in _NUMBERS and isinstance(value, _NUMBERS[kind]) and not isinstance(value, bool):
        return kind(value)  # of any kind, numpy's too
    if isinstance(kind, type) and origin is None:
        if issubclass(kind, Config) and isinstance(value, Mapping):
            return kind.from_dict(value)
        if kind not in _NUMBERS and isinstance(value, kind):
            return value
    raise TypeError


def _as_first(kinds: Iterable[Any], value: object) -> Any:
    for kind in kinds:
        try:
            return _as_kind(kind, value)
        except TypeError:
            continue
    raise TypeError


_DESCRIPTIONS: dict[Any, str] = {int: "an integer", float: "a number", bool: "true or false", str: "a string"}


def _described(kind: Any) -> str:
    """The values of a type in words."""
    origin, kinds = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return ", or ".join(_described(k) for k in kinds)
    if origin is Literal:
        return f"one of {', '.join(map(repr, kinds))}"
    if origin is tuple:
        each = "each " + _described(kinds[0]) if kinds[-1] is Ellipsis else ", ".join(map(_described, kinds))
        return f"a list ({each})"
    return "None" if kind is NoneType else _DESCRIPTIONS.get(kind) or f"a {getattr(origin or kind, '__name__', kind)}"
