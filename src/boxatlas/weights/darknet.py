"""Darknet's .weights files, in and out, of every version of the header.

Public: import_darknet (a file, or arrays by layer, as a detector), export_darknet, departures,
load_state, load_file, state_of. The order of a file is that of the layers (`darknet_layers`); as
named arrays they are "layer3.bias", ".scales", ".running_mean", ".running_var", ".weight", by the
layer's number. The GPU code, with which the public weights were made, has batch norm's epsilon
(1e-5) inside the root, as our default.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from boxatlas import zoo
from boxatlas.backbones.darknet_file import Header, Numbers, read_numbers, write_numbers
from boxatlas.data.formats.darknet_data import read_names
from boxatlas.detectors.yolo9000 import YOLO9000
from boxatlas.detectors.yolov1 import YOLOv1
from boxatlas.detectors.yolov2 import YOLOv2
from boxatlas.detectors.yolov3 import YOLOv3
from boxatlas.errors import InputError, nearest
from boxatlas.files import write_text
from boxatlas.parts.base import Detector
from boxatlas.parts.yolo import PriorDetector, YOLODetector
from boxatlas.weights.darknet_cfg import parse_cfg, read_cfg, write_cfg
from boxatlas.weights.darknet_layers import Section, layers_of, sections_of
from boxatlas.weights.darknet_models import Recognised, recognised
from boxatlas.weights.source import Checkpoint, class_names
from boxatlas.wordtree import VOC_WORDS, WordTree

_SITE = "pjreddie.com/media/files"
# Bytes, as listings of the files say, and the digests that their users compare (the site has none).
_SIZES = {
    "yolov1.weights": 789_312_988,
    "yolov2.weights": 203_934_260,
    "yolo-voc.weights": 202_704_260,
    "yolov2-tiny.weights": 44_948_600,
    "yolov2-tiny-voc.weights": 63_471_556,
    "yolo9000.weights": 195_230_020,
    "yolov3.weights": 248_007_048,
    "yolov3-tiny.weights": 35_434_956,
}
_DIGESTS = {
    "yolov3.weights": "523e4e69e1d015393a1b0a441cef1d9c7659e3eb2d7e15f793f060a21b32f297",
    "yolov3-tiny.weights": "dccea06f59b781ec1234ddf8d1e94b9519a97f4245748a7d4db75d5b7080a42c",
}
CHECKPOINTS = tuple(
    Checkpoint(
        file,
        model,
        data,
        _SITE,
        f"https://{_SITE}/{file}",
        round(_SIZES[file] / 2**20, 3) if file in _SIZES else None,
        f"sha256:{_DIGESTS[file]}" if file in _DIGESTS else None,
        "public domain",
    )
    for file, model, data in (
        ("yolov1.weights", "yolov1", "VOC 07+12"),
        ("yolov1-tiny.weights", "yolov1_tiny", "VOC 07+12"),
        ("yolov2.weights", "yolov2", "COCO"),
        ("yolov2-voc.weights", "yolov2", "VOC 07+12"),
        ("yolo-voc.weights", "yolov2", "VOC 07+12"),
        ("yolov2-tiny.weights", "yolov2_tiny", "COCO"),
        ("yolov2-tiny-voc.weights", "yolov2_tiny", "VOC 07+12"),
        ("yolo9000.weights", "yolo9000", "COCO + ImageNet"),
        ("yolov3.weights", "yolov3", "COCO"),
        ("yolov3-spp.weights", "yolov3_spp", "COCO"),
        ("yolov3-tiny.weights", "yolov3_tiny", "COCO"),
    )
)

# What the program does that a file does not say, by model: as its code of 2018 and its cfg files.
_REGION = {"resize": "letterbox", "small_boxes": True}
PROFILES: dict[str, tuple[dict[str, Any], ...]] = {  # the first whose size is the file's
    "yolov1": ({"variant": "released"}, {"variant": "paper"}),
    "yolov1_tiny": ({},),
    "yolov2": ({**_REGION, "release": "later"}, {**_REGION, "release": "paper"}),
    "yolov2_tiny": (_REGION,),
    "yolo9000": (_REGION,),
    "yolov3": ({"ignore_iou": 0.7},),
    "yolov3_spp": ({"ignore_iou": 0.7},),
    "yolov3_tiny": ({"ignore_iou": 0.7},),
}
MODELS = tuple(PROFILES)
_NORMS = ((1e-5, "inside_root"), (1e-6, "added_to_root"))  # the program's, on a GPU and a CPU


def import_darknet(
    weights: str | Path | Mapping[str, Any],
    *,
    as_: str | None = None,
    cfg: str | Path | None = None,
    classes: Sequence[str] | None = None,
    names: str | Path | None = None,
    **overrides: Any,
) -> Detector:
    """A detector from a .weights file, or from arrays named by layer.

    cfg: the network's own file (or its text), which says model, classes and options. Without it
    `as_` names the model and the file's length the number of classes. classes: their names, or
    names: a file of them. A cfg's tree and map are looked for beside it, one folder above (as in
    Darknet's checkout) and in the working directory; a map of 80 classes is COCO's, of 20 VOC's.
    Raises InputError where the cfg is no network of ours, or the file is truncated, too long or of
    another network, naming the byte.
    """
    if cfg is None:
        if as_ is None:
            raise InputError("which network is it?", field="--as", hint="give --as or --cfg")
        network = _guessed(weights, as_, classes, overrides)
    else:
        text = isinstance(cfg, str) and "\n" in cfg
        sections = parse_cfg(str(cfg)) if text else read_cfg(cfg)
        network = recognised(sections, None if text else cfg)
        if (
            as_ is not None
            and as_ != network.model
            and as_.split("_")[0] != network.model.split("_")[0]
        ):
            raise InputError(f"is a {network.model}, not a {as_}", file=None if text else cfg)
    options = {**network.options, **overrides}
    if network.model == "yolo9000" and "parents" not in overrides:
        options = {**_tree_near(network, cfg), **options}
        if names is not None:  # not all of its words differ: the tree tells them apart
            options["tree_names"], names = str(names), None
    if names is not None:
        classes = read_names(names)
    called = tuple(classes) if classes is not None else class_names(network.classes)
    if len(called) != network.classes:
        raise InputError(
            f"{len(called)} class names for {network.classes} classes", field="classes", file=names
        )
    model = zoo.build(network.model, zoo.class_names(None, called), options)
    if isinstance(weights, Mapping):
        load_state(model, weights)
    else:
        header = load_file(model, weights)
        model.images_seen.fill_(min(header.seen, 2**62))
    return model


def _tree_near(network: Recognised, cfg: str | Path | None) -> dict[str, Any]:
    """The options that a cfg's tree and map are. Raises InputError where a file is not found."""
    if network.tree is None:
        return {}
    tree = _near(network.tree, "tree", cfg)
    if network.map is None:
        return {"tree": str(tree)}
    nodes = WordTree.read(tree).read_map(_near(network.map, "map", cfg))
    called = class_names(len(nodes)) if len(nodes) in (20, 80) else ()
    words = dict(zip(called, nodes, strict=False))
    return {"tree": str(tree), "words": {VOC_WORDS.get(k, k): v for k, v in words.items()} | words}


def _near(name: str, field: str, cfg: str | Path | None) -> Path:
    """A file that a cfg names."""
    here = Path(cfg).parent if cfg is not None and "\n" not in str(cfg) else Path()
    tries = [here / name, here.parent / name, Path(name)]
    for one in tries:
        if one.is_file():
            return one
    raise InputError(
        f"the {field} is missing",
        file=None if cfg is None else str(cfg).split("\n")[0],
        field=field,
        value=name,
        hint=f"looked at {', '.join(map(str, dict.fromkeys(tries)))}",
    )


def _guessed(
    weights: str | Path | Mapping[str, Any],
    model: str,
    classes: Sequence[str] | None,
    overrides: Mapping[str, Any],
) -> Recognised:
    """Profile and number of classes from how many numbers there are."""
    if model not in PROFILES:
        raise InputError(
            "Darknet has no such model", field="as", value=model, hint=nearest(model, PROFILES)
        )
    file = None if isinstance(weights, Mapping) else Path(weights)
    if file is None:
        assert isinstance(weights, Mapping)
        have = sum(torch.as_tensor(v).numel() for v in weights.values())
    else:
        have = read_numbers(file).left
    for profile in PROFILES[model]:
        options = {**profile, **overrides}
        for start in (20, 80) if classes is None else (len(classes),):
            count = _count(model, options, have, start) if classes is None else start
            if count and _size(model, count, options) == have:
                return Recognised(model, count, options)
    wanted = _size(model, len(classes) if classes is not None else 80, PROFILES[model][0])
    raise InputError(
        f"holds {have} numbers, which no {model} does (with "
        f"{len(classes) if classes is not None else 80} classes {wanted}, to byte "
        f"{20 + 4 * wanted})",
        file=file,
        hint="truncated, or of another network; --cfg names it",
    )


def _size(model: str, classes: int, options: Mapping[str, Any]) -> int:
    """How many numbers a file of this model holds."""
    with torch.device("meta"):
        made = zoo.build(model, zoo.class_names(classes, None), options)
        return sum(part.numel() for layer in layers_of(made) for _, part in layer.parts)


def _count(model: str, options: Mapping[str, Any], have: int, start: int) -> int | None:
    """The number of classes whose file holds `have` numbers: it grows evenly with them."""
    base, step = _size(model, start, options), _size(model, start + 1, options)
    extra, over = divmod(have - base, step - base) if step > base else (0, 1)
    return start + extra if over == 0 and start + extra > 0 else None


def load_file(network: nn.Module, path: str | Path, *, prefix: bool = False) -> Header:
    """Fill a network from a file, which must hold it exactly.

    prefix: the file may end between two layers (`darknet53.conv.74`); the rest stays as it is.
    """
    numbers = read_numbers(path)
    for layer in layers_of(network):
        if prefix and not numbers.left and layer.parts:
            return numbers.header
        for name, target in layer.parts:
            numbers.fill(name, target)
    numbers.end()
    return numbers.header


def load_prefix(network: nn.Module, path: str | Path) -> list[str]:
    """Fill the layers that a file holds from the start: (names of our tensors that were filled).

    For `darknet19_448.conv.23` and whole files of another number of classes: the first layer that
    does not fit ends it, at a layer's border.
    """
    numbers, filled = read_numbers(path), set[int]()
    for layer in layers_of(network):
        if numbers.left < sum(part.numel() for _, part in layer.parts):
            break
        for name, target in layer.parts:
            numbers.fill(name, target)
            filled.add(target.data_ptr())
    return [name for name, value in network.state_dict().items() if value.data_ptr() in filled]


@torch.no_grad()
def load_state(network: nn.Module, state: Mapping[str, Any]) -> None:
    """Fill a network from arrays named by layer; each must be there and none be over."""
    used: set[str] = set()
    for layer in layers_of(network):
        for name, target in layer.parts:
            key = name.removesuffix(" matrix")
            if key not in state:
                raise InputError("no such tensor: not the weights of this network", field=key)
            value = torch.as_tensor(state[key])
            if value.numel() != target.numel():
                raise InputError(
                    f"has shape {list(value.shape)}, not {list(target.shape)}", field=key
                )
            target.copy_(value.reshape(target.shape))
            used.add(key)
    left = sorted(set(state) - used)
    if left:
        raise InputError(f"{len(left)} tensors have no place in this network", field=left[0])


def state_of(network: nn.Module) -> dict[str, Tensor]:
    """A network's arrays, named by layer, in the order of a file."""
    return {
        name.removesuffix(" matrix"): part
        for layer in layers_of(network)
        for name, part in layer.parts
    }


def export_darknet(model: Detector, path: str | Path) -> list[Path]:
    """Write what Darknet loads: PATH.weights, and .cfg, .names (and .tree) beside it.

    Returns the files. Raises InputError for a network that Darknet cannot have; what the program
    itself does otherwise `departures` says.
    """
    path = Path(path)
    if path.suffix != ".weights":
        raise InputError("must end in .weights", field="--out", value=str(path))
    sections = sections_of(model, model.preprocess.size)
    assert isinstance(model, YOLODetector)  # of others there are no sections
    _check(model, sections)
    files = [path, path.with_suffix(".cfg"), path.with_suffix(".names")]
    if isinstance(model, YOLO9000):
        files.append(path.with_suffix(".tree"))
        sections[-1][1]["tree"] = files[-1].name
        model.tree.write(files[-1])
    parts = (part for layer in layers_of(model) for _, part in layer.parts)
    write_numbers(path, parts, Header(0, 2, 0, int(model.images_seen)))
    write_text(files[1], write_cfg(sections))
    write_text(files[2], "".join(f"{name}\n" for name in model.classes))
    return files


def _check(model: YOLODetector, sections: Sequence[Section]) -> None:
    """Raise InputError for a choice that no cfg can say."""
    config = model.config
    if isinstance(model, YOLOv2) and config.passthrough and config.reorg_order != "darknet":
        raise InputError(
            "Darknet's own order is needed", field="reorg_order", value=config.reorg_order
        )
    if isinstance(model, PriorDetector) and model.coder.location != "cell":
        raise InputError(
            "Darknet has sigmoid centres alone",
            field="location" if isinstance(model, YOLOv3) else "location_prediction",
            value=model.coder.location,
        )
    if isinstance(model, YOLOv3 | YOLO9000):
        theirs = "logistic" if isinstance(model, YOLOv3) else "hierarchical"
        if config.class_loss != theirs:
            problem = "Darknet reads this network's classes otherwise"
            raise InputError(problem, field="class_loss", value=config.class_loss)
    normed = any("batch_normalize" in options for _, options in sections)
    if normed and (config.norm_eps, config.norm_place) not in _NORMS:
        raise InputError(
            "a cfg has no epsilon: Darknet's is 1e-5 inside the root on a GPU, 1e-6 "
            "added to it on a CPU",
            field="norm_eps",
            value=config.norm_eps,
            hint=f"norm_place is {config.norm_place}",
        )


def departures(model: Detector) -> list[str]:
    """What Darknet does otherwise with a network of ours that it loads, a sentence each."""
    if not isinstance(model, YOLODetector):
        return []
    config, out = model.config, []
    theirs = "stretch" if isinstance(model, YOLOv1) else "letterbox"
    if config.resize != theirs:
        does = {"stretch": "stretches", "letterbox": "letterboxes"}
        out.append(
            f"Darknet {does[theirs]} an image, this model {does[config.resize]} it: boxes "
            "differ where the image has not the input's shape"
        )
    if isinstance(model, YOLO9000):
        if config.tree_decode != "darknet":
            out.append(
                "Darknet reads the tree as tree_decode=darknet does, this model as "
                f"{config.tree_decode}: words differ"
            )
        if config.tree_score != "objectness":
            out.append(f"Darknet's scores are the objectness, this model's {config.tree_score}")
    return out


__all__ = [
    "CHECKPOINTS",
    "MODELS",
    "Numbers",
    "departures",
    "export_darknet",
    "import_darknet",
    "load_file",
    "load_prefix",
    "load_state",
    "state_of",
]
