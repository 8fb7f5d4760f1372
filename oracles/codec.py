"""Dataclasses to JSON and back, by their type hints.

A library would do this as well; but the laws must run wherever torch, Hypothesis and
pytest are, and this is all of it that they need.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from typing import Any, TypeVar

T = TypeVar("T")


class CodecError(ValueError):
    """The data does not have the form of the type: says where and what would fit."""


def encode(value: Any) -> Any:
    """Plain data for ``json``: fields that have their default value are left out."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = ((f, getattr(value, f.name)) for f in dataclasses.fields(value))
        return {f.name: encode(v) for f, v in fields if not _is_default(f, v)}
    if isinstance(value, list | tuple):
        return [encode(v) for v in value]
    if isinstance(value, dict):
        return {k: encode(v) for k, v in value.items()}
    return value


def _is_default(field: dataclasses.Field[Any], value: Any) -> bool:
    if field.default is not dataclasses.MISSING:
        return bool(value == field.default)
    made = field.default_factory
    return made is not dataclasses.MISSING and bool(value == made())


def decode(kind: type[T], data: Any, where: str = "") -> T:
    """A value of this type from plain data."""
    return typing.cast(T, _decode(kind, data, where))


def _decode(kind: Any, data: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return data
    if origin in (types.UnionType, typing.Union):
        return None if data is None else _decode(arguments[0], data, where)
    if origin is tuple:
        items = _expect(data, list, where)
        return tuple(_decode(arguments[0], v, f"{where}[{i}]") for i, v in enumerate(items))
    if origin is dict:
        items = _expect(data, dict, where)
        return {k: _decode(arguments[1], v, f"{where}.{k}") for k, v in items.items()}
    if dataclasses.is_dataclass(kind):
        return _decode_fields(kind, _expect(data, dict, where), where)
    return _expect(data, kind, where)


def _decode_fields(kind: Any, data: dict[str, Any], where: str) -> Any:
    hints = typing.get_type_hints(kind)
    known = {f.name for f in dataclasses.fields(kind)}
    for name in data:
        if name not in known:
            raise CodecError(
                f"{where or 'it'} has no field {name!r}; fields: {', '.join(sorted(known))}"
            )
    try:
        return kind(
            **{k: _decode(hints[k], v, f"{where}.{k}".lstrip(".")) for k, v in data.items()}
        )
    except TypeError as error:
        raise CodecError(f"{where or 'it'}: {error}") from None


def _expect(data: Any, kind: type, where: str) -> Any:
    if not isinstance(data, kind) or (kind is int and isinstance(data, bool)):
        raise CodecError(f"{where or 'it'} is {data!r}, expected {kind.__name__}")
    return data
