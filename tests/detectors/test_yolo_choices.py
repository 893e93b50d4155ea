"""What the options of YOLO, YOLOv2, YOLO9000 and YOLOv3 do: ideas, those that idle, bounds."""

from __future__ import annotations

import typing
from typing import Any

import pytest
import torch
from pydantic import BaseModel

from boxatlas.backbones.darknet import Darknet
from boxatlas.detectors import yolo9000, yolov1, yolov2, yolov3
from boxatlas.detectors.yolo9000 import YOLO9000
from boxatlas.detectors.yolov1 import YOLOv1
from boxatlas.errors import InputError
from boxatlas.structures import Batch, Frame, Targets
from boxatlas.training import find_recipe
from boxatlas.zoo import build

TIMM = {"backbone": "timm/test_efficientnet"}
TREE = {**TIMM, "size": 96, "parents": (-1, 0, 0)}
# What a detector is made with -> the ideas that do nothing in it.
BASES: dict[str, tuple[str, dict[str, Any], set[str]]] = {
    "yolov1": ("yolov1", {**TIMM, "size": 128, "width": 0.02, "hidden": 16}, set()),
    "yolov1, released": (
        "yolov1",
        {
            **TIMM,
            "size": 128,
            "batch_norm": True,
            "boxes_per_cell": 2,
            "head": "direct",
            "input_range": "0..1",
            "width": 0.02,
        },
        set(),
    ),
    "yolov2": (
        "yolov2",
        {**TIMM, "size": 128, "width": 0.02},
        {"new_network", "hires_classifier", "hires_detector"},
    ),
    "yolov2, no size": (
        "yolov2",
        {**TIMM, "width": 0.02, "anchors": ((1, 2), (3, 1))},
        {"new_network", "hires_classifier", "dimension_priors"},
    ),
    "yolov2, Darknet-19": (
        "yolov2",
        {"size": 64, "width": 0.02, "pretrained": True},
        {"hires_detector"},
    ),
    "yolo9000": (
        "yolo9000",
        TREE,
        {
            "anchor_boxes",
            "batch_norm",
            "dimension_priors",
            "hires_classifier",
            "hires_detector",
            "new_network",
        },
    ),
    "yolo9000, no tree": (
        "yolo9000",
        {**TREE, "parents": None, "tower": 1, "width": 0.02},
        {
            "anchor_boxes",
            "class_loss",
            "dimension_priors",
            "hires_classifier",
            "hires_detector",
            "new_network",
            "tree_threshold",
        },
    ),
    "yolo9000, flat": (
        "yolo9000",
        {**TREE, "class_loss": "flat", "tree_decode": "last_over_half"},
        {
            "anchor_boxes",
            "batch_norm",
            "dimension_priors",
            "hires_classifier",
            "hires_detector",
            "new_network",
        },
    ),
    "yolov3": ("yolov3", {**TIMM, "size": 96, "width": 0.05}, set()),
    "yolov3, none spared": (
        "yolov3",
        {**TIMM, "size": 96, "width": 0.05, "ignore_rule": "none"},
        {"ignore_iou"},
    ),
    "yolov3, all spared": (
        "yolov3",
        {**TIMM, "size": 96, "width": 0.05, "ignore_iou": 1.0},
        {"ignore_rule"},
    ),
}


# Other values of settings, of which those that idle are tried.
SETTINGS = {
    "fold_norms": True,
    "hidden": 8,
    "dropout": 0.1,
    "input_range": "0..1",
    "variant": "released",
    "anchor_set": "coco",
    "release": "later",
    "width": 0.5,
}


def small(name: str, options: dict[str, Any]) -> Any:
    torch.manual_seed(0)
    return build(name, ("a", "b", "c"), options)


def batch(model: Any) -> Batch:
    """Two images; the objects are in the first; for YOLO9000 the second has a label alone."""
    height, width = model.preprocess.size if isinstance(model, YOLOv1) else (96, 96)
    scale = torch.tensor([width, height, width, height]) / 96
    boxes = torch.tensor([[8.0, 8, 40, 44], [10.0, 8, 44, 44], [50.0, 40, 90, 90]]) * scale
    targets = Targets.collate(
        [boxes, boxes[:0]],
        [torch.arange(3), torch.arange(0)],
        image_label=[-1, 2 if isinstance(model, YOLO9000) else -1],
    )
    images = torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(1))
    return Batch(images, [Frame((height, width), (height, width))] * 2, targets)


@torch.no_grad()
def about(name: str, options: dict[str, Any]) -> list[Any]:
    """All that an idea may change: tensors, inputs, outputs, losses, detections, training."""
    model = small(name, options).eval()
    data = batch(model)
    plain = model(data.images)
    noise = torch.Generator().manual_seed(2)
    raw = {k: torch.rand(v.shape, generator=noise) * 2 for k, v in plain.items()}
    model.forward = lambda *_: raw  # the same outputs, so that what is made of them is compared
    losses = {k: v.item() for k, v in model.loss(data).items()}
    detections = [
        [d.boxes.tolist(), d.scores.tolist(), d.labels.tolist()]
        for d in model.postprocess(raw, data.frames, score=0.001)
    ]
    return [
        {k: tuple(v.shape) for k, v in model.state_dict().items()},
        model.preprocess,
        {k: v.tolist() for k, v in plain.items()},
        losses,
        detections,
        model.training_sizes(),
        getattr(model.backbone, "weights_file", None),
        model.config.oversampling if isinstance(model, YOLO9000) else None,  # test_boxes_are_...
    ]


def alternatives(config: BaseModel, idea: str) -> list[Any]:
    """Other values of an idea."""
    value, annotation = getattr(config, idea), type(config).model_fields[idea].annotation
    kinds = (annotation, *typing.get_args(annotation))
    if bool in kinds:
        return [other for other in (True, False) if other != value]
    words = [w for kind in kinds for w in typing.get_args(kind) if isinstance(w, str)]
    words += [kind for kind in kinds if isinstance(kind, str)]
    if words:
        return [word for word in words if word != value]
    return [other for other in (0.05, 0.5, 0.95) if other != value]


@pytest.fixture
def no_download(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which file of ImageNet weights a backbone would take, written down instead."""

    def note(self: Darknet, weights: str | None = None) -> None:
        self.weights_file = weights or self.name

    monkeypatch.setattr(Darknet, "load_pretrained", note)


@pytest.mark.usefixtures("no_download")
@pytest.mark.parametrize("base", BASES)
def test_ideas_that_idle_change_nothing_and_all_others_change_something(base: str):
    name, options, idle = BASES[base]
    model = small(name, options)
    config = model.config
    assert set(config.idle()) & set(config.kinds("idea")) == idle
    before = about(name, options)
    assert before == about(name, options)
    wrong = []
    for idea in config.kinds("idea"):
        changes = [
            about(name, {**options, idea: other}) != before for other in alternatives(config, idea)
        ]
        assert changes, idea
        if any(changes) == (idea in idle):
            wrong.append(idea)
    for setting in config.kinds("setting"):
        if setting in config.idle() and setting in SETTINGS:
            wrong += [setting] * (about(name, {**options, setting: SETTINGS[setting]}) != before)
    assert not wrong


def test_without_anchor_boxes_yolov2_says_what_yolo_has_not(no_download: None):
    """And compares at the size that is asked for: 416 gives 7 x 7 cells, as 448 does."""
    options = {"anchor_boxes": False, "size": 416, "width": 0.02}
    model = small("yolov2", options).eval()
    assert isinstance(model, YOLOv1)
    assert (model.side, model.preprocess.size) == (7, (416, 416))
    with torch.no_grad():
        raw = model(torch.zeros(1, 3, 416, 416))
    assert raw["raw"].shape == (1, 49 * (3 + 2 * 5))
    idle = model.idle()
    used = {"batch_norm", "new_network", "anchor_boxes", "width", "nms_iou", "coord_scale"}
    assert not used & set(idle)
    for name, other in (
        ("dimension_priors", False),
        ("location_prediction", False),
        ("passthrough", False),
        ("multi_scale", False),
        ("hires_classifier", False),
        ("objectness_target", "one"),
        ("tower", 1),
        ("object_scale", 1.0),
    ):
        assert name in idle
        again = small("yolov2", {**options, name: other})
        assert about_yolo(again) == about_yolo(model), name
        with pytest.raises(InputError, match=f"{name}: does nothing in yolov2: without anchor_box"):
            find_recipe("yolov2", ["model.anchor_boxes=false", f"model.{name}={other}".lower()])


def about_yolo(model: YOLOv1) -> list[Any]:
    weights = {k: (tuple(v.shape), v.double().sum().item()) for k, v in model.state_dict().items()}
    return [weights, model.preprocess, model.config]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("yolov3", {"anchors": ((10, 10),)}, "anchors: 3 maps share them"),
        ("yolov3", {"anchors": ((10, 10),) * 10}, "anchors: 3 maps share them"),
        ("yolov3", {"masks": ((0, 0), (1,), (2,))}, "masks: names an anchor twice for a map"),
        ("yolov3", {"masks": ((0,), (1,))}, "masks: 3 maps need some of the 9 anchors each"),
        ("yolo9000", {"parents": (-1, 5, 0)}, r"parents.1: a parent must come .* \(got 5\)"),
        ("yolo9000", {"parents": (-1, 0, -1)}, "parents.2: siblings must lie together"),
        ("yolo9000", {"parents": (-1,)}, r"parents: 1 nodes for 3 classes \(got \(-1,\)\)"),
        ("yolo9000", {"parents": (-1, 0, 0), "ids": ("a",)}, "ids: 1 for the 3 nodes"),
        ("yolo9000", {"tree_names": "words.txt"}, "tree_names: .* give tree too"),
        ("yolov1", {"size": 400}, "size: must be a multiple of 32"),
        ("yolov1_tiny", {"size": 416}, "size: must be a multiple of 64"),
        ("yolov2", {"size": [64]}, r"size: needs 2 values \(got \[64\]\)"),
    ],
)
def test_options_that_do_not_fit_are_one_line(name: str, options: dict[str, Any], message: str):
    with torch.device("meta"), pytest.raises(InputError, match=message) as raised:
        small(name, options)
    assert "\n" not in str(raised.value)


# -- bounds ---------------------------------------------------------------------------------------

NAN, INF = float("nan"), float("inf")
FRACTION = (-0.1, 1.1, NAN, INF)
NOT_NEGATIVE = (-0.1, NAN, INF)
COUNT = (-1, 1.5, NAN, INF)
BAD: dict[str, tuple[Any, ...]] = {
    **dict.fromkeys(
        ("score", "nms_iou", "ignore_iou", "truth_iou", "dropout", "tree_threshold"), FRACTION
    ),
    **dict.fromkeys(("coord_scale", "noobject_scale", "object_scale", "class_scale"), NOT_NEGATIVE),
    **dict.fromkeys(("norm_eps", "focal", "oversampling"), NOT_NEGATIVE),
    **dict.fromkeys(("largest_last", "prior_loss_images", "tower", "joined"), COUNT),
    **dict.fromkeys(("max_detections", "boxes_per_cell", "hidden"), (0, *COUNT)),
    "width": (0, *NOT_NEGATIVE),
    "objectness_prior": (0.0, 1.0, *FRACTION),
    "size": (0, *COUNT, (64, 0), (64, NAN), (64, INF), (64,)),
    "anchors": ((), ((1, 0),), ((NAN, 1),), ((1, INF),), ((1, 2, 3),), "clusters"),
    "masks": (((-1,),), ((0.5,),), ((NAN,),)),
    "parents": ((-2,), (0.5,), (INF,)),
    "words": ({"a": -1}, {"a": NAN}),
}
CONFIGS = {m.__name__.rsplit(".", 1)[-1]: m.Config for m in (yolov1, yolov2, yolo9000, yolov3)}


def holds_numbers(annotation: Any) -> bool:
    """Whether a value of this type is a number or has some."""
    if annotation in (int, float):
        return True
    if typing.get_origin(annotation) is typing.Literal:
        return False
    return any(holds_numbers(inner) for inner in typing.get_args(annotation))


@pytest.mark.parametrize("method", CONFIGS)
def test_out_of_range_nan_and_infinity_are_one_line_that_names_the_option(method: str):
    config = CONFIGS[method]
    numbers = {n for n, f in config.model_fields.items() if holds_numbers(f.annotation)}
    assert numbers <= set(BAD)
    for option in numbers:
        for value in BAD[option]:
            with pytest.raises(InputError) as error:
                config.of({option: value})
            text = str(error.value)
            assert text.startswith(option), (option, value, text)
            assert "\n" not in text


@pytest.mark.parametrize(
    ("config", "option", "kept"),
    [
        (yolov1.Config, "responsible", "iou_then_rmse"),
        (yolo9000.Config, "image_objectness", "push_to_0.3"),
        (yolo9000.Config, "image_background", "suppress_others"),
        (yolo9000.Config, "image_pick", "objectness_times_class"),
    ],
)
def test_a_habit_that_is_gone_may_still_say_what_is_done(config: Any, option: str, kept: str):
    assert config.of({option: kept}) == config.of()
    with pytest.raises(InputError, match=f"{option}: this option is gone"):
        config.of({option: "another"})
