"""SSD and its family: raw outputs and default boxes, through the importers of checkpoints."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from boxatlas.parts.base import Detector
from boxatlas.parts.default_boxes import DefaultBoxes
from boxatlas.parts.single_shot import SingleShot
from boxatlas.verify.case import Case, UnsupportedError, expect
from boxatlas.weights import names_of


def network(case: Case) -> dict[str, Tensor]:
    """loc, conf and priors as the reference has them."""
    model = case.model(**options(case))
    assert isinstance(model, SingleShot)
    if "batchnorm_eps" in case.params:
        set_norm_eps(model, case)
    raw = model(case.input())
    found = {"loc": raw["deltas"], "conf": raw["logits"]}
    if "arm_logits" in raw:
        found = {f"odm_{name}": value for name, value in found.items()}
        found |= {"arm_loc": raw["arm_deltas"], "arm_conf": raw["arm_logits"]}
    for entry in case.outputs:
        if entry["name"].startswith("priors"):
            boxes = entry["switches"]["boxes"]
            own = boxes == case.switches["boxes"]
            found[entry["name"]] = written(raw["anchors"] if own else _anchors(model, boxes), boxes)
    return found


def _anchors(model: SingleShot, boxes: Mapping[str, Any]) -> Tensor:
    """The default boxes of a block, made as the model makes its own."""
    config = model.config.model_copy(update=box_options(boxes))
    sizes = (model.boxes.min_sizes, model.boxes.max_sizes)
    grids = [tuple(level["grid"]) for level in boxes["levels"]]
    return DefaultBoxes(config, model.boxes.ratios, sizes).make(grids, tuple(boxes["image"]))


def options(case: Case) -> dict[str, Any]:
    """The case's switches and parameters as options of its method."""
    switches, params = dict(case.switches), case.params
    made = box_options(switches.pop("boxes"))
    family = re.split(r"\d", case.run["model"])[0]
    if "prediction_module" in switches:  # SSD321 too
        family = "dssd"
    made |= _METHODS[family](switches, params)
    if switches:
        raise UnsupportedError(f"switches {sorted(switches)}")
    made["variances"] = tuple(params["variances"])
    if family in ("dsod", "dssd"):
        expect(params, pool_rounding=["ceil"])
    elif "pool_rounding" in params:
        made["ceil_pools"] = (1, 2, 3, 4) if params["pool_rounding"] == "ceil" else ()
    elif "pool3_ceil" in params:
        made["ceil_pools"] = (3,) if params["pool3_ceil"] else ()
    return made


def _ssd(switches: dict[str, Any], params: Mapping[str, Any]) -> dict[str, Any]:
    names = ("boxes_on_first_map", "reduced_tail")
    return {**_taken(switches, *names), **_l2norm(params)}


def _fssd(switches: dict[str, Any], params: Mapping[str, Any]) -> dict[str, Any]:
    made = _taken(switches, "fuse", "fuse_norm_affine", "boxes_on_first_map")
    made["sources"] = tuple("conv7_2" if s == "extra" else s for s in switches.pop("sources"))
    first = switches.pop("first_pyramid_conv", True)
    made["generator"] = "simple" if first else "direct"
    expect(params["upsample"], mode=["bilinear"])
    made["align_corners"] = params["upsample"]["align_corners"]
    if "extra_conv_padding" in params:
        made["extra_padding"] = params["extra_conv_padding"]
    return made


def _rfbnet(switches: dict[str, Any], params: Mapping[str, Any]) -> dict[str, Any]:
    made = _taken(switches, "rfb_s", "version", "boxes_on_first_map", "residual_scale")
    if "upsample" in params:
        expect(params["upsample"], mode=["bilinear"])
        made["align_corners"] = params["upsample"]["align_corners"]
    return {**made, **_l2norm(params)}


def _refinedet(switches: dict[str, Any], params: Mapping[str, Any]) -> dict[str, Any]:
    expect(switches, arm=[True], top_map=["conv6_2", "res6"], tcb=["deconvolution", "none"])
    for name in ("arm", "top_map", "anchors_per_cell"):  # the last is told by the boxes
        switches.pop(name, None)
    return {**_taken(switches, "tcb"), **_l2norm(params)}


def _dsod(switches: dict[str, Any], params: Mapping[str, Any]) -> dict[str, Any]:
    names = ("prediction", "growth", "bottleneck", "stem", "compression", "last_map", "l2norm_maps")
    order = params["concat_order"]
    return {
        **_taken(switches, *names),
        **_l2norm(params),
        "head_norm": params["head_norm"],
        "blocks_first": order["second"][0] == "blocks",
        "learned_first": order["extras"][0] == "learned",
    }


def _dssd(switches: dict[str, Any], params: Mapping[str, Any]) -> dict[str, Any]:
    made = _taken(switches, "prediction_module", "fusion")
    made["head_kernels"] = tuple(switches.pop("head_kernel"))
    made["module_kernel"] = switches.pop("prediction_module_kernel")
    made["tower"] = switches.pop("loc_conf_tower", None)
    return made


def _m2det(switches: dict[str, Any], params: Mapping[str, Any]) -> dict[str, Any]:
    expect(params["upsample"], mode=["nearest"])
    expect(switches, smooth=[True])
    for name in ("smooth", "base_out"):  # the backbone's maps go by its name
        switches.pop(name, None)
    made = _taken(switches, "tums", "scales", "planes", "sfam", "sfam_ratio")
    made["form"] = switches.pop("variant")
    made["shared_leach"] = switches.pop("leach_shared")
    made["norm_largest"] = switches.pop("norm_largest_scale")
    made["shared_sfam"] = switches.pop("sfam_shared")
    return made


def _taken(switches: dict[str, Any], *names: str) -> dict[str, Any]:
    """Switches that are options of the same name."""
    return {name: switches.pop(name) for name in names if name in switches}


def _l2norm(params: Mapping[str, Any]) -> dict[str, Any]:
    if "l2norm" not in params:
        return {}
    return {"norm_eps": params["l2norm"]["eps"], "norm_place": params["l2norm"]["place"]}


_METHODS = {
    "ssd": _ssd,
    "ssdlite": _ssd,
    "fssd": _fssd,
    "rfbnet": _rfbnet,
    "refinedet": _refinedet,
    "dsod": _dsod,
    "dssd": _dssd,
    "m": _m2det,
}


def box_options(boxes: Mapping[str, Any]) -> dict[str, Any]:
    """Default boxes given whole -> the options that make them."""
    levels = boxes["levels"]
    return {
        "size": tuple(boxes["image"]),
        "min_sizes": tuple(level["min_size"] for level in levels),
        "max_sizes": tuple(level["max_size"] for level in levels),
        "ratios": tuple(tuple(level["ratios"]) for level in levels),
        "steps": tuple(level["step"] for level in levels),
        "offset": tuple(level["offset"] for level in levels),
        "offset_unit": "steps" if boxes["centre"].startswith("(index") else "pixels",
        "clip_boxes": boxes["clip"],
        "truncate_sizes": boxes["truncate_sizes"],
        "cell_order": _order(boxes),
    }


def _order(boxes: Mapping[str, Any]) -> str:
    """Which of the two orders within a cell the case's shapes have."""
    level = boxes["levels"][0]
    if "shapes" not in level:
        return "ssd"
    whole = math.trunc if boxes["truncate_sizes"] else float
    low = whole(level["min_size"])
    first = all(abs(side - low) < 1e-3 for side in level["shapes"][0])
    return "ssd" if first else "ratio"


def written(anchors: Tensor, boxes: Mapping[str, Any]) -> Tensor:
    """Anchors, xyxy in pixels, in the form and unit of the reference."""
    height, width = boxes["image"]
    out = anchors.double()
    if boxes["unit"] == "relative":
        out = out / out.new_tensor([width, height, width, height])
    if boxes["form"] == "cxcywh":
        low, high = out[:, :2], out[:, 2:]
        out = torch.cat([(low + high) / 2, high - low], dim=1)
    return out.float()


def set_norm_eps(model: Detector, case: Case) -> None:
    """Each batch norm's epsilon by the first rule that its name in the reference matches."""
    name_of = names_of(case.weights(), case.run["profile"], model.name)
    for name, module in model.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            theirs = name_of(f"{name}.running_mean").removesuffix(".running_mean")
            for pattern, eps in case.params["batchnorm_eps"]:
                if re.search(pattern, theirs):
                    module.eps = eps
                    break


def not_dssd(case: Case) -> dict[str, Tensor]:
    """Refuse a port that is another network than the one of the paper."""
    raise UnsupportedError(
        "ZQPei/DSSD is not the paper's network (its last stage has 256 planes, its prediction "
        "module is linear, its deconvolutions all have stride 2); dssd321_resnet101_caffe is"
    )


_NAMES = (
    "ssd300_vgg16_caffe", "ssd512_vgg16_caffe", "ssd300_vgg16_amdegroot", "ssd300_vgg16_lufficc",
    "ssd512_vgg16_lufficc", "ssd300_6box_vgg16_pytorchssd", "ssd300_vgg16_torchvision",
    "ssdlite320_mobilenet_v3_large_torchvision",
    "fssd300_vgg16_caffe", "fssd512_vgg16_caffe", "fssd300_vgg16_pytorchssd",
    "fssd512_vgg16_pytorchssd",
    "refinedet320_vgg16_caffe", "refinedet512_vgg16_caffe", "refinedet320_resnet101_caffe",
    "refinedet320_vgg16_luuuyi", "refinedet512_vgg16_luuuyi",
    "dsod300_caffe", "dsod300_uoip", "ssd321_resnet101_caffe", "dssd321_resnet101_caffe",
    "dssd513_resnet101_caffe",
    "m2det320_vgg16_qijiezhao", "m2det512_vgg16_qijiezhao", "m2det800_vgg16_qijiezhao",
    "m2det320_resnet101_qijiezhao", "m2det320_vgg16_sfam_qijiezhao",
    "rfbnet300_vgg16", "rfbnet300e_vgg16", "rfbnet512_vgg16", "rfbnet512e_vgg16",
)  # fmt: skip
CASES = {**dict.fromkeys(_NAMES, network), "dssd320_resnet101_zqpei": not_dssd}
