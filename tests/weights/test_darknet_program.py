"""What we export, Darknet itself loads, and finds the same boxes in the same file.

Runs where BOXATLAS_DARKNET names the library of Debian's package `darknet`
(/usr/lib/darknet/libdarknet.so); skips elsewhere.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from boxatlas.create import create_model
from boxatlas.parts.base import Detector
from boxatlas.weights.darknet import export_darknet, import_darknet

LIBRARY = Path(os.environ.get("BOXATLAS_DARKNET", "libdarknet.so"))
CPU = {"norm_eps": 1e-6, "norm_place": "added_to_root"}  # the program without a GPU


class _Box(ctypes.Structure):
    _fields_ = [(name, ctypes.c_float) for name in "xywh"]


class _Detection(ctypes.Structure):
    _fields_ = [
        ("box", _Box),
        ("classes", ctypes.c_int),
        ("prob", ctypes.POINTER(ctypes.c_float)),
        ("mask", ctypes.POINTER(ctypes.c_float)),
        ("objectness", ctypes.c_float),
        ("sort_class", ctypes.c_int),
    ]


class _Image(ctypes.Structure):
    _fields_ = [
        ("w", ctypes.c_int),
        ("h", ctypes.c_int),
        ("c", ctypes.c_int),
        ("data", ctypes.POINTER(ctypes.c_float)),
    ]


@pytest.fixture(scope="module")
def darknet() -> Any:
    if not LIBRARY.is_file():
        pytest.skip("needs Darknet: BOXATLAS_DARKNET=/usr/lib/darknet/libdarknet.so")
    library = ctypes.CDLL(str(LIBRARY))
    library.load_network.restype = ctypes.c_void_p
    library.load_image_color.restype = library.resize_image.restype = _Image
    library.load_image_color.argtypes = [ctypes.c_char_p, ctypes.c_int, ctypes.c_int]
    library.resize_image.argtypes = [_Image, ctypes.c_int, ctypes.c_int]
    library.network_predict_image.argtypes = [ctypes.c_void_p, _Image]
    library.network_predict.argtypes = [ctypes.c_void_p, ctypes.POINTER(ctypes.c_float)]
    library.set_batch_network.argtypes = [ctypes.c_void_p, ctypes.c_int]
    library.get_network_boxes.restype = ctypes.POINTER(_Detection)
    library.get_network_boxes.argtypes = [
        ctypes.c_void_p,
        ctypes.c_int,
        ctypes.c_int,
        ctypes.c_float,
        ctypes.c_float,
        ctypes.c_void_p,
        ctypes.c_int,
        ctypes.POINTER(ctypes.c_int),
    ]
    library.do_nms_sort.argtypes = [
        ctypes.POINTER(_Detection),
        ctypes.c_int,
        ctypes.c_int,
        ctypes.c_float,
    ]
    return library


@contextmanager
def _in(folder: Path) -> Iterator[None]:
    """Darknet looks for a cfg's other files where it runs."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def _found(library: Any, weights: Path, image: Path, model: Detector, score: float) -> np.ndarray:
    """[N, 6] class, score, x1, y1, x2, y2 in pixels, cut to the image, after Darknet's own NMS."""
    config: Any = model.config
    with _in(weights.parent):
        net = library.load_network(
            str(weights.with_suffix(".cfg")).encode(), str(weights).encode(), 0
        )
    library.set_batch_network(net, 1)
    pixels = library.load_image_color(str(image).encode(), 0, 0)
    if config.resize == "letterbox":
        library.network_predict_image(net, pixels)
    else:
        height, width = model.preprocess.size
        library.network_predict(net, library.resize_image(pixels, width, height).data)
    count = ctypes.c_int(0)
    found = library.get_network_boxes(
        net, pixels.w, pixels.h, score, 0.5, None, 1, ctypes.byref(count)
    )
    library.do_nms_sort(found, count.value, model.num_classes, config.nms_iou)
    rows = []
    # [detection] gives pixels, the later layers fractions.
    unit = np.array([1, 1] if config.resize == "stretch" else [pixels.w, pixels.h])
    for one in found[: count.value]:
        centre = np.array([one.box.x, one.box.y]) * unit
        half = np.array([one.box.w, one.box.h]) * unit / 2
        box = np.concatenate([centre - half, centre + half])
        box = box.clip(0, [pixels.w, pixels.h] * 2)
        rows += [
            [label, one.prob[label], *box]
            for label in range(model.num_classes)
            if one.prob[label] > score
        ]
    return np.array(sorted(rows)).reshape(-1, 6)


def _lively(model: Detector) -> Detector:
    """Random weights whose batch norms and heads are not at rest."""
    torch.manual_seed(1)
    for module in model.modules():
        if hasattr(module, "running_var"):
            nn.init.normal_(module.running_mean, 0, 0.2)  # pyright: ignore
            nn.init.uniform_(module.running_var, 0.5, 1.5)  # pyright: ignore
            nn.init.normal_(module.weight, 1, 0.1)  # pyright: ignore
            nn.init.normal_(module.bias, 0, 0.1)  # pyright: ignore
    return model.eval()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options", "image", "score"),
    [  # Images whose last row Darknet's resizing does not lose to rounding (it becomes black)
        ("yolov1_tiny", {"size": 448}, (224, 224), 0.2),
        ("yolov1_tiny", {"size": 448, "input_range": "-1..1"}, (224, 224), 0.2),
        ("yolov2_tiny", {"size": (160, 224), "resize": "letterbox"}, (170, 120), 0.3),
        (
            "yolov2_tiny",
            {"size": (160, 224), "resize": "letterbox", "batch_norm": False},
            (170, 120),
            0.3,
        ),
        (
            "yolov2",
            {"size": 96, "resize": "letterbox", "release": "later", "width": 0.25},
            (170, 120),
            0.3,
        ),
        ("yolov3_tiny", {"size": (224, 160)}, (180, 120), 0.4),
        ("yolov3_spp", {"size": 96, "width": 0.25, "backbone": "darknet19"}, (170, 120), 0.4),
    ],
)
def test_darknet_finds_what_we_find(
    darknet: Any,
    tmp_path: Path,
    name: str,
    options: dict[str, Any],
    image: tuple[int, int],
    score: float,
) -> None:
    model = _lively(create_model(name, classes=["cat", "dog", "cow"], **CPU, **options))
    export_darknet(model, tmp_path / "net.weights")
    noise = np.random.default_rng(0).integers(0, 256, (12, 17, 3), np.uint8)
    file = tmp_path / "image.png"
    Image.fromarray(noise).resize(image, Image.Resampling.BILINEAR).save(file)
    theirs = _found(darknet, tmp_path / "net.weights", file, model, score)
    ours = model.detect(file, score=score)
    mine = np.column_stack([ours.labels, ours.scores, ours.boxes])
    mine = np.array(sorted(mine.tolist())).reshape(-1, 6)
    assert len(theirs) > 3
    assert mine.shape == theirs.shape
    # Equal scores may come in either order: each of theirs has one of ours beside it.
    near = np.abs(mine[:, None] - theirs[None])
    close = (near[..., 0] == 0) & (near[..., 1] < 1e-4) & (near[..., 2:] < 0.05).all(-1)
    assert close.any(0).all()
    assert close.any(1).all()


@pytest.mark.data
@pytest.mark.parametrize("index", range(4))
def test_darknet_finds_what_we_find_by_the_authors_weights(
    darknet: Any, shared_data: Path, index: int
) -> None:
    """YOLOv3-tiny as released, on photos of COCO."""
    folder = shared_data / "published"
    model = import_darknet(
        folder / "yolov3-tiny.weights",
        cfg=folder / "yolov3-tiny.cfg",
        names=folder / "coco.names",
        **CPU,
    ).eval()
    photo = sorted((shared_data / "coco_mini" / "val2017").glob("*.jpg"))[index]
    theirs = _found(darknet, folder / "yolov3-tiny.weights", photo, model, 0.25)
    ours = model.detect(photo, score=0.25)
    mine = np.column_stack([ours.labels, ours.scores, ours.boxes]).reshape(-1, 6)
    near = np.abs(mine[:, None] - theirs[None])
    assert len(ours) > 0
    close = (near[..., 0] == 0) & (near[..., 1] < 1e-3) & (near[..., 2:] < 0.05).all(-1)
    assert close.any(0).all()
    assert close.any(1).all()
