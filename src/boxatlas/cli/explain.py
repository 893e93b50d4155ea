"""boxatlas explain: the card of a model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from boxatlas.cli.common import JsonOption, emit
from boxatlas.errors import InputError, nearest

if TYPE_CHECKING:
    from boxatlas.parts.base import Detector

NEEDS_ARGUMENTS = True


def command(
    model: Annotated[
        str, typer.Argument(help="A model's name, as `boxatlas models` lists them, or bundled.")
    ],
    habits: Annotated[
        bool, typer.Option("--all", help="List the habits of single programs too.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Say what a model is: its paper, its ideas and settings, published numbers.

    An idea is one of the paper's own ablation, set to the paper's value; a setting is what one fits
    to data and machine; a habit (--all) is a detail in which programs differ. All are set by
    `--set model.NAME=VALUE` and in Python. Ideas that do nothing in this model are not listed.

    \b
    boxatlas explain ssd300_vgg16
    boxatlas explain faster_rcnn_r50_fpn --all --json
    boxatlas explain bundled
    boxatlas explain field/retinanet
    """
    from boxatlas.weights import bundled_card, field_card, field_names, is_field

    if model == "bundled" or is_field(model):  # the card of a detector that comes trained
        from boxatlas.weights.bundle import card_text

        if habits:
            raise InputError("lists a model's habits", field="--all", hint="explain that model")
        held = field_card(model) if is_field(model) else bundled_card()
        emit(held, as_json, text="" if as_json else card_text(held, model))
        return
    from boxatlas.zoo import list_models

    if model not in list_models():
        raise InputError(
            "no such model",
            field="model",
            value=model,
            hint=nearest(model, ("bundled", *field_names(), *list_models())),
        )
    card = card_of(model, habits=habits)
    emit(card, as_json, text="" if as_json else _text(card))


def card_of(name: str, *, habits: bool = False) -> dict[str, Any]:
    """What `boxatlas explain` knows of a model. habits: also those of its options."""
    import inspect
    import sys

    from boxatlas.cli.models import describe
    from boxatlas.create import create_model
    from boxatlas.evaluation.sizes import size_of
    from boxatlas.zoo import model_info

    info = model_info(name)
    module = sys.modules[info.build.__module__]
    detector = create_model(name, num_classes=info.classes)
    size = size_of(detector)
    return {
        **describe(name),
        "parameters": size.parameters,
        "multiply_adds": size.multiply_adds,
        "about": inspect.cleandoc(module.__doc__ or ""),
        "file": module.__name__,
        "preprocess": detector.preprocess.model_dump(mode="json"),
        **options_of(detector, habits),
        "recipes": _recipes(name),
    }


def options_of(detector: Detector, habits: bool) -> dict[str, list[dict[str, Any]]]:
    """The options by kind; what does nothing here is not offered."""
    from boxatlas.options import kind_of

    shown: dict[str, list[dict[str, Any]]] = {"ideas": [], "settings": []}
    if habits:
        shown["habits"] = []
    config, idle, values = detector.config, detector.idle(), dict(detector.config)
    for name, field in type(config).model_fields.items():
        group = {"idea": "ideas", "habit": "habits"}.get(kind_of(field), "settings")
        if group not in shown or name in idle:
            continue
        shown[group].append(
            {
                "name": name,
                "default": _default(field),
                "here": _plain(values[name]),
                "note": field.description or "",
                "values": _values(field),
            }
        )
    return shown


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
    for kind in ("ideas", "settings", "habits"):
        if card.get(kind):
            lines += ["", kind.capitalize()]
        lines += [_option(one) for one in card.get(kind, ())]
    return "\n".join(lines)


def _option(one: dict[str, Any]) -> str:
    values = f" [{' | '.join(str(v) for v in one['values'])}]" if one["values"] else ""
    here = "" if one["here"] == one["default"] else f" (the method's default: {one['default']})"
    return f"  {one['name']} = {one['here']}{here}{values}\n      {one['note']}".rstrip()
