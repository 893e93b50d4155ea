"""The region family from end to end: learn, save, load, detect; every switch does something."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from regions import SMALL, batch, losses, small, total

from boxatlas.errors import InputError
from boxatlas.parts.region.masks import MaskChoices
from boxatlas.weights import load

NAMES = list(SMALL)
PHOTO = np.random.RandomState(0).randint(0, 256, (50, 70, 3)).astype(np.uint8)


def steps(model: Any, given: Any, terms: Any, count: int = 4) -> tuple[float, float]:
    """The sum of those losses before and after a few steps on the same batch and draws."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)

    def value() -> torch.Tensor:
        found = model.loss_terms(given, terms, torch.Generator().manual_seed(0))
        return torch.stack([found[name] for name in terms]).sum()

    first = value().item()
    for _ in range(count):
        optimizer.zero_grad()
        value().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
    return first, value().item()


@pytest.mark.parametrize("name", NAMES)
def test_heads_learn_given_proposals_and_the_rpn_its_anchors(name) -> None:
    """Each with what it learns from held still: an RPN that learns proposes other boxes."""
    model = small(name).train()
    given = batch(model)
    if not model.takes_proposals:
        first, last = steps(model, given, ("rpn_cls", "rpn_box"))
        assert last < first
    given = batch(model, proposals=True)
    terms = tuple(losses(model, given))
    assert not {"rpn_cls", "rpn_box"} & set(terms)
    first, last = steps(model, given, terms)
    assert last < first


@pytest.mark.parametrize("name", NAMES)
def test_save_load_detect(name, tmp_path) -> None:
    model = small(name)
    model.save(tmp_path / "one.safetensors")
    again = load(tmp_path / "one.safetensors")
    found, loaded = (m.eval().detect(PHOTO, score=0.0) for m in (model, again))
    assert len(found) > 0
    assert torch.equal(found.boxes, loaded.boxes)
    assert torch.equal(found.scores, loaded.scores)
    assert (found.boxes >= 0).all()
    assert (found.boxes[:, [0, 2]] <= 70).all()
    assert (found.boxes[:, [1, 3]] <= 50).all()
    if isinstance(model.config, MaskChoices):
        assert found.masks is not None
        assert found.masks.shape == (len(found), 50, 70)
        assert found.masks.dtype == torch.bool
    else:
        assert found.masks is None


@pytest.mark.parametrize("name", NAMES)
def test_images_without_objects_have_a_finite_loss(name) -> None:
    model = small(name).train()
    given = batch(model)
    given.targets.labels[:] = -1
    given.targets.boxes[:] = 0
    given.targets.masks = [[], []]
    loss = total(model, given)
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("name", NAMES)
def test_losses_repeat_and_have_a_gradient_everywhere(name) -> None:
    model = small(name).train()
    given = batch(model)
    one, two = losses(model, given), losses(model, given)
    assert {k: v.item() for k, v in one.items()} == {k: v.item() for k, v in two.items()}
    torch.stack(list(one.values())).sum().backward()
    idle = [n for n, p in model.named_parameters() if p.grad is None]
    assert idle == []


@pytest.mark.parametrize("name", ["rfcn_r50", "fast_rcnn_alexnet", "cascade_rcnn_r50_fpn"])
def test_the_fast_form_answers_as_the_plain_one(name) -> None:
    model = small(name).eval()
    images, frames = model.preprocess.batch([PHOTO])
    given = batch(model, images=1).proposals
    with torch.inference_mode():
        plain = model.postprocess(model(images, frames, given), frames, score=0.0)[0]
    fast = model.infer(images, frames, score=0.0, proposals=given)[0]
    assert torch.allclose(plain.scores[:20], fast.scores[:20], atol=1e-4)


# (model, option, value other than the default, more options): what each switch is turned to.
SWITCHES: list[tuple[str, str, Any, dict[str, Any]]] = [
    ("faster_rcnn_zf", "roi_op", "align", {}),
    ("faster_rcnn_zf", "roi_op", "warp", {}),
    ("faster_rcnn_zf", "sampler", "ohem", {"roi_count": 8}),
    ("faster_rcnn_zf", "rpn_cls", "sigmoid", {}),
    ("faster_rcnn_zf", "rpn_border", False, {}),
    ("faster_rcnn_zf", "rpn_lambda", 1.0, {}),
    ("faster_rcnn_zf", "anchor_ratios", (1.0,), {}),
    ("faster_rcnn_zf", "anchor_sizes", (32,), {}),
    ("faster_rcnn_zf", "train_schedule", "joint", {}),
    ("faster_rcnn_zf", "shared_features", False, {}),
    ("faster_rcnn_vgg16", "train_from", "conv2_1", {}),
    ("faster_rcnn_vgg16", "train_from", "fc", {}),
    ("rfcn_r50", "k", 3, {}),
    ("rfcn_r50", "roi_op", "align", {}),
    ("rfcn_r50", "sampler", "random", {}),
    ("rfcn_r50", "res5", "conv4", {}),
    ("rfcn_r50", "res5", "stride32", {}),
    ("rfcn_r50", "rpn_cls", "sigmoid", {}),
    ("rfcn_r50", "rpn_border", False, {}),
    ("rfcn_r50", "anchor_ratios", (1.0,), {}),
    ("rfcn_r50", "train_scheme", "joint", {}),
    ("fast_rcnn_alexnet", "roi_op", "align", {}),
    ("fast_rcnn_alexnet", "sampler", "ohem", {"roi_count": 8}),
    ("fast_rcnn_alexnet", "proposals", 10, {}),
    ("fast_rcnn_alexnet", "background_low", 0.0, {"roi_count": 400}),
    ("fast_rcnn_alexnet", "learn_difficult", False, {}),
    ("fast_rcnn_alexnet", "training", "staged", {}),
    ("fast_rcnn_alexnet", "training", "classification", {}),
    ("fast_rcnn_alexnet", "classifier", "svm", {}),
    ("fast_rcnn_alexnet", "truncated_svd", (8, 4), {}),
    ("fast_rcnn_alexnet", "train_from", "fc", {"backbone": "vgg16"}),
    ("mask_rcnn_r50_fpn", "roi_op", "pool", {}),
    ("mask_rcnn_r50_fpn", "roi_reduce", "max", {}),
    ("mask_rcnn_r50_fpn", "mask_loss", "softmax", {}),
    ("mask_rcnn_r50_fpn", "mask_agnostic", True, {}),
    ("mask_rcnn_r50_fpn", "mask_head", "mlp", {}),
    ("mask_rcnn_r50_fpn", "mask_threshold", 0.1, {}),
    ("cascade_rcnn_r50_fpn", "stages", 2, {}),
    ("cascade_rcnn_r50_fpn", "iou_thresholds", (0.5, 0.5, 0.5), {}),
    ("cascade_rcnn_r50_fpn", "stage_statistics", False, {}),
    ("cascade_rcnn_r50_fpn", "score_stages", "last", {}),
    ("cascade_rcnn_r50_fpn", "mode", "iterative", {}),
    ("cascade_rcnn_r50_fpn", "mode", "integral", {}),
    ("cascade_mask_rcnn_r50_fpn", "mask_stages", "first", {}),
    ("cascade_mask_rcnn_r50_fpn", "mask_stages", "last", {}),
]


def seen(model: Any, given: Any) -> dict[str, Any]:
    """All that a switch can change: tensors, stages, losses, detections."""
    torch.manual_seed(1)
    with torch.no_grad():
        for p in model.parameters():  # of any shape, the same where shapes agree
            p.copy_(torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())) * 0.05)
    images, frames = given.images[:1], given.frames[:1]
    shapes = {n: tuple(v.shape) for n, v in model.state_dict().items()}
    value = losses(model.eval(), given)
    with torch.inference_mode():
        proposals = None if given.proposals is None else given.proposals[:1]
        found = model.postprocess(model(images, frames, proposals), frames, score=0.0)[0]
    return {
        "shapes": shapes,
        "phases": model.phases(),
        "losses": {k: v.item() for k, v in value.items()},
        "found": (
            found.boxes.tolist(),
            found.scores.tolist(),
            None if found.masks is None else int(found.masks.sum()),
        ),
    }


@pytest.mark.parametrize(("name", "option", "value", "more"), SWITCHES)
def test_every_switch_does_something(name, option, value, more) -> None:
    default, turned = small(name, **more), small(name, **{**more, option: value})
    assert option in type(default.config).kinds("idea")
    given = batch(default)
    assert seen(default, given) != seen(turned, given)


def test_no_switch_is_left_out() -> None:
    """Those of the pyramid and of its RPN are Faster R-CNN's and tested there; `scales` beside its
    rule."""
    tested: dict[str, set[str]] = {"fast_rcnn_alexnet": {"scales"}}
    for name, option, _, _ in SWITCHES:
        tested.setdefault(name, set()).add(option)
    pyramid = (
        set(type(small("cascade_rcnn_r50_fpn").config).kinds("idea"))
        - tested["cascade_rcnn_r50_fpn"]
    )
    assert pyramid == {
        "roi_op",
        "sampler",
        "rpn_cls",
        "rpn_border",
        "anchor_ratios",
        "top_down",
        "lateral",
        "one_level",
        "p6",
    }
    shared = pyramid | tested["mask_rcnn_r50_fpn"] | tested["cascade_rcnn_r50_fpn"]
    for name, own in tested.items():
        known = own | (shared if "fpn" in name else set())
        known |= {"train_from"} if name == "faster_rcnn_zf" else set()
        if name != "faster_rcnn_vgg16":
            assert set(type(small(name).config).kinds("idea")) <= known, name


def test_warping_is_no_rule_of_position_sensitive_pooling() -> None:
    with pytest.raises(InputError, match="roi_op"):
        small("rfcn_r50", roi_op="warp")


def test_masks_are_asked_for_where_the_data_has_none() -> None:
    model = small("mask_rcnn_r50_fpn")
    given = batch(model)
    given.targets.masks = None
    with pytest.raises(InputError, match="masks"):
        total(model, given)


@pytest.mark.parametrize("name", ["faster_rcnn_zf", "rfcn_r50", "fast_rcnn_alexnet"])
def test_any_timm_backbone(name) -> None:
    more = {"res5": "conv4"} if name == "rfcn_r50" else {}
    model = small(name, backbone="timm/test_efficientnet", **more)
    assert total(model, batch(model)).isfinite()
