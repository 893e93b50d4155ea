"""RetinaNet: published sizes, losses worked by hand, and torchvision's answers."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from pyramids import batch, small, total
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models import detection

from boxatlas.boxes.matching import Matches
from boxatlas.create import create_model
from boxatlas.detectors.retinanet import RetinaNet
from boxatlas.errors import InputError
from boxatlas.structures import Batch, Frame, Targets
from boxatlas.zoo import model_info


def parameters(model: torch.nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    ("name", "options", "published"),  # torchvision's counts; the first with frozen norms
    [
        ("retinanet_r50_fpn", {"p6_from": "p5"}, 34_014_999),
        ("retinanet_r50_fpn", {"p6_from": "p5", "norm": "batch"}, 34_068_119),
        ("retinanet_r50_fpn_v2", {}, 38_198_935),
    ],
)
def test_parameters_are_the_published_ones(name, options, published):
    with torch.device("meta"):
        assert parameters(create_model(name, num_classes=91, **options)) == published


@pytest.mark.parametrize("second", [False, True])
def test_multiply_adds_equal_the_reference(second):
    build = detection.retinanet_resnet50_fpn_v2 if second else detection.retinanet_resnet50_fpn
    with torch.device("meta"):
        theirs = build(weights=None, weights_backbone=None)
        ours = create_model(
            "retinanet_r50_fpn_v2" if second else "retinanet_r50_fpn",
            num_classes=91,
            p6_from="c5" if second else "p5",
            norm="batch",
        )
        image = torch.empty(1, 3, 800, 1216)
        with FlopCounterMode(display=False) as peer:
            theirs.head(list(theirs.backbone(image).values()))
        with FlopCounterMode(display=False) as mine:
            ours.head(ours.features(image))
    assert mine.get_total_flops() == peer.get_total_flops()


def test_anchors_are_the_papers():
    """Section 4: areas 32^2 to 512^2 on P3 to P7, three octaves, ratios 1:2, 1:1, 2:1."""
    with torch.device("meta"):
        model = create_model("retinanet_r50_fpn")
    assert isinstance(model, RetinaNet)
    grids = [(75, 125), (38, 63), (19, 32), (10, 16), (5, 8)]
    boxes = model.make_anchors(grids, (600, 1000))
    assert 100_000 < len(boxes) < 115_000  # "about 100k" at 600 pixels
    size = boxes[:, 2:] - boxes[:, :2]
    area = size.prod(1).sqrt()
    want = [32 * 2 ** (k / 3) for k in (0, 0, 0, 1, 1, 1, 2, 2, 2)]
    assert area[:9].tolist() == pytest.approx(want, rel=1e-4)
    assert area[-1].item() == pytest.approx(512 * 2 ** (2 / 3), rel=1e-4)
    assert (size[:9, 1] / size[:9, 0]).tolist() == pytest.approx([0.5, 1, 2] * 3, rel=1e-4)


def three_anchors(logits: list[list[float]], deltas: list[list[float]], **options):
    """A RetinaNet whose network answers so on three anchors: one on the object, one that overlaps
    it by 0.45, one far away. -> (model, batch of that one image)."""
    model = small("retinanet_r50_fpn", classes=2, **options)
    assert isinstance(model, RetinaNet)
    anchors = torch.tensor([[0.0, 0, 20, 20], [0.0, 0, 20, 9], [60.0, 40, 80, 60]])
    raw = {
        "logits": torch.tensor([logits]),
        "deltas": torch.tensor([deltas]),
        "anchors": anchors,
        "levels": torch.tensor([3]),
    }
    model.forward = lambda *a, **k: raw
    objects = Targets.collate([torch.tensor([[0.0, 0, 20, 20]])], [torch.tensor([1])])
    return model, Batch(torch.zeros(1, 3, 64, 96), [Frame((64, 96), (64, 96))], objects)


def focal(p: float, positive: bool) -> float:
    if positive:
        return -0.25 * (1 - p) ** 2 * math.log(p)
    return -0.75 * p**2 * math.log(1 - p)


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


ROWS = [[-1.0, 0.5], [3.0, 2.0], [-2.0, -0.5]]
MOVED = [[0.05, 0.0, 0.0, 1.11], [9.0, 9, 9, 9], [9.0, 9, 9, 9]]


def test_loss_by_hand():
    """The anchor on the object answers for it, that at 0.45 counts for nothing, the far one is
    background; both sums over the one positive. Smooth L1 turns linear at 0.11."""
    model, given = three_anchors(ROWS, MOVED)
    found = model.loss(given)
    want = focal(sigmoid(-1.0), False) + focal(sigmoid(0.5), True)
    want += focal(sigmoid(-2.0), False) + focal(sigmoid(-0.5), False)
    assert found["classification"].item() == pytest.approx(want, rel=1e-5)
    box = 0.05**2 / 0.22 + (1.11 - 0.055)
    assert found["box"].item() == pytest.approx(box, rel=1e-5)


def test_cross_entropy_and_focal_star_by_hand():
    model, given = three_anchors(ROWS, MOVED, cls_loss="ce", alpha=None)
    want = sum(math.log(1 + math.exp(x)) for x in (-1.0, -0.5, -2.0, -0.5))
    assert model.loss(given)["classification"].item() == pytest.approx(want, rel=1e-5)
    model, given = three_anchors(ROWS, MOVED, cls_loss="focal_star", alpha=None, gamma=2.0)
    # -log sigmoid(2 x_t + 1) / 2 with x_t = x for the object's class and -x elsewhere.
    signed = (1.0, 0.5, 2.0, 0.5)
    want = sum(math.log(1 + math.exp(-(2 * x + 1))) / 2 for x in signed)
    assert model.loss(given)["classification"].item() == pytest.approx(want, rel=1e-5)


def test_giou_loss_by_hand():
    """Exact but for the height, e^1.11 times too tall: the centre stays."""
    model, given = three_anchors(ROWS, [[0.0, 0, 0, math.log(3)], *MOVED[1:]], box_loss="giou")
    # 20 x 60 about the object: IoU 1/3, and no area of the hull is outside the union.
    assert model.loss(given)["box"].item() == pytest.approx(2 / 3, rel=1e-4)


def test_ohem_takes_the_anchors_of_largest_loss():
    model, given = three_anchors(ROWS, MOVED, cls_loss="ohem", ohem_batch=1, alpha=None)
    # -log p of the far anchor is log(1 + e^-2) + log(1 + e^-0.5) < the object's, which stays alone.
    want = math.log(1 + math.exp(-1.0)) + math.log(1 + math.exp(-0.5))
    assert model.loss(given)["classification"].item() == pytest.approx(want, rel=1e-5)


def test_ohem_1_3_keeps_the_ratio_and_suppresses_neighbours():
    model = small("retinanet_r50_fpn", cls_loss="ohem_1_3", ohem_batch=8)
    assert isinstance(model, RetinaNet)
    anchors = torch.tensor([[float(20 * i), 0, 20 * i + 10, 10] for i in range(12)])
    anchors[11] = anchors[10]  # two negatives in one place
    index = torch.full((1, 12), -1)
    index[0, :3] = 0
    logits = torch.arange(12.0)[None, :, None].expand(1, 12, 3)
    matches = Matches(index, torch.zeros(1, 12))
    positives = (torch.zeros(3, dtype=torch.int64), torch.arange(3), torch.zeros(3).long())
    learns = model.hardest({"logits": logits, "anchors": anchors}, matches, positives)
    # A quarter of 8 are positives, those of largest loss; three times as many negatives. Of the two
    # in one place the one of smaller loss is suppressed.
    assert learns[0].nonzero().flatten().tolist() == [1, 2, 5, 6, 7, 8, 9, 11]


def test_an_ignored_object_teaches_nothing():
    """Neither is it an object, nor are anchors on it background."""
    model, given = three_anchors(ROWS, MOVED)
    given.targets.ignore[:] = True
    want = focal(sigmoid(-2.0), False) + focal(sigmoid(-0.5), False)
    found = model.loss(given)
    assert found["classification"].item() == pytest.approx(want, rel=1e-5)
    assert found["box"].item() == 0


def test_each_image_is_divided_by_its_own_positives():
    model = small("retinanet_r50_fpn")
    given = batch(1)
    one = total(model.eval(), given)
    twice = Batch(
        given.images.repeat(2, 1, 1, 1),
        given.frames * 2,
        Targets.collate(
            [given.targets.boxes[0]] * 2,
            [given.targets.labels[0]] * 2,
            [given.targets.ignore[0]] * 2,
        ),
    )
    torch.testing.assert_close(total(model, twice), one, rtol=1e-5, atol=1e-6)


def test_prior_starts_every_score_at_pi():
    """Section 3.3: the first probabilities are about pi."""
    for pi, want in ((0.01, 0.01), (None, 0.5)):
        model = small("retinanet_r50_fpn", prior_pi=pi)
        scores = model.eval()(batch().images)["logits"].sigmoid()
        assert scores.mean().item() == pytest.approx(want, rel=0.1)


def test_published_sizes():
    """Table 1 (e): five sizes of two depths; the longer side keeps to 5/3 of the shorter."""
    for name in ("retinanet_r50_fpn", "retinanet_r101_fpn"):
        sizes = [p for p in model_info(name).published if "table 1 (e)" in p.source]
        assert len(sizes) == 5
    with torch.device("meta"):
        for side, longer in ((400, 667), (500, 833), (600, 1000), (700, 1167), (800, 1333)):
            model = create_model("retinanet_r50_fpn", size=side)
            assert model.preprocess.size == (side, longer)


def test_candidates_keep_the_best_of_each_level():
    model = small("retinanet_r50_fpn", classes=1, level_candidates=2, nms_iou=1.0)
    assert isinstance(model, RetinaNet)
    logits = torch.tensor([0.0, 3.0, 1.0, 2.0, -9.0, 4.0, 5.0]).view(1, 7, 1)
    anchors = torch.tensor([[10.0 * i, 0, 10 * i + 8, 8] for i in range(7)])
    raw = {
        "logits": logits,
        "deltas": torch.zeros(1, 7, 4),
        "anchors": anchors,
        "levels": torch.tensor([4, 3]),
    }
    (found,) = model.postprocess(raw, [Frame((64, 96), (64, 96))])
    # Of the first level the logits 3 and 2, of the second 5 and 4; best first.
    want = torch.tensor([5.0, 4, 3, 2]).sigmoid()
    torch.testing.assert_close(found.scores, want)
    assert all(a >= b for a, b in pairwise(found.scores.tolist()))


def test_a_wrong_backbone_names_the_right_ones():
    with pytest.raises(InputError, match="resnet50"):
        create_model("retinanet_r50_fpn", backbone="resnet5")
