"""What learns for which object, held against the papers' rules, and its picture."""

from __future__ import annotations

import importlib
import json
import pkgutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import boxatlas
from boxatlas import detectors, scenes
from boxatlas.boxes.formats import pairwise_iou
from boxatlas.boxes.matching import BACKGROUND, IGNORED, Assigned
from boxatlas.cli import main
from boxatlas.figures.assigned import batch_of, colour_of, counted, draw_assigned
from boxatlas.parts.base import Detector

PICTURE = np.full((320, 320, 3), 200, np.uint8)
OBJECTS = np.array([[10, 20, 110, 140], [150, 150, 300, 310], [200, 30, 230, 60]], np.float32)


def assigned(name: str, **options: Any) -> tuple[list[Assigned], torch.Tensor, Detector]:
    torch.manual_seed(0)
    model = boxatlas.create_model(name, num_classes=3, **options).eval()
    batch = batch_of(model, [PICTURE], [OBJECTS])
    return model.assigned(batch), batch.targets.boxes, model


def test_every_method_says_who_learns() -> None:
    kinds = [
        kind
        for module in pkgutil.iter_modules(detectors.__path__)
        for kind in vars(importlib.import_module(f"boxatlas.detectors.{module.name}")).values()
        if isinstance(kind, type) and issubclass(kind, Detector)
    ]
    own = [kind for kind in kinds if kind.__module__.startswith("boxatlas.detectors.")]
    assert len(own) >= 19
    assert not [kind.__name__ for kind in own if kind.assigned is Detector.assigned]


def test_ssd_takes_half_overlaps_and_one_box_of_its_own_for_each_object() -> None:
    """SSD, section 2.2."""
    (step,), objects, _ = assigned("ssdlite320_efficientnet_lite0", pretrained=False)
    iou = pairwise_iou(step.boxes, objects[0])  # [A, M]
    learn = step.index[0] >= 0
    half = iou.amax(1) >= 0.5
    assert bool(learn[half].all())
    extra = learn & ~half  # the best boxes of objects that no box overlaps by half
    assert int(extra.sum()) <= 3
    assert {0, 1, 2} == set(step.index[0][learn].tolist())
    assert bool((iou.argmax(1)[half] == step.index[0][half]).all())


def test_rpn_of_fpn_learns_from_seven_tenths_and_ignores_between() -> None:
    """Faster R-CNN, section 3.1.2; FPN, section 4.1."""
    (step, rois), objects, _ = assigned("faster_rcnn320_efficientnet_lite0_fpn", pretrained=False)
    iou = pairwise_iou(step.boxes[0], objects[0])
    best, index = iou.amax(1), step.index[0]
    assert bool((index[best >= 0.7] >= 0).all())
    assert bool((index[best < 0.3][index[best < 0.3] != IGNORED] != BACKGROUND).sum() <= 3)
    between = (best >= 0.3) & (best < 0.7) & (index < 0)
    assert bool((index[between] == IGNORED).all())
    assert rois.index[0, :3].tolist() == [0, 1, 2]  # the objects are among the RoIs
    assert torch.allclose(rois.boxes[0, :3], objects[0])


def test_yolo_gives_an_object_to_the_cell_of_its_centre() -> None:
    (step,), objects, _ = assigned("yolov1_tiny")
    side = 448 / 7
    centre = (objects[0, :, :2] + objects[0, :, 2:]) / 2
    cells = ((centre[:, 1] // side) * 7 + centre[:, 0] // side).long()
    assert step.index[0][cells].tolist() == [0, 1, 2]
    assert int((step.index >= 0).sum()) == 3
    corner = step.boxes[cells[0]]
    assert torch.allclose(corner[2:] - corner[:2], torch.tensor([side, side]))


def test_yolov3_gives_an_object_to_the_prior_of_its_shape_on_one_map() -> None:
    """An object of 30 x 30 in 320 is 39 wide at 416: nearest to the prior 33 x 23 or 30 x 61."""
    steps, objects, model = assigned("yolov3_tiny")
    assert [one.name for one in steps] == ["priors of stride 32", "priors of stride 16"]
    owners = [one.index[0][one.index[0] >= 0].tolist() for one in steps]
    assert sorted(owners[0] + owners[1]) == [0, 1, 2]
    for one in steps:
        for row in (one.index[0] >= 0).nonzero().flatten().tolist():
            mine = objects[0, int(one.index[0, row])]
            prior = one.boxes[row]
            shape = (prior[2:] - prior[:2]).prod() / (mine[2:] - mine[:2]).prod()
            assert 0.2 < float(shape) < 5
            middle = (mine[:2] + mine[2:]) / 2  # the cell holds the object's centre
            cell = (prior[:2] + prior[2:]) / 2
            assert float((middle - cell).abs().max()) <= 16
    sizes = [float((one.boxes[:, 2] - one.boxes[:, 0]).mean()) for one in steps]
    assert sizes[0] > sizes[1]
    assert model.anchor_count == 6


def test_svms_learn_the_objects_alone_and_leave_the_middle_out() -> None:
    """R-CNN, section 2.3: objects against boxes below IoU 0.3."""
    torch.manual_seed(0)
    model = boxatlas.create_model("rcnn_efficientnet_lite0", num_classes=3, pretrained=False)
    batch = batch_of(model, [PICTURE], [OBJECTS])
    moved = torch.tensor([[[10.0, 20, 110, 100], [10, 20, 110, 60], [0, 200, 60, 300]]])
    batch.proposals = moved * (batch.frames[0].scale[0])
    batch.valid = torch.ones(1, 3, dtype=torch.bool)
    tuned, svms = model.assigned(batch)
    # IoU of the three with the first object: 80/120, 40/120, 0.
    assert tuned.index[0].tolist() == [0, 1, 2, 0, BACKGROUND, BACKGROUND]
    assert svms.index[0].tolist() == [0, 1, 2, IGNORED, IGNORED, BACKGROUND]


def test_the_stages_of_a_cascade_ask_for_more() -> None:
    torch.manual_seed(0)
    model = boxatlas.create_model(
        "cascade_rcnn320_efficientnet_lite0_fpn", num_classes=3, pretrained=False, mode="integral"
    ).eval()
    batch = batch_of(model, [PICTURE], [OBJECTS])
    high = OBJECTS[0, 3] - OBJECTS[0, 1]
    low = [0.55, 0.65, 0.75]  # of its height: three boxes of these IoUs
    rows = [[OBJECTS[0, 0], OBJECTS[0, 1], OBJECTS[0, 2], OBJECTS[0, 1] + f * high] for f in low]
    batch.proposals = batch.frames[0].apply(torch.tensor(np.array(rows, np.float32)))[None]
    batch.valid = torch.ones(1, 3, dtype=torch.bool)
    stages = model.assigned(batch)[1:]
    learn = [(one.index[0, 3:6] >= 0).tolist() for one in stages]
    assert learn == [[True, True, True], [False, True, True], [False, False, True]]


def test_the_picture_shows_a_box_in_its_objects_colour() -> None:
    boxes = torch.tensor([[40.0, 40, 80, 80], [100, 100, 140, 140], [10, 10, 20, 20]])
    step = Assigned("anchors", boxes, torch.tensor([[1, IGNORED, BACKGROUND]]))
    objects = torch.tensor([[0.0, 0, 0, 0], [45, 45, 85, 85]])
    white = np.full((200, 200, 3), 255, np.uint8)
    picture = np.asarray(draw_assigned(white, step, objects, side=200)).astype(int)
    red = picture[..., 0] - picture[..., 2] > 60  # what `colour_of(1)` is and paper is not
    assert colour_of(1)[0] - colour_of(1)[2] > 60
    assert red[40, 50:75].all()
    assert red[50:75, 40].all()
    assert not red[90:, 90:].any()
    assert (picture[116:125, 116:125] < 200).any()  # the cross of the ignored one
    assert (picture[5:30, 5:30] > 240).all()  # background is not drawn
    assert counted(step) == "anchors: 1 of 3 learn for an object, 1 is ignored"


def run(*arguments: str) -> int:
    """The exit code of a command."""
    with pytest.raises(SystemExit) as stop:
        main(list(arguments))
    return int(stop.value.code or 0)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    scenes.write(folder, {"train": 2, "val": 1, "test": 1})
    return folder


def test_view_assigned_writes_a_sheet_and_counts(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "a.png"
    arguments = ["--assigned", "yolov2_tiny", "--split", "train", "--out", str(out), "--json"]
    assert run("data", "view", str(photos), *arguments) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["picture"] == str(out)
    assert {one["boxes"] for one in document["steps"]} == {13 * 13 * 5}
    assert all(sum(one["of_object"]) == one["learn"] for one in document["steps"])
    with Image.open(out) as picture:
        assert picture.width > 300


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--assigned", "nothing_of_the_kind"], "nothing_of_the_kind"),
        (["--assigned", "ssd300_vgg16", "--augmented", "ssd"], "--augmented"),
    ],
)
def test_view_assigned_refuses(
    photos: Path, tmp_path: Path, arguments: list[str], words: str, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "b.png"
    assert run("data", "view", str(photos), "--out", str(out), *arguments) == 2
    error = capsys.readouterr().err
    assert words in error
    assert len(error.strip().splitlines()) == 1
    assert not out.exists()
