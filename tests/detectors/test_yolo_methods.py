"""YOLO, YOLOv2, YOLO9000 and YOLOv3 whole, at a tiny size: numbers, two steps, save and load."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import boxatlas
from boxatlas import evaluation, scenes
from boxatlas.backbones.darknet import Darknet
from boxatlas.data import make_loader, read
from boxatlas.detectors.yolo9000 import YOLO9000
from boxatlas.detectors.yolov1 import YOLOv1
from boxatlas.errors import InputError
from boxatlas.structures import Batch, Frame, Targets

TIMM = {"backbone": "timm/test_efficientnet"}
TINY: dict[str, dict[str, Any]] = {
    "yolov1": {**TIMM, "size": 128, "width": 0.02, "hidden": 16},
    "yolov1_tiny": {"size": 64, "width": 0.02},
    "yolov2": {**TIMM, "size": 96, "width": 0.02},
    "yolov2_tiny": {"size": 64, "width": 0.02},
    "yolo9000": {**TIMM, "size": 96, "parents": (-1, 0, 0)},
    "yolov3": {**TIMM, "size": 96, "width": 0.05},
    "yolov3_spp": {**TIMM, "size": 96, "width": 0.05},
    "yolov3_tiny": {"size": 64, "width": 0.05},
}


def tiny(name: str, classes: Any = ("a", "b", "c"), **options: Any) -> Any:
    torch.manual_seed(0)
    return boxatlas.create_model(name, classes=classes, **{**TINY[name], **options})


def batch(model: Any, labelled: bool = False) -> Batch:
    """Two images; the objects are all in the first; the second may have a label alone."""
    # Only YOLO is bound to its own size.
    height, width = model.preprocess.size if isinstance(model, YOLOv1) else (96, 96)
    generator = torch.Generator().manual_seed(1)
    scale = torch.tensor([width, height, width, height]) / 96
    boxes = torch.tensor([[8.0, 8, 40, 44], [10.0, 8, 44, 44], [50.0, 40, 90, 90]]) * scale
    targets = Targets.collate(
        [boxes, boxes[:0]],
        [torch.arange(3), torch.arange(0)],
        image_label=[-1, 2 if labelled else -1],
    )
    images = torch.randn(2, 3, height, width, generator=generator)
    return Batch(images, [Frame((height, width), (height, width))] * 2, targets)


@pytest.mark.parametrize(("on", "file"), [(True, None), (False, "darknet19_224")])
def test_the_classifier_may_have_been_tuned_at_448(on: bool, file: str | None, monkeypatch):
    files: list[Any] = []
    monkeypatch.setattr(Darknet, "load_pretrained", lambda self, name=None: files.append(name))
    boxatlas.create_model(
        "yolov2", num_classes=2, pretrained=True, size=64, width=0.02, hires_classifier=on
    )
    assert files == [file]


# -- table 2 of YOLOv2 ----------------------------------------------------------------------------


def test_above_anchor_boxes_the_path_is_yolo_itself():
    old = {"anchor_boxes": False, "new_network": False, "size": 128, "width": 0.02}
    first = boxatlas.create_model("yolov2", num_classes=2, batch_norm=False, **old)
    assert isinstance(first, YOLOv1)
    assert first.config.backbone == "extraction"
    assert (first.config.normed, first.config.dropout) == (False, 0.5)
    light = boxatlas.create_model("yolov2_efficientnet_lite0", num_classes=2, anchor_boxes=False)
    assert light.config.shape == (320, 320)  # type: ignore[attr-defined]
    assert light.config.width == 0.25  # type: ignore[attr-defined]
    assert light.top[1].out_features == 1024  # type: ignore[index]
    normed = boxatlas.create_model("yolov2", num_classes=2, **old)
    assert (normed.config.normed, normed.config.dropout) == (True, 0.0)  # type: ignore[attr-defined]


def test_priors_are_clusters_hand_picked_or_given():
    assert len(tiny("yolov2").priors) == 5
    hand = tiny("yolov2", dimension_priors=False).priors
    # Faster R-CNN's 128, 256 and 512 pixels at three ratios, in cells
    assert hand.prod(1).sqrt().unique(dim=0).numel() >= 3
    assert len(hand) == 9
    assert tiny("yolov2", anchors=((1, 2),)).priors.tolist() == [[1, 2]]


@pytest.mark.parametrize(("hires", "side"), [(True, 544), (False, 416)])
def test_the_detectors_input(hires: bool, side: int):
    model = tiny("yolov2", size=None, hires_detector=hires)
    assert model.preprocess.size == (side, side)
    assert model.training_sizes()[0] == (320, 320)
    assert model.training_sizes()[-1] == (608, 608)


# -- numbers --------------------------------------------------------------------------------------


def test_yolos_order_of_numbers():
    """Classes of all cells, then confidences, then boxes: the score is confidence times class."""
    model = tiny("yolov1", size=64, boxes_per_cell=2)  # one cell
    raw = {"raw": torch.tensor([[0.1, 0.8, 0.0, 0.5, 0.9, *[0.5] * 4, 0.25, 0.75, 0.5, 0.4]])}
    boxes, confidence, scores = model.decode(raw)
    assert confidence[0].tolist() == pytest.approx([0.5, 0.9])
    assert scores[0, 1].tolist() == pytest.approx([0.09, 0.72, 0.0])
    assert boxes[0, 1].tolist() == pytest.approx([0.25, 0.75, 0.25, 0.16])  # sizes squared
    (found,) = model.postprocess(raw, [Frame((64, 64), (64, 64))], score=0.7)
    assert found.labels.tolist() == [1]
    assert found.boxes[0].tolist() == pytest.approx([8, 42.88, 24, 53.12], rel=1e-4)


def test_yolov3_gives_a_box_several_labels():
    model = tiny("yolov3_tiny")
    raw = {k: torch.full_like(v, -9.0) for k, v in model(torch.zeros(1, 3, 64, 64)).items()}
    one = raw["raw0"].view(1, 3, 8, 2, 2)
    one[0, 2, :, 1, 0] = torch.tensor([0.0, 0, math.log(0.1), math.log(0.1), 9, 9, -9, 9])
    (found,) = model.postprocess(raw, [Frame((64, 64), (64, 64))], score=0.5)
    assert sorted(found.labels.tolist()) == [0, 2]
    # Anchor 5 is 344 x 319, a tenth of it about the middle of cell (row 1, column 0) of 32.
    assert (
        found.boxes[0].tolist() == pytest.approx([16 - 17.2, 48 - 15.95, 33.2, 63.95], abs=0.01)
        or found.boxes[0, 0] == 0
    )


@pytest.mark.parametrize("prior", [0.01, 0.5])
def test_objectness_begins_at_its_prior(prior: float):
    model = boxatlas.create_model("yolov3_tiny", num_classes=2, objectness_prior=prior)
    for layer in model.heads:
        chances = layer.bias.view(-1, 5 + 2)[:, 4].sigmoid()  # x, y, w, h, objectness, classes
        assert torch.allclose(chances, torch.full_like(chances, prior))
        assert layer.bias.view(-1, 7)[:, [0, 1, 2, 3, 5, 6]].abs().max() == 0


def test_the_threshold_of_a_caller_is_reached_and_the_papers_exceeded():
    model = tiny("yolov1", size=64, boxes_per_cell=1)
    raw = {"raw": torch.tensor([[0.5, 0.0, 0.0, 0.5, 0.5, 0.5, 0.5, 0.5]])}
    frame = [Frame((64, 64), (64, 64))]
    assert len(model.postprocess(raw, frame, score=0.25)[0]) == 1
    exact = tiny("yolov1", size=64, boxes_per_cell=1, score=0.25)
    assert len(exact.postprocess(raw, frame)[0]) == 0


@pytest.mark.parametrize("name", ["yolov2", "yolov3"])
def test_any_multiple_of_32_and_no_other(name: str):
    model = tiny(name, size=(64, 160)).eval()
    raw = model(torch.zeros(1, 3, 64, 160))
    assert next(iter(raw.values())).shape[2:] == (2, 5)
    other = model(torch.zeros(1, 3, 96, 96))  # one network, whatever the size
    assert next(iter(other.values())).shape[2:] == (3, 3)
    with pytest.raises(InputError, match="multiple of 32"):
        tiny(name, size=100)


# -- learning -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    scenes.write(folder, {"train": 4, "val": 2}, seed=0, size=(96, 96))
    return folder


@pytest.mark.parametrize("name", TINY)
def test_two_steps_evaluate_detect_save_load(name: str, made: Path, tmp_path: Path):
    train, val = read(made, "train"), read(made, "val")
    own = {k: v for k, v in TINY[name].items() if k != "parents"}
    torch.manual_seed(0)
    model = boxatlas.create_model(name, classes=train.classes, **own)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    loader = make_loader(train, model.preprocess, batch_size=2, shuffle=False, seed=0)
    for given in loader.epoch(0):
        losses = model.train().loss(given, torch.Generator().manual_seed(0))
        assert all(v.ndim == 0 and torch.isfinite(v) for v in losses.values())
        optimizer.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        optimizer.step()
    assert all(p.grad is not None for p in model.parameters())  # nothing is left out
    assert any(not torch.equal(before[k], v) for k, v in model.state_dict().items())
    result = evaluation.evaluate(
        evaluation.predict(model.eval(), val, progress=False, max_detections=50), val
    )
    assert 0 <= result["mAP"] <= 1
    image = (torch.rand(3, 60, 80) * 255).to(torch.uint8)
    found = model.detect(image, score=0.02)
    model.save(tmp_path / "one.safetensors")
    back = boxatlas.load(tmp_path / "one.safetensors")
    again = back.detect(image, score=0.02)
    assert torch.equal(found.boxes, again.boxes)
    assert torch.equal(found.scores, again.scores)
    assert back.describe()["options"] == model.describe()["options"]


@pytest.mark.parametrize("name", TINY)
def test_images_without_objects_train_and_more_classes_are_carried_over(name: str):
    model = tiny(name).train()
    given = batch(model)
    given.targets.labels[:] = -1
    losses = model.loss(given)
    total = torch.stack(list(losses.values())).sum()
    total.backward()
    assert total.isfinite()
    assert losses["classes"] == 0
    state = model.state_dict()
    for key, row in model.class_rows().items():
        assert state[key].shape[0] == row.groups * (row.offset + 3 * row.width)


@pytest.mark.parametrize("name", [n for n in TINY if not n.startswith("yolov1")])
def test_every_map_has_class_rows(name: str):
    assert any(key.startswith("head") for key in tiny(name).class_rows())


# -- YOLO9000 -------------------------------------------------------------------------------------

WORDS = (
    "thing",
    "air",
    "animal",
    "car",
    "dog",
    "cat",
)  # thing over animal and car; animal over two
PARENTS = (-1, -1, 0, 0, 2, 2)


def of_words(**options: Any) -> YOLO9000:
    return tiny("yolo9000", WORDS, **{"parents": PARENTS, **options})


def test_an_image_with_a_label_teaches_its_path_at_one_place():
    model = of_words()
    given = batch(model, labelled=True)
    given.targets.image_label[1] = 4  # dog: groups of thing, animal, dog
    raw = model(given.images)["raw"].detach() + 0.1
    raw.requires_grad_()
    model.forward = lambda *_: {"raw": raw}  # type: ignore[method-assign]
    torch.stack(list(model.loss(given).values())).sum().backward()
    assert raw.grad is not None
    taught = raw.grad[1].unflatten(0, (3, 11))
    places = (taught[:, 5:].abs().sum(1) > 0).nonzero()
    assert len(places) == 1
    assert (taught[:, :4] == 0).all()  # no coordinates
    still = (taught[:, 4] == 0).nonzero()  # objectness: down everywhere but there, 0.3 and more
    assert still.tolist() == places.tolist()


def test_an_image_of_labels_alone_and_one_of_boxes_alone_train():
    model = of_words()
    both = batch(model, labelled=True)
    for keep in (slice(0, 1), slice(1, 2)):
        part = Batch(
            both.images[keep],
            both.frames[keep],
            Targets(
                both.targets.boxes[keep],
                both.targets.labels[keep],
                both.targets.ignore[keep],
                both.targets.image_label[keep],
            ),
        )
        assert torch.stack(list(model.loss(part).values())).sum().isfinite()


def found_with(model: YOLO9000, logits: list[float]) -> Any:
    raw = {k: torch.full_like(v, -9.0) for k, v in model(torch.zeros(1, 3, 96, 96)).items()}
    one = raw["raw"].view(1, 3, 11, 3, 3)
    one[0, 1, :, 1, 1] = torch.tensor([0.0, 0, -1, -1, math.log(3), *logits])
    return model.postprocess(raw, [Frame((96, 96), (96, 96))], score=0.3)[0]


def test_a_box_answers_with_the_deepest_word_that_is_sure():
    logits = [9.0, -9, 9, -9, 0, 0]  # surely an animal, but which
    found = found_with(of_words(), logits)
    assert found.names == ["animal"]
    assert found.scores.tolist() == pytest.approx([0.75])  # objectness
    assert found_with(of_words(), [9, -9, 9, -9, 9, 0]).names == ["dog"]
    assert found_with(of_words(tree_threshold=0.4), logits).names[0] in ("dog", "cat")
    product = found_with(of_words(tree_score="objectness_times_absolute"), [9, -9, 9, -9, 1, 0])
    assert product.scores.item() == pytest.approx(0.75 / (1 + math.exp(-1)), rel=1e-3)


def test_asked_for_classes_each_box_scores_them_all():
    model = of_words().restricted_to(["dog", "cat", "car"])
    found = found_with(model, [9, -9, 9, -9, 1, 0])
    assert found.classes == ("dog", "cat", "car")
    odds = 1 / (1 + math.exp(-1))
    assert found.names == ["dog"]
    assert found.scores.tolist() == pytest.approx([0.75 * odds], rel=1e-3)
    candidates, _ = model.candidates(model(torch.zeros(1, 3, 96, 96)), 0.0)
    assert set(candidates.label.tolist()) == {0, 1, 2}


def test_classes_of_the_data_are_found_in_the_tree(tmp_path: Path):
    (tmp_path / "a.tree").write_text("n1 -1\nn2 0\nn3 0\nn4 1\nn5 1\n")
    (tmp_path / "a.names").write_text("thing\nanimal\nvessel\ndog\nairplane\n")
    (tmp_path / "coco.names").write_text("boat\naeroplane\n")
    (tmp_path / "coco.map").write_text("2\n4\n")
    files = {
        "tree": str(tmp_path / "a.tree"),
        "tree_names": str(tmp_path / "a.names"),
        "class_map": (str(tmp_path / "coco.names"), str(tmp_path / "coco.map")),
    }
    model = tiny("yolo9000", ("dog",), **{**files, "parents": None})
    assert model.classes == ("thing", "animal", "vessel", "dog", "airplane")
    assert model.nodes_of(["boat", "n4", "animal", "aeroplane", "airplane"]) == [2, 3, 1, 4, 4]
    with pytest.raises(InputError, match=r"no such word in the tree.*'dog'"):
        model.nodes_of(["dgo"])
    with pytest.raises(InputError, match="no such word"):
        tiny("yolo9000", ("unicorn",), **{**files, "parents": None})
    model.save(tmp_path / "m.safetensors")
    for file in tmp_path.glob("*.[tnm]*[esp]"):
        file.unlink() if file.suffix in (".tree", ".names", ".map") else None
    back = boxatlas.load(tmp_path / "m.safetensors")  # it carries its tree
    assert back.nodes_of(["boat", "n4"]) == [2, 3]  # type: ignore[attr-defined]


def joint_set(folder: Path) -> tuple[Path, Path]:
    """Two pictures with boxes and twelve with a label, as two data sets."""
    boxes, labels = folder / "boxes", folder / "labels"
    (boxes / "labels").mkdir(parents=True)
    (boxes / "images").mkdir()
    rng = np.random.default_rng(0)
    from PIL import Image

    def picture(path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (40, 60, 3), np.uint8)).save(path)

    for i in range(2):
        picture(boxes / "images" / f"{i}.png")
        (boxes / "labels" / f"{i}.txt").write_text(f"{i} 0.5 0.5 0.4 0.4\n")
    (boxes / "train.txt").write_text("images/0.png\nimages/1.png\n")
    (boxes / "set.names").write_text("animal\ncar\n")
    (boxes / "set.data").write_text("classes = 2\nnames = set.names\ntrain = train.txt\n")
    for word in ("dog", "cat"):
        for i in range(6):
            picture(labels / word / f"{i}.png")
    return boxes, labels


def test_boxes_are_repeated_until_labels_are_four_to_one(tmp_path: Path):
    table = read(list(joint_set(tmp_path)))
    assert table.classes == ("animal", "car", "cat", "dog")
    model = of_words()
    learned = model.training_table(table)
    assert learned.classes == WORDS
    assert len(learned) == 12 + 3  # 12 labels, a fourth as many with boxes
    assert (learned.image_label >= 0).sum() == 12
    assert {learned.classes[i] for i in learned.image_label if i >= 0} == {"dog", "cat"}
    assert {learned.classes[i] for i in learned.labels} == {"animal", "car"}
    assert len(of_words(oversampling=0.0).training_table(table)) == 14
    more = of_words(oversampling=1.0).training_table(table)
    assert len(more) == 24


def test_joint_training_through_the_command_s_own_path(tmp_path: Path):
    """Two sets, one with boxes, one of folders; val is of images with boxes; two steps."""
    from boxatlas.training import Recipe, train

    boxes, labels = joint_set(tmp_path)
    (tmp_path / "w.tree").write_text(
        "".join(f"{w} {p}\n" for w, p in zip(WORDS, PARENTS, strict=True))
    )
    recipe = Recipe.of(
        model="yolo9000",
        data=[str(boxes), str(labels)],
        iterations=2,
        batch=5,
        lr=1e-3,
        options={**TIMM, "size": 96, "tree": str(tmp_path / "w.tree"), "multi_scale": False},
        eval_every=2,
        augment="yolo",
    )
    done = train(recipe, tmp_path / "run")
    model = boxatlas.load(done.last)
    assert model.classes == WORDS
    found = model.detect(next((boxes / "images").iterdir()), score=0.0)
    assert set(found.names) <= set(WORDS)
