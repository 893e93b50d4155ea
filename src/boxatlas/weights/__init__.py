"""Weights from files: checkpoints of ours whole, those of others through an importer.

Each public source has one file here: `CHECKPOINTS` (what can be had), `MODELS` (what they are of)
and `recognise(state, model) -> Imported` (profile, classes, names). An importer returns a detector:
its options, preprocess and weights, never a bare state dict.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from boxatlas.errors import InputError, near, nearest
from boxatlas.files import check_format
from boxatlas.images import Preprocess
from boxatlas.options import validated
from boxatlas.parts.base import Detector
from boxatlas.weights.bundle import bundled, bundled_card, bundled_options, is_bundled
from boxatlas.weights.field import field_card, field_file, field_names, field_of, is_field
from boxatlas.weights.mmdet_config import as_configured
from boxatlas.weights.reading import KEY, read, read_notes, read_state, tensors_of
from boxatlas.weights.source import Checkpoint, Imported
from boxatlas.weights.transfer import ABSENT, Transferred, transfer
from boxatlas.zoo import build, class_names, list_models

__all__ = [
    "SOURCES",
    "Transferred",
    "bundled",
    "bundled_card",
    "bundled_options",
    "checkpoints",
    "description_of",
    "field_card",
    "field_names",
    "field_of",
    "import_model",
    "is_bundled",
    "is_field",
    "load",
    "load_into",
    "read_state",
]

SOURCES = (
    *("amdegroot", "caffe", "darknet", "detectron2", "lufficc", "luuuyi", "m2det", "mmdet"),
    *("mxnet", "py_faster_rcnn", "pytorchssd", "rfbnet", "torchvision", "uoip"),
)


def load(path: str | Path) -> Detector:
    """The whole detector from a checkpoint: model, options, classes, preprocess, weights.

    path: a file, a run's folder (its best, else its last), "bundled", "field/NAME" or the name of a
    model whose weights the package carries. It is ready to infer: in eval mode. Raises InputError
    where the file is not such a checkpoint or its weights do not fit
    its model.
    """
    path = file_of(path)
    state, description = read(path)
    if description is None:
        problem = "holds weights but not which detector they are of"
        hint = "`boxatlas weights import` makes a detector of a published checkpoint"
        raise InputError(problem, file=path, hint=hint)
    model = described(description, path)
    _load_whole(model, state, path)
    return model.eval()


def file_of(what: str | Path) -> Path:
    """The file that is meant. Raises InputError, with what else could be, where there is none."""
    path = Path(what)
    if os.path.isdir(path):  # a run's; one that was stopped early has no best yet
        kept = [path / f"{name}.safetensors" for name in ("best", "last")]
        found = next((one for one in kept if one.is_file()), None)
        if found is None:
            raise InputError("is a folder without best.safetensors or last.safetensors", file=path)
        return found
    if os.path.exists(path):  # False, not an error, for a name too long
        return path
    if is_field(what):
        return field_file(str(what))
    known = str(what) in list_models()
    if what == "bundled" or (known and is_bundled(str(what))):
        return bundled(str(what))
    if known:
        raise InputError(
            "is a model whose trained weights the package does not carry",
            value=str(what),
            hint="train it, or `boxatlas weights list`, `weights fetch` and `weights import`",
        )
    names = () if path.suffix else near(str(what), ("bundled", *field_names(), *list_models()))
    hint = f"did you mean {' or '.join(map(repr, names))}?" if names else None
    raise InputError("no such file", file=path, hint=hint)


def description_of(path: str | Path) -> dict[str, Any] | None:
    """What a checkpoint of ours says it is; None of tensors alone.

    Raises InputError where the file cannot be read or its description is damaged.
    """
    path = file_of(path)
    description = read(path)[1]
    if description is not None:
        _check_description(description, path)
    return description


def load_into(
    model: Detector, weights: str | Path | Mapping[str, Tensor], *, other_models: bool = False
) -> Transferred:
    """Put weights into a detector: every tensor that fits, class rows by equal name.

    weights: a checkpoint's path, "bundled", "field/NAME", or tensors by our names. Raises
    InputError for a checkpoint of another model, unless `other_models`, where nothing fits, and
    where the backbone is not the bundled one's (another size only adds or leaves out coarse maps).
    """
    file: Path | None = None
    classes: Sequence[str] | None = None
    if isinstance(weights, Mapping):
        state: Mapping[str, Tensor] = weights
    else:
        file = bundled(model.name) if weights == "bundled" else file_of(weights)
        state, description = read(file)
        if description is not None:
            kind, classes = description.get("model"), description.get("classes")
            if kind != model.name and model.name and not other_models:
                raise InputError(
                    f"a checkpoint of {kind}, not of {model.name}", file=file, field="model"
                )
    done = transfer(model, state, classes)
    absent = [name for name, why in done.new.items() if why == ABSENT]
    if weights == "bundled" and any(name.startswith("backbone.") for name in absent):
        problem = "the bundled weights are of a network with other options"
        raise InputError(problem, field="options", value=str(bundled_options(model.name)))
    if not done.rows and not [name for name in done.loaded if name != "images_seen"]:
        raise InputError(f"no tensor of this file fits {model.name or 'the model'}", file=file)
    return done


def import_model(
    weights: str | Path | Mapping[str, Any],
    *,
    source: str,
    as_: str,
    classes: Sequence[str] | None = None,
    **overrides: Any,
) -> Detector:
    """A public checkpoint as a detector of ours.

    weights: a file, or the tensors (or arrays) by the source's names; source: who published it
    (`SOURCES`); as_: our model; classes: names, where the source's usual ones are wrong; overrides:
    options that differ from the source's profile. Raises InputError where the tensors do not fit.
    """
    if source == "darknet":  # a file without names: the network tells its order
        from boxatlas.weights.darknet import import_darknet

        return import_darknet(weights, as_=as_ or None, classes=classes, **overrides)
    recognise = _recogniser(source, as_)
    file, notes = None, {}
    if isinstance(weights, Mapping):
        state = tensors_of(_as_tensors(weights))
    else:
        file = Path(weights)
        state, notes = read_notes(file)
    try:
        found: Imported = recognise(state, as_)
        if source == "mmdet":
            found = as_configured(found, notes, as_, named=classes is not None)
        names = tuple(classes) if classes is not None else found.classes
        model = build(as_, class_names(None, names), {**found.options, **overrides})
        renamed = _renamed(model, state, found)
    except InputError as error:
        if file is None or error.file is not None:
            raise
        raise InputError(str(error), file=file) from None
    model.preprocess = model.preprocess.model_copy(update=found.preprocess)
    _load_whole(model, renamed, file)
    return model


def checkpoints() -> list[tuple[str, Checkpoint]]:
    """(source, checkpoint) of everything that is known to import."""
    modules = [
        (source, importlib.import_module(f"boxatlas.weights.{source}")) for source in SOURCES
    ]
    return [(source, one) for source, module in modules for one in module.CHECKPOINTS]


def names_of(state: Mapping[str, Tensor], source: str, model: str) -> Callable[[str], str]:
    """Our tensors' names of a model -> those of the source."""
    return _recogniser(source, model)(state, model).name


def _recogniser(source: str, model: str) -> Callable[[Mapping[str, Tensor], str], Imported]:
    if source not in SOURCES:
        raise InputError(
            "no such source", field="source", value=source, hint=nearest(source, SOURCES)
        )
    module = importlib.import_module(f"boxatlas.weights.{source}")
    if model not in module.MODELS:
        known = module.MODELS if model in list_models() else list_models()
        raise InputError(
            f"{source} has no such model", field="as", value=model, hint=nearest(model, known)
        )
    return module.recognise


def _as_tensors(weights: Any) -> dict[str, Any]:
    return {
        str(k): v if isinstance(v, Tensor | Mapping) else torch.as_tensor(v)
        for k, v in weights.items()
    }


def _renamed(model: Detector, state: Mapping[str, Tensor], found: Imported) -> dict[str, Tensor]:
    """The source's tensors under our names; every one of ours must be there."""
    out, used = {}, set()
    for own, target in model.state_dict().items():
        if own == "images_seen":
            out[own] = target
            continue
        theirs = found.name(own)
        if theirs not in state and own.endswith("num_batches_tracked"):
            out[own] = target  # a counter that older files lack
            continue
        if theirs not in state:
            raise InputError("no such tensor: the file is not of this model", field=theirs)
        value = found.convert(own, state[theirs])
        same = found.reshape and value.numel() == target.numel()
        out[own], _ = value.reshape(target.shape) if same else value, used.add(theirs)
    left = sorted(name for name in set(state) - used if not found.ignored(name))
    if left:
        problem = f"{len(left)} tensors have no place in this model"
        raise InputError(problem, field=left[0], hint="is it a checkpoint of another model?")
    return out


def described(description: Mapping[str, Any], path: str | Path) -> Detector:
    """Build what a checkpoint's description says."""
    name, options, classes, preprocess = _check_description(description, path)
    # The weights are in the file: the backbone's own are not fetched again.
    fresh = {**options, **({"pretrained": False} if "pretrained" in options else {})}
    try:
        model = build(str(name), class_names(None, classes), fresh)
    except InputError as error:
        raise InputError(str(error), file=path) from None
    model.options = type(model.config).current(options)
    model.preprocess = validated(Preprocess, dict(preprocess or {}), str(path))
    return model


def _check_description(description: Mapping[str, Any], path: str | Path) -> tuple[Any, ...]:
    """(model, options, classes, preprocess), each of its kind. Raises InputError."""
    check_format(description.get("format", 1), path)
    name, options = description.get("model"), description.get("options", {})
    classes, preprocess = description.get("classes"), description.get("preprocess")
    shapes = (
        ("model", name, str),
        ("options", options, dict),
        ("classes", classes, list),
        ("preprocess", preprocess, dict),
    )
    for field, value, kind in shapes:
        if not isinstance(value, kind):
            problem = "the description of the detector is damaged"
            raise InputError(problem, file=path, field=f"{KEY}.{field}", value=value)
    return name, options, classes, preprocess


@torch.no_grad()
def _load_whole(model: Detector, state: Mapping[str, Tensor], file: str | Path | None) -> None:
    """Every tensor, each of its shape, and no other."""
    own = model.state_dict()
    wrong = sorted(set(own) ^ set(state))
    if wrong:
        what = "is missing" if wrong[0] in own else "has no place in it"
        raise InputError(f"not a checkpoint of {model.name}: {wrong[0]} {what}", file=file)
    for name, target in own.items():
        if target.shape != state[name].shape:
            raise InputError(
                f"not a checkpoint of {model.name}: the shape is {list(state[name].shape)}, "
                f"not {list(target.shape)}",
                file=file,
                field=name,
            )
        target.copy_(state[name])
