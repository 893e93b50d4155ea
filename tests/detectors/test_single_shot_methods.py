"""Each method of the single-shot family, tiny: its parts, two steps, save and load, detect."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from single_shot import SIZE, TINY, batch, tiny

import boxatlas
from boxatlas import evaluation, scenes
from boxatlas.data import make_loader, read
from boxatlas.errors import InputError


@pytest.mark.parametrize("module", ["a", "b", "c", "d"])
def test_prediction_modules(module):
    """(a) adds nothing; (d) is two of (c); (b) keeps the width and needs no 1x1 shortcut."""
    model = tiny("dssd321_r101", prediction_module=module)
    blocks = [list(one.named_modules()) for one in model.before]  # pyright: ignore
    convs = {sum(isinstance(m, torch.nn.Conv2d) for _, m in row) for row in blocks}
    assert convs == {{"a": 0, "b": 3, "c": 4, "d": 8}[module]}


def test_sources_must_have_the_map_that_they_are_fused_at():
    with pytest.raises(InputError, match="conv4_3"):
        tiny("fssd300_vgg16", sources=("fc7", "conv7_2"))


@pytest.mark.parametrize("name", TINY)
def test_any_size(name):
    """Also sides that are odd at some stride, and inputs that are not square."""
    model = tiny(name, size=(72, 100)).eval()
    height, width = model.config.shape
    raw = model(torch.zeros(1, 3, height, width))
    assert raw["logits"].shape == (1, len(raw["anchors"]), 4)
    assert raw["deltas"].shape == (1, len(raw["anchors"]), 4)


# -- learning -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    scenes.write(folder, {"train": 4, "val": 2}, seed=0, size=(64, 64))
    return folder


@pytest.mark.parametrize("name", [n for n in TINY if n != "ssd300_vgg16"])
def test_two_steps_evaluate_detect_save_load(name, made, tmp_path):
    train, val = read(made, "train"), read(made, "val")
    torch.manual_seed(0)
    own = {"backbone": "timm/test_efficientnet", "size": SIZE, **TINY[name]}
    model = boxatlas.create_model(name, classes=train.classes, **own)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    loader = make_loader(train, model.preprocess, batch_size=2, shuffle=False, seed=0)
    for given in loader.epoch(0):
        losses = model.train().loss(given)
        assert all(v.ndim == 0 and torch.isfinite(v) for v in losses.values())
        optimizer.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        optimizer.step()
    assert all(p.grad is not None for p in model.parameters())  # nothing is left out
    assert any(not torch.equal(before[k], v) for k, v in model.state_dict().items())
    model.eval()
    result = evaluation.evaluate(evaluation.predict(model, val, progress=False), val)
    assert 0 <= result["mAP"] <= 1
    image = (torch.rand(3, 60, 80) * 255).to(torch.uint8)
    found = model.detect(image, score=0.02)
    model.save(tmp_path / "one.safetensors")
    again = boxatlas.load(tmp_path / "one.safetensors").detect(image, score=0.02)
    assert torch.equal(torch.as_tensor(found.boxes), torch.as_tensor(again.boxes))
    assert torch.equal(torch.as_tensor(found.scores), torch.as_tensor(again.scores))


@pytest.mark.parametrize("name", TINY)
def test_images_without_objects_and_one_image(name):
    """A batch of one image, whose coarsest map is one cell, trains; with no object at no loss."""
    model = tiny(name).train()
    given = batch(objects=0)
    given.images, given.frames = given.images[:1], given.frames[:1]
    given.targets.boxes, given.targets.labels = given.targets.boxes[:1], given.targets.labels[:1]
    given.targets.ignore = given.targets.ignore[:1]
    losses = model.loss(given)
    total = torch.stack(list(losses.values())).sum()
    assert total.item() == 0
    total.backward()


def test_dssd_learns_in_stages():
    """The SSD first, on heads of its own; then the decoder alone, on the SSD as it is."""
    model = tiny("dssd321_r101", staged=True, finetune=True)
    ssd, decoder, whole = model.phases()
    assert (ssd.init_from, decoder.init_from, whole.init_from) == (None, "ssd", "decoder")
    losses = model.loss(batch())
    assert set(losses) == {*(ssd.losses or ()), *(decoder.losses or ())}
    for phase, learned in (
        (ssd, ("backbone", "neck", "ssd_before", "ssd_head")),
        (decoder, ("decoder", "before", "head")),
    ):
        model.zero_grad()
        losses = model.loss(batch())
        sum(losses[term] for term in phase.losses or ()).backward()  # pyright: ignore
        reached = {n.split(".")[0] for n, p in model.named_parameters() if p.grad is not None}
        assert set(learned) <= reached
        assert {pattern.split(".")[0] for pattern in phase.learn} == set(learned)
    assert {p.split(".")[0] for p in whole.learn} == {
        "backbone",
        "neck",
        "decoder",
        "before",
        "head",
    }
    assert set(model.class_rows()) >= {"head.cls.0.weight", "ssd_head.cls.0.weight"}


def test_dsods_class_rows_reach_its_norms():
    """A predictor's batch norm has a row for each class too."""
    model = tiny("dsod300")
    rows, state = model.class_rows(), model.state_dict()
    assert {name.rsplit(".", 1)[1] for name in rows if ".1." in name} == {
        "weight",
        "bias",
        "running_mean",
        "running_var",
    }
    for name, row in rows.items():
        assert state[name].shape[0] == row.groups * (row.offset + 3 * row.width)


# -- detecting ------------------------------------------------------------------------------------


def raw_of(scores: list[list[float]], anchors: list[list[float]]) -> dict[str, torch.Tensor]:
    """Outputs of one image: class probabilities (background first), boxes that are the anchors."""
    return {
        "logits": torch.tensor([scores]).log(),
        "deltas": torch.zeros(1, len(scores), 4),
        "anchors": torch.tensor(anchors),
    }


BOXES = [[0.0, 0, 40, 40], [0.0, 0, 40, 30], [50.0, 50, 90, 90], [0.0, 0, 40, 10]]
SCORES = [[0.1, 0.8, 0.05, 0.05], [0.3, 0.6, 0.05, 0.05], [0.48, 0.42, 0.05, 0.05],
          [0.5, 0.4, 0.05, 0.05]]  # fmt: skip


def test_soft_nms_by_hand():
    """Overlaps with the best: 0.75 and 0.25. Above 0.3 a score falls to 1 - IoU of it."""
    model = tiny("m2det320_vgg16", score=0.1)
    (found,) = model.postprocess(raw_of(SCORES, BOXES), batch().frames[:1])
    # 0.6 * (1 - 0.75) = 0.15; the fourth overlaps the second by 1/3: 0.4 * (1 - 1/3) comes first.
    assert found.scores.tolist() == pytest.approx([0.8, 0.42, 0.4, 0.6 * 0.25 * (2 / 3)], rel=1e-5)
    assert found.boxes[2].tolist() == pytest.approx(BOXES[3])
    hard = tiny("m2det320_vgg16", score=0.1, soft_nms="off")
    (found,) = hard.postprocess(raw_of(SCORES, BOXES), batch().frames[:1])
    assert found.scores.tolist() == pytest.approx([0.8, 0.42, 0.4], rel=1e-5)
    few = tiny("m2det320_vgg16", score=0.1, per_class=2)
    (found,) = few.postprocess(raw_of(SCORES, BOXES), batch().frames[:1])
    assert found.scores.tolist() == pytest.approx([0.8, 0.42], rel=1e-5)


def test_a_threshold_that_soft_nms_has_not_is_refused() -> None:
    """Scores fall instead of boxes going, so that no `nms_iou` of a call could do anything."""
    picture = torch.zeros(3, 64, 64, dtype=torch.uint8)
    with pytest.raises(InputError, match="nms_iou: does nothing in this detector") as raised:
        tiny("m2det320_vgg16").eval().detect(picture, nms_iou=0.5)
    assert "\n" not in str(raised.value)
    tiny("m2det320_vgg16", soft_nms="off").eval().detect(picture, nms_iou=0.5)


def test_a_map_without_a_larger_square_has_one_predictor_less() -> None:
    """SSD, section 2.2: a cell holds the squares and two boxes for each ratio."""
    options = {"ratios": ((2.0,), (2.0, 3.0), (2.0,), (2.0,))}
    whole = tiny("ssd300_vgg16", **options)
    assert whole.boxes.per_cell == [4, 6, 4, 4]
    part = tiny("ssd300_vgg16", **options, max_sizes=(20.0, None, 50.0, None))
    assert part.boxes.per_cell == [4, 5, 4, 3]
    images = torch.zeros(1, 3, SIZE, SIZE)
    raw = part(images)
    assert raw["deltas"].shape[1] == len(raw["anchors"])
    part.loss(batch())


def test_refinedet_reads_maps_of_one_scale_on_any_backbone():
    """Section 3.1 sets the norm of each cell of VGG's first maps to 10 and 8 at first."""
    model = tiny("refinedet320_vgg16").eval()
    with torch.no_grad():
        maps = model.features(batch().images)
    for features, norm in zip(maps[:3], (10.0, 8.0, 8.0), strict=True):
        found = features.norm(dim=1)
        torch.testing.assert_close(found, torch.full_like(found, norm), rtol=1e-3, atol=0)


def test_refinedet_moves_twice_and_drops_easy_background():
    model = tiny("refinedet320_vgg16", nms_iou=1.0, score=0.1)
    raw = raw_of(SCORES[:2], [[10.0, 10, 30, 30], [40.0, 40, 60, 60]])
    raw["arm_deltas"] = torch.zeros(1, 2, 4)
    raw["arm_deltas"][0, 0, 0] = 5.0  # variance 0.1: half of the width to the right
    raw["deltas"][0, 0, 1] = 10.0  # then one height down
    raw["arm_logits"] = torch.tensor([[[0.0, 0.0], [0.0, -4.7]]])  # p(object) 0.5 and 0.009
    (found,) = model.postprocess(raw, batch().frames[:1])
    assert found.boxes.tolist() == [pytest.approx([20, 30, 40, 50])]
    assert found.scores.tolist() == pytest.approx([0.8])
    every = tiny("refinedet320_vgg16", nms_iou=1.0, score=0.1, negative_filter=None)
    (found,) = every.postprocess(raw, batch().frames[:1])
    assert found.scores.tolist() == pytest.approx([0.8, 0.6])
    once = tiny("refinedet320_vgg16", nms_iou=1.0, score=0.1, two_step=False)
    (found,) = once.postprocess(raw, batch().frames[:1])
    assert found.boxes.tolist() == [pytest.approx([10, 30, 30, 50])]
