"""What is found in an image depends on that image alone, whatever is seen with it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import boxatlas
from boxatlas.data import Table
from boxatlas.structures import Detections
from boxatlas.verify import fill

_LITE = "timm/tf_efficientnet_lite0"
_FEW = {"proposals_loss": (60, 40), "proposals_detect": (40, 20)}

# One small model of each method.
SMALL: dict[str, dict[str, Any]] = {
    "rcnn_efficientnet_lite0": {"crop_size": 64, "crop_padding": 4},
    "fast_rcnn320_efficientnet_lite0": {"size": 96},
    "faster_rcnn320_efficientnet_lite0": {"size": 96, **_FEW},
    "faster_rcnn320_efficientnet_lite0_fpn": {"size": 96, **_FEW},
    "rfcn320_efficientnet_lite0": {"size": 96, "k": 3, "conv_width": 32, **_FEW},
    "mask_rcnn320_efficientnet_lite0_fpn": {"size": 96, **_FEW},
    "cascade_rcnn320_efficientnet_lite0_fpn": {"size": 96, **_FEW},
    "cascade_mask_rcnn320_efficientnet_lite0_fpn": {"size": 96, **_FEW},
    "ssdlite320_efficientnet_lite0": {"size": 160},
    "dssd321_r101": {"size": 160, "backbone": _LITE},
    "dsod300": {"size": 160},
    "fssd300_vgg16": {"size": 160, "backbone": _LITE},
    "rfbnet300_mobilenet": {"size": 160},
    "refinedet320_vgg16": {"size": 128, "backbone": _LITE},
    "m2det320_vgg16": {"size": 128, "backbone": _LITE},
    "retinanet320_efficientnet_lite0_fpn": {"size": 96},
    "yolov1_tiny": {"size": 128, "hidden": 32},
    "yolov2_efficientnet_lite0": {"size": 96},
    "yolo9000": {"size": 96, "width": 0.1},
    "yolov3_efficientnet_lite0": {"size": 96},
}
LIGHT = [
    name
    for name in boxatlas.list_models()
    if "efficientnet" in name or "mobilenet" in name or name.endswith("_tiny")
]


def filled(name: str, **options: Any) -> boxatlas.Detector:
    """A model whose weights are made from their names, so that its outputs are spread out."""
    model = boxatlas.create_model(name, num_classes=3, **options).eval()
    shapes = {k: tuple(v.shape) for k, v in model.state_dict().items() if k != "images_seen"}
    made = fill.weights({"seed": 0}, shapes)
    model.load_state_dict({k: torch.as_tensor(v) for k, v in made.items()}, strict=False)
    return model


def picture(height: int, width: int, seed: int) -> np.ndarray:
    """Smooth patches of colour, so that selective search finds regions."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (6, 8, 3)).astype(np.uint8)
    return np.array(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


PICTURES = [picture(90, 120, 1), picture(90, 120, 2), picture(120, 90, 3)]


def same(a: Detections, b: Detections) -> bool:
    masks = (a.masks is None and b.masks is None) or torch.equal(a.masks, b.masks)  # type: ignore[arg-type]
    return (
        torch.equal(a.boxes, b.boxes)
        and torch.equal(a.scores, b.scores)
        and torch.equal(a.labels, b.labels)
        and bool(masks)
    )


def check(model: boxatlas.Detector) -> None:
    together = model.detect(PICTURES, score=0.0)
    alone = [model.detect(one, score=0.0) for one in PICTURES]
    assert any(len(one) for one in alone)
    for i, (a, b) in enumerate(zip(together, alone, strict=True)):
        assert same(a, b), f"image {i}: {len(a)} and {len(b)} detections"


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=pytest.mark.slow) if n == "dssd321_r101" else n for n in SMALL],
)
def test_a_list_gives_what_each_image_gives_alone(name: str) -> None:
    check(filled(name, **SMALL[name]))


@pytest.mark.slow
@pytest.mark.parametrize("name", LIGHT)
def test_so_does_every_light_model_as_it_is(name: str) -> None:
    check(filled(name))


def test_no_method_is_left_out() -> None:
    methods = {boxatlas.model_info(name).method for name in boxatlas.list_models()}
    assert {boxatlas.model_info(name).method for name in SMALL} == methods


def test_only_what_can_be_seen_together_is() -> None:
    """One on a CPU and where sizes differ; elsewhere as many as are asked for."""
    fixed = boxatlas.create_model("ssdlite320_efficientnet_lite0", num_classes=1)
    assert fixed.together() == fixed.together(32) == 1
    with torch.device("meta"):  # a device that is no CPU
        fixed = boxatlas.create_model("ssdlite320_efficientnet_lite0", num_classes=1)
        shorter = boxatlas.create_model("retinanet320_efficientnet_lite0_fpn", num_classes=1)
    assert (fixed.together(), fixed.together(4)) == (8, 4)
    assert (shorter.together(), shorter.together(4)) == (1, 1)


def test_evaluation_follows_the_same_rule(tmp_path, monkeypatch) -> None:
    """`predict` gives each image of a table what `infer` gives it alone, and asks `together`."""
    model = filled("ssdlite320_efficientnet_lite0", size=160)
    paths = []
    for i, pixels in enumerate(PICTURES):
        paths.append(str(tmp_path / f"{i}.png"))
        Image.fromarray(pixels).save(paths[-1])
    table = Table(
        model.classes,
        paths,
        list(range(3)),
        np.array([p.shape[:2] for p in PICTURES], np.int32),
        np.zeros(4, np.int64),
        np.zeros((0, 4), np.float32),
        np.zeros(0, np.int32),
        np.zeros(0, bool),
        image_label=np.full(3, -1, np.int32),
    )
    found = boxatlas.predict(model, table, progress=False)
    for one, pixels in zip(found, PICTURES, strict=True):
        images, frames = model.preprocess.batch([pixels])
        assert same(one, model.infer(images, frames)[0])
    seen: list[int] = []
    whole = model.infer
    monkeypatch.setattr(
        model, "infer", lambda images, *a, **k: seen.append(len(images)) or whole(images, *a, **k)
    )
    boxatlas.predict(model, table, progress=False)
    boxatlas.predict(model, table, progress=False, batch_size=2)
    assert seen == [1, 1, 1, 2, 1]
