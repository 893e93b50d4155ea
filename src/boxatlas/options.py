"""Options of a method: typed fields, unknown names refused with the nearest one named.

A *switch* is an idea of the paper's own ablation; its default is the paper's value and its note
names the table or section. A *convention* is an explicit parameter that a profile sets to reproduce
one program. Both are plain values, so a checkpoint can record them.
"""

from __future__ import annotations

from typing import Annotated, Any, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from boxatlas.errors import InputError, nearest

T = TypeVar("T", bound=BaseModel)
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
AtLeastOne = Annotated[int, Field(ge=1)]


def switch(default: Any, note: str, **limits: Any) -> Any:
    """A field for one idea of the paper; `note` names the table or section that varies it."""
    return Field(default, description=note, json_schema_extra={"kind": "switch"}, **limits)


def convention(default: Any, note: str, **limits: Any) -> Any:
    """A field that a profile sets to reproduce one program's habits."""
    return Field(default, description=note, json_schema_extra={"kind": "convention"}, **limits)


class Options(BaseModel):
    """Base of every method's config: frozen, typed, finite numbers, no unknown names."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", arbitrary_types_allowed=False, allow_inf_nan=False
    )

    @classmethod
    def of(cls, **values: Any) -> Self:
        """Build, or raise InputError naming the field, the value and the nearest right name."""
        return validated(cls, values)

    @classmethod
    def switches(cls) -> dict[str, str]:
        """Name -> note of every switch."""
        return {
            name: field.description or ""
            for name, field in cls.model_fields.items()
            if isinstance(field.json_schema_extra, dict)
            and field.json_schema_extra.get("kind") == "switch"
        }


def validated(cls: type[T], values: dict[str, Any], file: str | None = None) -> T:
    """cls(**values), pydantic's complaint turned into one InputError."""
    try:
        return cls.model_validate(values)
    except ValidationError as error:
        raise _explained(cls, error, file) from None


def _explained(cls: type[BaseModel], error: ValidationError, file: str | None) -> InputError:
    first = error.errors()[0]
    path = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        owner: Any = cls
        for part in first["loc"][:-1]:
            field = owner.model_fields.get(str(part)) if hasattr(owner, "model_fields") else None
            owner = field.annotation if field else None
        known = list(owner.model_fields) if hasattr(owner, "model_fields") else []
        return InputError(
            "no such option", file=file, field=path, hint=nearest(str(first["loc"][-1]), known)
        )
    if first["type"] == "missing":  # what pydantic calls the input is all that is not missing
        return InputError("is missing", file=file, field=path)
    problem = first["msg"].removeprefix("Value error, ")
    problem = problem[:1].lower() + problem[1:]
    if not path:  # of several fields together: the text names them
        return InputError(problem, file=file)
    return InputError(problem, file=file, field=path, value=first["input"])
