"""The detector in the box: a file of half-precision weights and a card that says what it is.

Both lie in the package's folder weights/bundled: MODEL.safetensors and MODEL.json. The card holds
the file's sha256, which is checked whenever the weights are read.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from boxatlas.errors import InputError
from boxatlas.fetching import digest_of
from boxatlas.files import write_tensors, write_text
from boxatlas.options import validated
from boxatlas.weights.packing import Packing, packed, size_of
from boxatlas.weights.reading import KEY, read

FOLDER = Path(__file__).parent / "bundled"
DEFAULT = "ssdlite320_efficientnet_lite0"  # the model that "bundled" means
LARGEST = 12_000_000  # bytes of a file
_DESCRIBED = ("format", "model", "options", "classes", "preprocess", "versions")
_WORST, _FEW = 5, 0.5


class _Part(BaseModel):
    """What must be in a card, and of which kind; more may be."""

    model_config = ConfigDict(strict=True, extra="allow")


class _Coco(_Part):
    AP: float


class _Evaluation(_Part):
    data: list[str]
    split: str | None = None
    images: int
    metric: str
    mAP: float  # noqa: N815 - the name in the file
    per_class: dict[str, float | None]
    coco: _Coco


class _Speed(_Part):
    fps: float
    device: str
    threads: int
    input: list[int] = Field(min_length=2)  # height, width


class _Recipe(_Part):
    epochs: float | None = None
    iterations: int | None = None


class _Card(_Part):
    model: str
    options: dict[str, Any]
    classes: list[str]
    file: str
    bytes: int
    sha256: str
    parameters: int
    recipe: _Recipe
    data: str
    terms: str
    evaluation: _Evaluation
    fps: _Speed | None  # None: not measured
    fails_at: list[str]


def is_bundled(name: str) -> bool:
    """Whether the package carries weights for a model (or, for "bundled", any)."""
    return (FOLDER / f"{_model(name)}.safetensors").is_file()


def bundled(name: str) -> Path:
    """The file of weights that the package carries for a model, or for "bundled".

    Raises InputError where there is none, and where the file is not the one that its card is of.
    """
    path = FOLDER / f"{_model(name)}.safetensors"
    if not path.is_file():
        held = sorted(p.stem for p in FOLDER.glob("*.safetensors"))
        if name == "bundled":
            problem = "this package carries no trained detector"
            hint = "give a checkpoint: `boxatlas train` and `boxatlas weights import` make one"
            raise InputError(problem, field="weights", value=name, hint=hint)
        problem = f"no weights are bundled for {name}"
        hint = f"bundled are: {', '.join(held)}" if held else None
        raise InputError(problem, field="weights", value="bundled", hint=hint)
    return checked(path, "install boxatlas again")


def checked(path: Path, hint: str) -> Path:
    """The path. Raises InputError, with the hint, where it is not the file that its card is of."""
    if digest_of(path) != card_of(path)["sha256"]:
        problem = "is not the file that its card is of: its sha256 differs"
        raise InputError(problem, file=path, hint=hint)
    return path


def bundled_card(name: str = "bundled") -> dict[str, Any]:
    """What is known of a bundled detector, as `write_card` wrote it. Raises as `bundled` does."""
    return card_of(bundled(name))


def bundled_options(name: str) -> dict[str, Any]:
    """The options of `create_model` that the bundled weights of a model are of."""
    return dict(bundled_card(name)["options"])


def _model(name: str) -> str:
    return DEFAULT if name == "bundled" else name


def card_of(weights: Path) -> dict[str, Any]:
    """The card beside a file of weights. Raises InputError where it cannot be read."""
    path = weights.with_suffix(".json")
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"the card of the bundled weights cannot be read: {error}", file=path
        ) from None
    if not isinstance(card, dict):
        raise InputError("is no card of bundled weights", file=path)
    validated(_Card, card, str(path))
    return card


# -- Making one ------------------------------------------------------------------------------------


def write_weights(
    checkpoint: str | Path, folder: Path, *, name: str | None = None, packing: Packing = "half"
) -> tuple[Path, dict[str, Any]]:
    """A checkpoint of ours as a small file of a folder, NAME.safetensors; the model's name if none.

    Returns the file and what the card says of it (model, options, recipe, bytes, sha256, ...).
    Raises InputError for another file, one too large, and values that the packing cannot hold.
    """
    state, description = read(checkpoint)
    if description is None:
        raise InputError("is no checkpoint of a detector of ours", file=checkpoint)
    described = {k: description[k] for k in _DESCRIBED if k in description}
    described["options"] = {k: v for k, v in described["options"].items() if k != "pretrained"}
    described["recipe"] = _without_places(description.get("recipe") or {})
    described["trained"] = description.get("trained") or {}
    tensors = packed(state, packing, checkpoint)
    size = size_of(tensors)
    if size > LARGEST:
        raise InputError(
            f"would take {size / 1e6:.1f} MB, more than {LARGEST / 1e6:.0f}", file=checkpoint
        )
    path = folder / f"{name or described['model']}.safetensors"
    write_tensors(path, tensors, {KEY: json.dumps(described)})
    return path, about_file(path, packing)


def about_file(path: Path, packing: Packing) -> dict[str, Any]:
    """What a card says of a file of `write_weights` without having run it."""
    state, description = read(path)
    if description is None:
        raise InputError("is no checkpoint of a detector of ours", file=path)
    return {
        **{k: description[k] for k in ("model", "options", "classes", "versions")},
        "file": path.name,
        "bytes": path.stat().st_size,
        "sha256": digest_of(path),
        "packing": packing,
        "parameters": sum(t.numel() for t in state.values() if t.is_floating_point()),
        "recipe": description.get("recipe") or {},
        "trained": description.get("trained") or {},
    }


def _without_places(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe whose files are named, not placed: where they lay is nobody's business."""

    def name(place: Any) -> str:
        return os.path.basename(os.path.normpath(str(place)))

    out = dict(recipe)
    if "data" in recipe:
        out["data"] = [name(folder) for folder in recipe["data"]]
    if recipe.get("init"):
        out["init"] = name(recipe["init"])
    return out


def write_card(
    weights: Path,
    about: Mapping[str, Any],
    metrics: Mapping[str, Any],
    *,
    data: str,
    terms: str,
    notes: Sequence[str] = (),
) -> dict[str, Any]:
    """Write the card of a file of `write_weights`, and return it.

    about: what that returned; metrics: the JSON of `boxatlas eval` of that very file; data: what
    it learned from; terms: those of the data; notes: further things that it fails at. Raises
    InputError for metrics that lack a field.
    """
    judged = {
        "data": [Path(d).name for d in metrics.get("data", [])],
        **{
            k: metrics[k]
            for k in ("split", "images", "metric", "mAP", "per_class", "voc07", "voc12", "coco")
            if k in metrics
        },
    }
    validated(_Evaluation, judged)
    speed = metrics.get("speed") or {}
    measured = {
        k: speed[k]
        for k in ("fps", "fps_whole", "latency_ms", "device", "threads", "input")
        if k in speed
    }
    card = {
        **about,
        "data": data,
        "terms": terms,
        "evaluation": judged,
        "fps": measured or None,
        "fails_at": [*failings(metrics), *notes],
    }
    validated(_Card, card)
    write_text(weights.with_suffix(".json"), json.dumps(card, indent=1) + "\n")
    return card


def failings(metrics: Mapping[str, Any]) -> list[str]:
    """What an evaluation's numbers say of weaknesses, in sentences."""
    said = []
    per_class = {k: v for k, v in metrics["per_class"].items() if v is not None}
    worst = sorted(per_class, key=per_class.__getitem__)[:_WORST]
    if worst:
        named = ", ".join(f"{name} {per_class[name]:.2f}" for name in worst)
        said.append(f"the classes of the lowest AP: {named}")
    under = [name for name, ap in per_class.items() if ap < _FEW]
    if under:
        said.append(f"{len(under)} of {len(per_class)} classes stay under an AP of {_FEW}")
    sizes = {k: (metrics.get("coco") or {}).get(f"AP_{k}") for k in ("small", "medium", "large")}
    if all(isinstance(v, int | float) for v in sizes.values()):
        said.append(
            "COCO AP by size of the object: " + ", ".join(f"{k} {v:.2f}" for k, v in sizes.items())
        )
    lost = (metrics.get("errors") or {}).get("lost_ap") or {}
    costs = sorted(((v, k) for k, v in lost.items() if isinstance(v, int | float)), reverse=True)
    if costs:
        said.append(
            "the mistakes that cost most AP: " + ", ".join(f"{k} {v:.2f}" for v, k in costs[:3])
        )
    return said


# -- Showing one -----------------------------------------------------------------------------------


def card_text(card: Mapping[str, Any], name: str = "bundled") -> str:
    """A card for people; name: what it is loaded by."""
    judged, fps = card["evaluation"], card["fps"]
    recipe = card["recipe"]
    length = next((f"{recipe[k]:g} {k}" for k in ("epochs", "iterations") if recipe.get(k)), None)
    lines = [
        f"{name}: {card['model']} of {len(card['classes'])} classes",
        "",
        f"file       {card['file']}, {card['bytes'] / 1e6:.1f} MB, "
        f"{card['parameters'] / 1e6:.1f} M parameters, {card.get('packing', 'half')}",
        f"sha256     {card['sha256']}",
        f"options    {', '.join(f'{k}={v}' for k, v in card['options'].items()) or 'none'}",
        f"data       {card['data']}",
        f"terms      {card['terms']}",
    ]
    if length:
        keys = ("init", "batch", "optimizer", "lr", "augment", "ema", "seed")
        rest = [f"{k}={recipe[k]}" for k in keys if recipe.get(k) is not None]
        lines.append(f"recipe     {length}, {', '.join(rest)}")
    where = " + ".join(judged["data"]) + (f" {judged['split']}" if judged.get("split") else "")
    lines += ["", f"On {where}, {judged['images']} images"]
    lines.append(
        f"  mAP@0.5 ({judged['metric']}) {judged['mAP']:.3f}   COCO AP {judged['coco']['AP']:.3f}"
    )
    for name, ap in judged["per_class"].items():
        lines.append(f"  {name:14} {'-' if ap is None else f'{ap:.3f}'}")
    if fps:
        lines += [
            "",
            f"Speed: {fps['fps']:.1f} images a second at {fps['input'][1]}x"
            f"{fps['input'][0]} on {fps['device']}, {fps['threads']} threads",
        ]
    lines += ["", "What it fails at", *(f"  {one}" for one in card["fails_at"])]
    return "\n".join(lines)
