"""Fine-tuned checkpoints of other programs: names and colours come along, and they train on."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from foreign import (
    CLASSES,
    SMALL,
    state_of,
    write_detectron2,
    write_mmdet_2,
    write_mmdet_3,
    write_torchvision,
)
from torch import Tensor

import boxatlas
from boxatlas import scenes
from boxatlas.cli import main
from boxatlas.errors import InputError
from boxatlas.structures import Batch, Targets
from boxatlas.training.prepare import detector_of, resolve_init
from boxatlas.training.recipe import Recipe
from boxatlas.weights import import_model, load
from boxatlas.weights.darknet import export_darknet
from boxatlas.weights.detectron2 import PREPROCESS as D2_COLOURS
from boxatlas.weights.detectron2 import PROFILE as D2
from boxatlas.weights.detectron2 import RETINANET as D2_RETINANET
from boxatlas.weights.mmdet import PROFILE as MMDET
from boxatlas.weights.mmdet import RETINANET as MMDET_RETINANET
from boxatlas.weights.reading import read_state
from boxatlas.weights.torchvision import FASTER_RCNN

REGION: dict[str, Any] = {**SMALL, "box_width": 32}


def _same(detector: boxatlas.Detector, original: boxatlas.Detector) -> bool:
    own = original.state_dict()
    return all(torch.equal(v, own[k]) for k, v in detector.state_dict().items())


def test_mmdetection_3_brings_names_colours_sizes_anchors_and_thresholds(tmp_path: Path) -> None:
    original, state = state_of("mmdet", "faster_rcnn_r50_fpn", **MMDET, **REGION)
    write_mmdet_3(tmp_path / "epoch_12.pth", state)
    found = import_model(
        tmp_path / "epoch_12.pth", source="mmdet", as_="faster_rcnn_r50_fpn", **REGION
    )
    assert found.classes == CLASSES
    assert _same(found, original)  # not the average, whose file says that it holds the others
    fit, config = found.preprocess, found.config.model_dump()
    assert (fit.channels, fit.mean, fit.std) == ("bgr", (103.53, 116.28, 123.675), (1, 1, 1))
    assert (fit.size, fit.multiple) == ((192, 320), 16)
    assert config["anchor_sizes"] == (16, 32, 64, 128, 256)  # scale 4 of strides 4 to 64
    assert (config["score"], config["nms_iou"], config["max_detections"]) == (0.1, 0.6, 50)
    assert config["proposals_detect"] == (500, 300)


def test_mmdetection_2_brings_them_too(tmp_path: Path) -> None:
    original, state = state_of("mmdet", "retinanet_r50_fpn", **MMDET_RETINANET, **SMALL)
    write_mmdet_2(tmp_path / "latest.pth", state)
    found = import_model(tmp_path / "latest.pth", source="mmdet", as_="retinanet_r50_fpn", **SMALL)
    assert found.classes == CLASSES
    assert _same(found, original)
    assert found.preprocess.mean == (100, 110, 120)
    assert found.preprocess.channels == "rgb"
    assert found.preprocess.size == (200, 320)
    config = found.config.model_dump()
    first = (24, 24 * 2 ** (1 / 3), 24 * 2 ** (2 / 3))  # octave_base_scale 3 of stride 8
    assert config["anchor_sizes"][0] == pytest.approx(first)
    assert (config["score"], config["nms_iou"], config["max_detections"]) == (0.07, 0.45, 70)


def test_names_that_are_not_the_networks_are_asked_for(tmp_path: Path) -> None:
    _, state = state_of("mmdet", "faster_rcnn_r50_fpn", **MMDET, **REGION)
    write_mmdet_3(tmp_path / "x.pth", state, classes=("ant", "bee"))
    arguments = {"source": "mmdet", "as_": "faster_rcnn_r50_fpn", **REGION}
    with pytest.raises(InputError, match="its data has 2 classes, its network 3"):
        import_model(tmp_path / "x.pth", **arguments)
    named = import_model(tmp_path / "x.pth", classes=["a", "b", "c"], **arguments)
    assert named.classes == ("a", "b", "c")


@pytest.mark.parametrize("text", ["model = dict(", "x" * 9, "a = " + "(" * 300, "model = 3", None])
def test_a_configuration_that_cannot_be_read_is_passed_over(text: Any, tmp_path: Path) -> None:
    _, state = state_of("mmdet", "faster_rcnn_r50_fpn", **MMDET, **REGION)
    torch.save({"meta": {"cfg": text}, "state_dict": state}, tmp_path / "x.pth")
    found = import_model(tmp_path / "x.pth", source="mmdet", as_="faster_rcnn_r50_fpn", **REGION)
    assert found.preprocess.mean == (123.675, 116.28, 103.53)


def test_detectron2_keeps_its_colours_and_strides(tmp_path: Path) -> None:
    original, state = state_of("detectron2", "faster_rcnn_r50_fpn", **D2, **REGION)
    write_detectron2(tmp_path / "model_final.pth", state)
    found = import_model(
        tmp_path / "model_final.pth",
        source="detectron2",
        as_="faster_rcnn_r50_fpn",
        classes=CLASSES,
        **REGION,
    )
    assert _same(found, original)
    assert found.preprocess.channels == "bgr"
    assert found.config.model_dump()["stride_in_1x1"]


def test_torchvisions_reference_script(tmp_path: Path) -> None:
    """Its arguments are an object, which is passed over; its own classes begin after 0."""
    original, state = state_of(
        "torchvision", "faster_rcnn_r50_fpn", **FASTER_RCNN, norm_eps=0.0, **REGION
    )
    write_torchvision(tmp_path / "model_25.pth", state)
    found = import_model(
        tmp_path / "model_25.pth",
        source="torchvision",
        as_="faster_rcnn_r50_fpn",
        classes=CLASSES,
        **REGION,
    )
    assert _same(found, original)
    assert found.preprocess.truncate


@pytest.mark.parametrize(
    "prefix",
    ["module.", "_orig_mod.", "model.", "model._orig_mod.", "_orig_mod.module.", "module.model."],
)
def test_prefixes_of_wrapped_models(prefix: str, tmp_path: Path) -> None:
    """DDP's, torch.compile's, Lightning's (whose file has more beside the weights)."""
    state = {f"{prefix}conv.weight": torch.ones(2), f"{prefix}conv.bias": torch.zeros(1)}
    torch.save(
        {"epoch": 3, "state_dict": state, "hyper_parameters": {"lr": 0.1}, "callbacks": {}},
        tmp_path / "last.ckpt",
    )
    assert set(read_state(tmp_path / "last.ckpt")) == {"conv.weight", "conv.bias"}


class Stranger:
    """A class of a module that is no toolbox's."""


def test_objects_of_strangers_are_still_refused(tmp_path: Path) -> None:
    torch.save({"model": {"w": torch.zeros(1)}, "args": Stranger()}, tmp_path / "x.pth")
    with pytest.raises(InputError, match="could run code"):
        read_state(tmp_path / "x.pth")


# -- RetinaNet of Detectron2 and mmdetection ------------------------------------------------------

Layer = Callable[..., Tensor]


def _convolved(state: dict[str, Tensor]) -> Layer:
    def layer(x: Tensor, name: str, stride: int = 1) -> Tensor:
        weight = state[f"{name}.weight"]
        return F.conv2d(x, weight, state[f"{name}.bias"], stride, weight.shape[-1] // 2)

    return layer


def _pyramid(layer: Layer, maps: list[Tensor], lateral: list[str], output: list[str]) -> Any:
    inner = [layer(x, name) for x, name in zip(maps, lateral, strict=True)]
    for i in (1, 0):
        inner[i] = inner[i] + F.interpolate(inner[i + 1], size=inner[i].shape[-2:])
    return [layer(x, name) for x, name in zip(inner, output, strict=True)]


def _rows(x: Tensor, columns: int) -> Tensor:
    """[B, A * columns, H, W] -> [B, H * W * A, columns], as both programs permute."""
    b, _, h, w = x.shape
    return x.view(b, -1, columns, h, w).permute(0, 3, 4, 1, 2).reshape(b, -1, columns)


@pytest.mark.parametrize("source", ["detectron2", "mmdet"])
def test_retinanets_tensors_take_their_places(source: str, tmp_path: Path) -> None:
    """The pyramid and the subnets written out by the program's own names say the same."""
    profile = D2_RETINANET if source == "detectron2" else MMDET_RETINANET
    _, state = state_of(source, "retinanet_r50_fpn", **profile, **SMALL)
    for name, value in state.items():
        if "head" in name:
            value.normal_(std=0.05)
    torch.save({"model": state}, tmp_path / "x.pth")
    found = import_model(
        tmp_path / "x.pth", source=source, as_="retinanet_r50_fpn", classes=CLASSES, **SMALL
    ).eval()
    images, layer = torch.randn(1, 3, 128, 160), _convolved(state)
    with torch.no_grad():
        maps = found.backbone(images)  # pyright: ignore
        if source == "detectron2":
            lateral = [f"backbone.fpn_lateral{i}" for i in (3, 4, 5)]
            levels = _pyramid(layer, maps, lateral, [f"backbone.fpn_output{i}" for i in (3, 4, 5)])
            p6 = layer(maps[-1], "backbone.top_block.p6", 2)
            levels += [p6, layer(p6.relu(), "backbone.top_block.p7", 2)]
            subnets = [(f"head.{kind}_subnet.{{}}", 2) for kind in ("cls", "bbox")]
            last = ("head.cls_score", "head.bbox_pred")
        else:
            lateral = [f"neck.lateral_convs.{i}.conv" for i in range(3)]
            levels = _pyramid(layer, maps, lateral, [f"neck.fpn_convs.{i}.conv" for i in range(3)])
            p6 = layer(maps[-1], "neck.fpn_convs.3.conv", 2)
            levels += [p6, layer(p6, "neck.fpn_convs.4.conv", 2)]  # no ReLU between them
            subnets = [(f"bbox_head.{kind}_convs.{{}}.conv", 1) for kind in ("cls", "reg")]
            last = ("bbox_head.retina_cls", "bbox_head.retina_reg")
        wanted = []
        for (subnet, step), end, columns in zip(subnets, last, (len(CLASSES), 4), strict=True):
            outputs = []
            for x in levels:
                for i in range(4):
                    x = layer(x, subnet.format(step * i)).relu()
                outputs.append(_rows(layer(x, end), columns))
            wanted.append(torch.cat(outputs, 1))
        raw = found(images)
    torch.testing.assert_close(raw["logits"], wanted[0], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(raw["deltas"], wanted[1], rtol=1e-4, atol=1e-4)
    # Detectron2: a size's three ratios stand together; mmdetection: a ratio's three sizes.
    sides = raw["anchors"][:9, 2:] - raw["anchors"][:9, :2]
    ratios = (sides[:, 1] / sides[:, 0]).tolist()
    usual = [0.5, 1.0, 2.0] * 3 if source == "detectron2" else [0.5] * 3 + [1.0] * 3 + [2.0] * 3
    assert ratios == pytest.approx(usual)
    assert math.isclose(float(sides[0].prod()), 32.0**2, rel_tol=1e-4)


# -- trained on -----------------------------------------------------------------------------------


def test_an_imported_detector_is_trained_as_it_was_imported(tmp_path: Path) -> None:
    """Its habits and colours are the new one's too; what the recipe gives itself wins."""
    _, state = state_of("detectron2", "faster_rcnn_r50_fpn", **D2, **REGION)
    write_detectron2(tmp_path / "model_final.pth", state)
    imported = import_model(
        tmp_path / "model_final.pth",
        source="detectron2",
        as_="faster_rcnn_r50_fpn",
        classes=CLASSES,
        **REGION,
    )
    imported.save(tmp_path / "imported.safetensors")
    start = Recipe.of(
        model="faster_rcnn_r50_fpn",
        init=str(tmp_path / "imported.safetensors"),
        options={"size": 96},
        iterations=1,
    )
    recipe = resolve_init(start)
    assert recipe.options["stride_in_1x1"] is True
    assert recipe.options["size"] == 96
    colours = {k: v for k, v in D2_COLOURS.items() if k != "multiple"}  # ours is 32 as well
    assert {
        k: tuple(v) if isinstance(v, list) else v for k, v in recipe.preprocess.items()
    } == colours
    assert resolve_init(recipe) == recipe
    detector, said = detector_of(recipe, ("bee", "wasp"))
    assert detector.preprocess.channels == "bgr"
    assert detector.preprocess.size == (96, 160)
    bee = detector.state_dict()["predictor.cls.weight"][1]
    assert torch.equal(bee, imported.state_dict()["predictor.cls.weight"][2])
    assert "weights of" in said[0]


def _trains(detector: boxatlas.Detector, steps: int = 8) -> None:
    """Some steps by its own loss on a scene make the loss of that scene smaller."""
    scene = scenes.make(3, (128, 160))
    images, frames = detector.preprocess.batch([scene.image])
    boxes = frames[0].apply(torch.from_numpy(scene.boxes))
    labels = torch.zeros(len(boxes), dtype=torch.int64)
    batch = Batch(images, frames, Targets.collate([boxes], [labels]))
    learned = [p for p in detector.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(learned, lr=2e-3, momentum=0.9)
    costs: list[float] = []
    for _ in range(steps):
        losses = detector.loss(batch, torch.Generator().manual_seed(0))
        cost = torch.stack(list(losses.values())).sum()
        costs.append(float(cost.detach()))
        optimizer.zero_grad()
        cost.backward()
        torch.nn.utils.clip_grad_norm_(learned, 1.0)
        optimizer.step()
    assert costs[-1] < costs[0]


def test_ssd_pytorch(tmp_path: Path) -> None:
    """A state dict alone; on the table of VOC's sizes, where its config was edited for three."""
    from boxatlas.weights.amdegroot import PROFILE

    original, state = state_of("amdegroot", "ssd300_vgg16", **PROFILE, boxes="voc")
    torch.save(state, tmp_path / "ssd300_ANTS_5000.pth")
    arguments = {"source": "amdegroot", "as_": "ssd300_vgg16", "classes": CLASSES}
    usual = import_model(tmp_path / "ssd300_ANTS_5000.pth", **arguments)
    found = import_model(tmp_path / "ssd300_ANTS_5000.pth", **arguments, boxes="voc")
    assert _same(found, original)
    assert found.config == original.config
    assert usual.config.model_dump()["boxes"] == "coco"  # as the port has it for any but 20 classes
    _trains(found, steps=2)


def test_darknet(tmp_path: Path) -> None:
    """A cfg of one's own classes and size, its names, and the last weights of a run."""
    torch.manual_seed(0)
    original = boxatlas.create_model("yolov3_tiny", classes=CLASSES, size=96).eval()
    original.images_seen.fill_(6400)
    export_darknet(original, tmp_path / "yolov3-tiny-ants_last.weights")
    found = import_model(
        tmp_path / "yolov3-tiny-ants_last.weights",
        source="darknet",
        as_="",
        cfg=tmp_path / "yolov3-tiny-ants_last.cfg",
        names=tmp_path / "yolov3-tiny-ants_last.names",
    )
    assert found.classes == CLASSES
    assert found.preprocess.size == (96, 96)
    assert int(found.images_seen) == 6400
    picture = scenes.make(1, (96, 96)).image
    assert torch.equal(
        found.detect(picture, score=0).boxes, original.detect(picture, score=0).boxes
    )
    _trains(found)


@pytest.mark.parametrize(
    ("source", "model", "write", "profile"),
    [
        ("mmdet", "faster_rcnn_r50_fpn", write_mmdet_3, {**MMDET, "box_width": 32}),
        ("mmdet", "retinanet_r50_fpn", write_mmdet_2, MMDET_RETINANET),
        ("detectron2", "faster_rcnn_r50_fpn", write_detectron2, {**D2, "box_width": 32}),
        ("detectron2", "retinanet_r50_fpn", write_detectron2, D2_RETINANET),
        (
            "torchvision",
            "faster_rcnn_r50_fpn",
            write_torchvision,
            {**FASTER_RCNN, "norm_eps": 0.0, "box_width": 32},
        ),
    ],
)
def test_each_learns(
    source: str, model: str, write: Any, profile: dict[str, Any], tmp_path: Path
) -> None:
    _, state = state_of(source, model, **profile, **SMALL)
    write(tmp_path / "x.pth", state)
    small = {**SMALL, "size": (128, 160), **({"box_width": 32} if "faster" in model else {})}
    _trains(import_model(tmp_path / "x.pth", source=source, as_=model, classes=CLASSES, **small))


def test_by_the_command_line_from_mmdetection_to_a_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """import and train; --set says what a file does not tell: here, how small it is."""
    _, state = state_of("mmdet", "faster_rcnn_r50_fpn", **MMDET, **REGION)
    write_mmdet_3(tmp_path / "epoch_12.pth", state)
    scenes.write(tmp_path / "data", {"train": 4}, size=(96, 128))
    out, run = tmp_path / "ants.safetensors", tmp_path / "run"
    small = [word for name, value in REGION.items() for word in ("--set", f"{name}={value}")]
    words = ["weights", "import", tmp_path / "epoch_12.pth", "--source", "mmdet"]
    words += ["--as", "faster_rcnn_r50_fpn"]
    assert _say(*words, "--out", out) == 2  # another network
    assert "layer1.0.conv3" in capsys.readouterr().err  # which a ResNet-18 lacks
    assert not out.exists()
    assert _say(*words, *small, "--set", "model.classes=[a]", "--out", out) == 2
    assert "no option" in capsys.readouterr().err
    assert _say(*words, *small, "--out", out, "--json") == 0
    assert json.loads(capsys.readouterr().out)["classes"] == list(CLASSES)
    values = ["iterations=2", "batch=2", f"init={out}", "model.size=96", "model.train_sizes=[]",
              "workers=0", "val_split=none"]  # fmt: skip
    settings = [word for value in values for word in ("--set", value)]
    assert _say("train", "faster_rcnn_r50_fpn", "--data", tmp_path / "data", "--out", run,
                *settings) == 0  # fmt: skip
    trained = load(run)
    assert trained.preprocess.channels == "bgr"
    assert trained.preprocess.mean == (103.53, 116.28, 123.675)
    assert trained.classes == tuple(scenes.CLASSES)
    assert trained.config.model_dump()["anchor_sizes"] == (16, 32, 64, 128, 256)


def _say(*arguments: object) -> int:
    try:
        main([str(argument) for argument in arguments])
    except SystemExit as end:
        return int(end.code or 0)
    return 0
