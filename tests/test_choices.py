"""Where choices are declared and read: a config is one level deep, and no choice is idle text."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_origin

import pytest
from configs import config_classes, shown

import boxatlas
from boxatlas.options import Options, kind_of

SOURCE = Path(boxatlas.__file__).parent
CONFIGS = config_classes()


@pytest.mark.parametrize("cls", CONFIGS, ids=shown)
def test_a_config_is_one_level_deep(cls: type[Options]) -> None:
    """Each of its groups derives from Options alone, so that one look shows all that it holds."""
    groups = [base for base in cls.__bases__ if base is not Options]
    deep = [base.__name__ for base in groups if base.__bases__ != (Options,)]
    assert not deep, f"builds on {', '.join(deep)}"


@pytest.mark.parametrize("cls", CONFIGS, ids=shown)
def test_every_choice_is_of_a_kind_and_says_what_it_is(cls: type[Options]) -> None:
    for name, field in cls.model_fields.items():
        assert kind_of(field) in ("idea", "setting", "habit"), name
        assert field.description, name


# Of another type than the group's: R-CNN's score may be None, since it depends on the classifier.
TYPED_ANEW = {("rcnn.Config", "score")}


@pytest.mark.parametrize("cls", CONFIGS, ids=shown)
def test_each_choice_is_declared_once(cls: type[Options]) -> None:
    """In one group, with its type; a method that wants another value gives the value alone."""
    for name in cls.model_fields:
        if (shown(cls), name) in TYPED_ANEW:
            continue
        groups = [c.__name__ for c in cls.__mro__ if name in inspect.get_annotations(c)]
        assert len(groups) == 1, f"{name} is declared by {', '.join(groups)}"


def test_no_validator_hides_another() -> None:
    """Pydantic knows a validator by its name: of two groups' with one name, one would not run."""
    for cls in CONFIGS:
        held: dict[str, set[type]] = {}
        for base in cls.__mro__:
            decorators = base.__dict__.get("__pydantic_decorators__")
            if decorators is None:
                continue
            for name in (*decorators.field_validators, *decorators.model_validators):
                if name in base.__dict__:
                    held.setdefault(name, set()).add(base)
        twice = {name: bases for name, bases in held.items() if len(bases) > 1}
        assert not twice, f"{shown(cls)}: {twice}"


def names_read() -> set[str]:
    """Every attribute that some line of the package reads."""
    return {
        node.attr
        for file in SOURCE.rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)
    }


def test_every_option_is_read_by_its_name() -> None:
    """Not by a string, not under another name: a search for the option finds what it does."""
    read = names_read()
    unread = {
        f"{shown(cls)}.{name}" for cls in CONFIGS for name in cls.model_fields if name not in read
    }
    assert not unread, "\n".join(sorted(unread))


def containers(annotation: Any) -> Iterator[Any]:
    """The generic types within a type."""
    if (origin := get_origin(annotation)) is not None:
        yield origin
        for member in get_args(annotation):
            yield from containers(member)
    else:
        yield annotation


@pytest.mark.parametrize("cls", CONFIGS, ids=shown)
def test_values_are_plain(cls: type[Options]) -> None:
    """Tuples, no lists or sets: a config is frozen, and test_bounds sees every number."""
    for name, field in cls.model_fields.items():
        assert not {list, set, Any} & set(containers(field.annotation)), name
