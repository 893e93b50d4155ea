"""The choices of a method: typed fields in groups, each declared once, beside what reads it.

A choice is of one of three kinds. An *idea* is one of a paper's own ablation: its default is the
paper's value and its note names the table or section. A *setting* is what every user touches: size,
backbone, thresholds, counts. A *habit* is a parameter in which programs differ; an importer sets
it to compute what one of them does. All are plain values, so a checkpoint can record them.

A group of choices (`RPNChoices`) is a class that derives from `Options` alone. A method's config is
the union of the groups that its parts read, with the method's own ideas:

    class Config(BackboneChoices, RPNChoices, SuppressionChoices):
        shared_features: bool = idea(True, "table 2: one set of convolutions, or one for each part")
        rpn_nms = 0.7  # section 3.3
        rpn_border = idea(True, "section 3.3: anchors across the border are not trained")

A line without a type gives an inherited choice this paper's value (or, by `idea`, its own note
too); type, bounds, kind and note stay those of the group.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo

from boxatlas.errors import InputError, nearest

T = TypeVar("T", bound=BaseModel)
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
AtLeastOne = Annotated[int, Field(ge=1, le=1_000_000)]
Count = Annotated[int, Field(ge=0, le=100_000_000)]
Width = Annotated[int, Field(ge=1, le=8192)]  # channels, outputs of a layer
Layers = Annotated[int, Field(ge=0, le=100)]  # of a network, one after another
Pixels = Annotated[int, Field(ge=1, le=65_536)]  # a side of an input
Kind = Literal["idea", "setting", "habit"]

# What older files call an option, and what it is called since.
RENAMED = {"nms": "nms_iou"}


def idea(default: Any, note: str, **limits: Any) -> Any:
    """A field for one idea of the paper; `note` names the table or section that varies it."""
    return _field("idea", default, note, limits)


def setting(default: Any, note: str, **limits: Any) -> Any:
    """A field that users set to fit a detector to their data and machine."""
    return _field("setting", default, note, limits)


def habit(default: Any, note: str, **limits: Any) -> Any:
    """A field in which programs differ; a profile sets it to reproduce one of them."""
    return _field("habit", default, note, limits)


def _field(kind: Kind, default: Any, note: str, limits: dict[str, Any]) -> Any:
    return Field(default, description=note, json_schema_extra={"kind": kind}, **limits)


class _Values(type(BaseModel)):
    """Lets a class give inherited fields values of its own without declaring them again."""

    def __new__(
        mcs, name: str, bases: tuple[type, ...], namespace: dict[str, Any], **kwargs: Any
    ) -> type:
        inherited: dict[str, FieldInfo] = {}
        for base in reversed(bases):
            inherited |= getattr(base, "__pydantic_fields__", {})
        declared = namespace.get("__annotations__", {})
        names = [key for key in namespace if key in inherited and key not in declared]
        given = {key: namespace.pop(key) for key in names}
        made: Any = super().__new__(mcs, name, bases, namespace, **kwargs)
        if given:
            for key, value in given.items():
                made.__pydantic_fields__[key] = _with_default(inherited[key], value)
            made.model_rebuild(force=True)
            checked = (
                made.model_validate(  # within the bounds, in the form that a user's would have
                    {key: made.__pydantic_fields__[key].default for key in given}
                )
            )
            for key in given:
                made.__pydantic_fields__[key].default = getattr(checked, key)
            made.model_rebuild(force=True)
        return made


def _with_default(field: FieldInfo, value: Any) -> FieldInfo:
    """The same field with another default; given by `idea` and the like, with that note too."""
    new = copy.copy(field)
    if isinstance(value, FieldInfo):
        new.description, new.json_schema_extra = value.description, value.json_schema_extra
        value = value.default
    new.default = value
    new._attributes_set = {**new._attributes_set, "default": value}
    return new


class Options(BaseModel, metaclass=_Values):
    """Base of every group of choices: frozen, typed, finite numbers, no unknown names."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", arbitrary_types_allowed=False, allow_inf_nan=False
    )

    # Choices that are gone, each with the value that older files may still give: what is done now.
    gone: ClassVar[Mapping[str, Any]] = {}

    def __setattr__(self, name: str, value: Any) -> None:
        hint = f"create_model(..., {name}=...) or `--set model.{name}=...` makes another"
        raise InputError("is read-only", field=name, value=value, hint=hint)

    @classmethod
    def of(cls, given: Mapping[str, Any] | None = None, /, **own: Any) -> Self:
        """Build from a model's own values and those that a user gives, which win.

        Raises InputError naming the field, the value and the nearest right name.
        """
        given = cls.current(given or {})
        for name, value in given.items():  # which pydantic would take for 1 and 0
            if isinstance(value, bool) and bool not in _types(cls, name):
                raise InputError("is a number, not true or false", field=name, value=value)
        return validated(cls, {**cls.current(own), **given})

    @classmethod
    def current(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """Options as they are called today; those that are gone are left out.

        Raises InputError for one that is gone and asks for another value than what is done now, and
        where one is given by its old name and its new.
        """
        gone: dict[str, Any] = {}
        for base in reversed(cls.__mro__):
            gone |= base.__dict__.get("gone", {})
        out: dict[str, Any] = {}
        for name, value in values.items():
            if name in gone and name not in cls.model_fields:
                if value != gone[name]:
                    problem = f"this option is gone; {gone[name]!r} is what is done"
                    raise InputError(problem, field=name, value=value)
                continue
            new = RENAMED.get(name, name) if name not in cls.model_fields else name
            new = new if new in cls.model_fields else name
            if new in out or (new != name and new in values):
                raise InputError(f"is given twice: also by its old name {name}", field=new)
            out[new] = value
        return out

    @classmethod
    def kinds(cls, kind: Kind) -> dict[str, str]:
        """Name -> note of every choice of a kind, in the order of declaration."""
        return {
            name: field.description or ""
            for name, field in cls.model_fields.items()
            if kind_of(field) == kind
        }

    def idle(self) -> dict[str, str]:
        """Choices that do nothing in the detector that these values make: name -> why.

        A group says so of its own and adds what `super().idle()` says of the others.
        """
        return {}


def replaced(options: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """`options` with `values` in place of their own, an option's old name being that option."""
    given = {RENAMED.get(name, name) for name in values}
    kept = {k: v for k, v in options.items() if RENAMED.get(k, k) not in given}
    return {**kept, **values}


def _types(cls: type[BaseModel], name: str) -> set[Any]:
    """The plain types that a field may have; bool for a name that is no field."""
    if name not in cls.model_fields:
        return {bool}
    left, types = [cls.model_fields[name].annotation], set()
    while left:
        annotation = left.pop()
        members = get_args(annotation)
        if get_origin(annotation) is Literal:
            types |= {type(member) for member in members}
        else:
            left += members
            types.add(annotation)
    return types


def kind_of(field: FieldInfo) -> str:
    """The kind of a field; "option" where it was declared with none."""
    extra = field.json_schema_extra
    return str(extra.get("kind", "option")) if isinstance(extra, dict) else "option"


def validated(cls: type[T], values: dict[str, Any], file: str | None = None) -> T:
    """cls(**values), pydantic's complaint turned into one InputError."""
    try:
        return cls.model_validate(values)
    except ValidationError as error:
        raise _explained(cls, error, values, file) from None


def _explained(
    cls: type[BaseModel], error: ValidationError, values: dict[str, Any], file: str | None
) -> InputError:
    errors = error.errors()
    # Of a union's complaints about one value the one that comes furthest into it.
    about = [one for one in errors if one["loc"][:1] == errors[0]["loc"][:1]]
    first = max(about, key=lambda one: len(one["loc"]))
    path = _path(first["loc"], values, first["type"] == "missing")
    if first["type"] == "extra_forbidden":
        owner: Any = cls
        for part in first["loc"][:-1]:
            field = owner.model_fields.get(str(part)) if hasattr(owner, "model_fields") else None
            owner = field.annotation if field else None
        known = list(owner.model_fields) if hasattr(owner, "model_fields") else []
        hint = nearest(str(first["loc"][-1]), known)
        return InputError("no such option", file=file, field=path, hint=hint)
    if first["type"] == "missing" and isinstance(first["loc"][-1], int):  # of a tuple's members
        count = 1 + max(one["loc"][-1] for one in about if isinstance(one["loc"][-1], int))
        path = _path(first["loc"][:-1], values, False)
        return InputError(f"needs {count} values", file=file, field=path, value=first["input"])
    if first["type"] == "missing":  # what pydantic calls the input is all that is not missing
        return InputError("is missing", file=file, field=path)
    problem = first["msg"].removeprefix("Value error, ")
    problem = problem[:1].lower() + problem[1:]
    if not path:  # of several fields together: the text names them
        return InputError(problem, file=file)
    return InputError(problem, file=file, field=path, value=first["input"])


def _path(loc: tuple[int | str, ...], values: Any, missing: bool) -> str:
    """A place in `values` as users write it: pydantic's names of a union's members left out.

    missing: what the last part names is not there.
    """
    parts, value = list(loc[:1]), values.get(loc[0]) if loc else None
    for part in loc[1:]:
        if isinstance(value, Mapping) and part in value:
            value = value[part]
        elif isinstance(part, int):
            value = value[part] if isinstance(value, Sequence) and part < len(value) else None
        elif not (missing and part is loc[-1]):
            continue
        parts.append(part)
    return ".".join(map(str, parts))
