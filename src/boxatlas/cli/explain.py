"""boxatlas explain: the card of a model."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from boxatlas.cli.common import JsonOption, emit
from boxatlas.errors import InputError, nearest

NEEDS_ARGUMENTS = True


def command(
    model: Annotated[
        str, typer.Argument(help="A model's name, as `boxatlas models` lists them, or bundled.")
    ],
    as_json: JsonOption = False,
) -> None:
    """Say what a model is: its paper, its idea, its switches and conventions, published numbers.

    A switch is an idea of the paper's own ablation, set to the paper's value; a convention
    reproduces one program's habit. Both are set by `--set model.NAME=VALUE` and in Python.

    \b
    boxatlas explain ssd300_vgg16
    boxatlas explain faster_rcnn_r50_fpn --json
    boxatlas explain bundled
    """
    if model == "bundled":  # the card of the detector that the package carries
        from boxatlas.weights.bundle import bundled_card, card_text

        held = bundled_card()
        emit(held, as_json, text="" if as_json else card_text(held))
        return
    from boxatlas.zoo import list_models

    if model not in list_models():
        raise InputError(
            "no such model",
            field="model",
            value=model,
            hint=nearest(model, ("bundled", *list_models())),
        )
    card = card_of(model)
    emit(card, as_json, text="" if as_json else _text(card))


def card_of(name: str) -> dict[str, Any]:
    """What `boxatlas explain` knows of a model."""
    import inspect
    import sys

    from boxatlas.cli.models import describe
    from boxatlas.create import create_model
    from boxatlas.evaluation.sizes import size_of
    from boxatlas.zoo import model_info

    info = model_info(name)
    module = sys.modules[info.build.__module__]
    detector = create_model(name, num_classes=info.classes)
    fields = type(detector.config).model_fields
    options = [
        {
            "name": key,
            "kind": _kind(field),
            "default": _default(field),
            "here": _plain(getattr(detector.config, key)),
            "note": field.description or "",
            "values": _values(field),
        }
        for key, field in fields.items()
    ]
    size = size_of(detector)
    return {
        **describe(name),
        "parameters": size.parameters,
        "multiply_adds": size.multiply_adds,
        "about": inspect.cleandoc(module.__doc__ or ""),
        "file": module.__name__,
        "preprocess": detector.preprocess.model_dump(mode="json"),
        "switches": [o for o in options if o["kind"] == "switch"],
        "conventions": [o for o in options if o["kind"] == "convention"],
        "other_options": [o for o in options if o["kind"] == "option"],
        "recipes": _recipes(name),
    }


def _kind(field: Any) -> str:
    extra = field.json_schema_extra
    return extra.get("kind", "option") if isinstance(extra, dict) else "option"


def _default(field: Any) -> Any:
    return None if field.is_required() else _plain(field.get_default(call_default_factory=True))


def _plain(value: Any) -> Any:
    """As JSON: models and tuples are not."""
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    if isinstance(value, tuple | list):
        return [_plain(v) for v in value]
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)


def _values(field: Any) -> list[Any]:
    """What a Literal allows."""
    from typing import Literal, get_args, get_origin

    if field.annotation is bool:
        return [True, False]
    kinds = [field.annotation, *get_args(field.annotation)]
    return [v for kind in kinds if get_origin(kind) is Literal for v in get_args(kind)]


def _recipes(model: str) -> list[str]:
    from importlib.resources import files

    import yaml

    found = []
    for kind in ("modern", "paper"):
        folder = files("boxatlas") / "recipes" / kind
        if not folder.is_dir():
            continue
        for file in sorted(folder.iterdir(), key=lambda f: f.name):
            if file.name.endswith(".yaml"):
                values = yaml.safe_load(file.read_text(encoding="utf-8"))
                if values.get("model") == model:
                    found.append(f"{kind}/{file.name.removesuffix('.yaml')}")
    return found


def _text(card: dict[str, Any]) -> str:
    lines = [
        f"{card['name']}: {card['summary']}",
        "",
        f"paper      {card['paper']} ({card['year']}), arXiv:{card['arxiv']}"
        if card["arxiv"]
        else f"paper      {card['paper']} ({card['year']})",
        f"family     {card['family']}, backbone {card['backbone']}, input {card['input']}",
        f"size       {card['parameters'] / 1e6:.1f} M parameters"
        + (f", {card['multiply_adds'] / 1e9:.1f} G multiply-adds" if card["multiply_adds"] else ""),
        f"code       {card['file']}",
    ]
    if card["recipes"]:
        lines.append(f"recipes    {', '.join(card['recipes'])}")
    lines += ["", card["about"]]
    if card["published"]:
        lines += ["", "Published"]
    for one in card["published"]:
        rate = f", {one['fps']:g} FPS" if one["fps"] else ""
        where = f" on {one['hardware']}" if one["hardware"] else ""
        lines.append(
            f"  {one['data']}: {one['metric']} {one['value']:g}{rate}{where}"
            + (f" ({one['source']})" if one["source"] else "")
        )
    for title, kind in (
        ("Switches", "switches"),
        ("Conventions", "conventions"),
        ("Other options", "other_options"),
    ):
        if card[kind]:
            lines += ["", title]
        lines += [_option(one) for one in card[kind]]
    return "\n".join(lines)


def _option(one: dict[str, Any]) -> str:
    values = f" [{' | '.join(str(v) for v in one['values'])}]" if one["values"] else ""
    here = "" if one["here"] == one["default"] else f" (the method's default: {one['default']})"
    return f"  {one['name']} = {one['here']}{here}{values}\n      {one['note']}".rstrip()
