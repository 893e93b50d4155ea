"""Every number that an option takes has bounds: far out of range, NaN and infinity are one line."""

from __future__ import annotations

import math
import types
from collections.abc import Iterator
from typing import Annotated, Any, Union, get_args, get_origin

import pytest
from configs import config_classes, files_of_models, shown

from boxatlas.errors import InputError
from boxatlas.options import Options

FAR = 1e9

# A place in a type: how to put a number there, and whether the place is for whole numbers.
Place = tuple[Any, bool]


class Here:
    """Stands in a value for the number that is tried."""


def places(annotation: Any, default: Any) -> Iterator[Place]:
    """Values of a type with `Here` where a number may stand, for each such place.

    default: a valid value, from which the other members of a tuple are taken.
    """
    origin = get_origin(annotation)
    if annotation in (int, float):
        yield Here, annotation is int
    elif origin is Annotated:
        yield from places(get_args(annotation)[0], default)
    elif origin in (Union, types.UnionType):
        for member in get_args(annotation):
            yield from places(member, default if fits(member, default) else None)
    elif origin is dict:
        for value, whole in places(get_args(annotation)[1], None):
            yield {"key": value}, whole
    elif origin is tuple:
        members = get_args(annotation)
        if len(members) == 2 and members[1] is Ellipsis:
            inner = default[0] if isinstance(default, tuple) and default else None
            rest = default[1:] if isinstance(default, tuple) else ()
            for value, whole in places(members[0], inner):
                yield (value, *rest), whole
            return
        for i, member in enumerate(members):
            inner = default[i] if isinstance(default, tuple) and len(default) > i else None
            for value, whole in places(member, inner):
                filled = [ones(m) for m in members]
                if isinstance(default, tuple) and len(default) == len(members):
                    filled = list(default)
                filled[i] = value
                yield tuple(filled), whole


def fits(annotation: Any, value: Any) -> bool:
    """Whether a value is of the outermost kind of a type."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return fits(get_args(annotation)[0], value)
    if origin is tuple:
        return isinstance(value, tuple)
    if isinstance(annotation, type):
        return isinstance(value, annotation)
    return False


def ones(annotation: Any) -> Any:
    """Some value of a type, the number 1 everywhere."""
    origin = get_origin(annotation)
    if origin is Annotated or origin in (Union, types.UnionType):
        return ones(get_args(annotation)[0])
    if origin is tuple:
        return tuple(ones(m) for m in get_args(annotation) if m is not Ellipsis)
    return annotation(1) if annotation in (int, float, str, bool) else None


def put(value: Any, number: float) -> Any:
    if value is Here:
        return number
    if isinstance(value, dict):
        return {key: put(v, number) for key, v in value.items()}
    return tuple(put(v, number) for v in value) if isinstance(value, tuple) else value


NUMBERS = [
    pytest.param(cls, name, value, whole, id=f"{shown(cls)}.{name}-{i}")
    for cls in config_classes()
    for name, field in cls.model_fields.items()
    for i, (value, whole) in enumerate(places(field.annotation, field.default))
]


def refused(cls: type[Options], name: str, value: Any) -> bool:
    """Whether the value is refused; if so, in one line that names the option."""
    try:
        cls.of({name: value})
    except InputError as error:
        text = str(error)
        assert "\n" not in text, text
        assert name in text, text
        return True
    return False


@pytest.mark.parametrize(("cls", "name", "value", "whole"), NUMBERS)
def test_a_number_far_out_of_range_is_one_line(
    cls: type[Options], name: str, value: Any, whole: bool
) -> None:
    for number in (math.nan, math.inf, -math.inf):
        assert refused(cls, name, put(value, number)), f"{name} takes {put(value, number)}"
    low, high = (put(value, int(n) if whole else n) for n in (-FAR, FAR))
    assert refused(cls, name, low) or refused(cls, name, high), f"{name} has no bound at all"
    if whole:  # sides, counts, widths: a zero too many is a line, not a full memory
        assert refused(cls, name, low), f"{name} takes {low}"
        assert refused(cls, name, high), f"{name} takes {high}"


def test_the_numbers_are_really_found() -> None:
    """Every method has some, and every kind of place is among them."""
    assert {cls.__module__ for cls in config_classes()} >= files_of_models()
    assert len(NUMBERS) > 300
    values = [parameter.values[2] for parameter in NUMBERS]
    assert Here in values
    assert any(isinstance(v, tuple) and v and v[0] is Here for v in values)
    assert any(isinstance(v, tuple) and v and isinstance(v[0], tuple) for v in values)


def test_the_test_would_notice() -> None:
    class Loose(Options):
        free: float = 0.5
        pair: tuple[int, int] | None = None

    assert list(places(Loose.model_fields["free"].annotation, 0.5)) == [(Here, False)]
    assert list(places(dict[str, int] | None, None)) == [({"key": Here}, True)]
    assert put({"key": (Here, 1)}, 5) == {"key": (5, 1)}
    assert list(places(Loose.model_fields["pair"].annotation, None)) == [
        ((Here, 1), True),
        ((1, Here), True),
    ]
    assert not refused(Loose, "free", -FAR)
    assert refused(Loose, "free", math.nan)
