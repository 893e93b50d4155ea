"""R-CNN as a whole: what is drawn, what each switch changes, and a run stopped in every phase."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import boxatlas
from boxatlas import scenes
from boxatlas.detectors.rcnn import RCNN
from boxatlas.errors import InputError
from boxatlas.parts.fits.feature_cache import FeatureCache
from boxatlas.structures import Batch, Frame, Targets
from boxatlas.training import find_recipe, train

TINY: dict[str, Any] = {
    "backbone": "timm/test_efficientnet",
    "crop_size": 32,
    "crop_padding": 2,
    "max_proposals": 20,
}


def tiny(**options: Any) -> RCNN:
    torch.manual_seed(0)
    model = boxatlas.create_model("rcnn_efficientnet_lite0", num_classes=3, **{**TINY, **options})
    assert isinstance(model, RCNN)
    return model


def batch(objects: int = 1, proposals: int = 10) -> Batch:
    """Two images, objects in the first alone, proposals around it and elsewhere."""
    generator = torch.Generator().manual_seed(1)
    truth = torch.tensor([[20.0, 20, 60, 60], [5.0, 5, 15, 18]])[:objects]
    targets = Targets.collate([truth, truth[:0]], [torch.arange(objects), torch.arange(0)])
    low = torch.rand(2, proposals, 2, generator=generator) * 40
    boxes = torch.cat([low, low + 10 + torch.rand(2, proposals, 2, generator=generator) * 30], 2)
    if proposals:
        boxes[0, 0] = torch.tensor([22.0, 20, 60, 62])  # over half of the object
    frames = [Frame((80, 80), (80, 80))] * 2
    return Batch(
        torch.randn(2, 3, 80, 80, generator=generator),
        frames,
        targets,
        boxes,
        torch.ones(2, proposals, dtype=torch.bool),
    )


# -- learning -------------------------------------------------------------------------------------


def drawn(model: RCNN, given: Batch, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, Any, Any]:
    """(boxes, image, labels) that an iteration learns from."""
    seen: dict[str, Any] = {}
    plain_crop, plain_loss = type(model.crop).__call__, torch.nn.functional.cross_entropy

    def crop(self: Any, images: Any, boxes: Any, image: Any, *rest: Any) -> Any:
        seen.update(boxes=boxes, image=image)
        return plain_crop(self, images, boxes, image, *rest)

    def loss(logits: Any, labels: Any) -> Any:
        seen["labels"] = labels
        return plain_loss(logits, labels)

    monkeypatch.setattr(type(model.crop), "__call__", crop)
    monkeypatch.setattr("boxatlas.detectors.rcnn.F.cross_entropy", loss)
    model.loss(given, torch.Generator().manual_seed(0))
    return seen["boxes"], seen["image"], seen["labels"]


def test_an_iteration_draws_32_positives_and_96_background(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given = batch(objects=2)
    boxes, image, labels = drawn(tiny(), given, monkeypatch)
    assert (labels > 0).tolist() == [True] * 32 + [False] * 96
    for box, i, label in zip(boxes, image, labels, strict=True):
        best = boxatlas_iou(box, given.targets.boxes[i][given.targets.valid[i]])
        if label > 0:
            assert best.max() >= 0.5
            assert best.argmax() == label - 1
        else:
            assert best.numel() == 0 or best.max() < 0.5
    assert set(image[32:].tolist()) == {0, 1}
    drawn_rows = {tuple(b) for b in boxes[:32].tolist()}
    assert (20.0, 20.0, 60.0, 60.0) in drawn_rows  # objects themselves are windows too


def boxatlas_iou(box: torch.Tensor, objects: torch.Tensor) -> torch.Tensor:
    from torchvision.ops import box_iou

    return box_iou(box[None], objects)[0]


def test_images_without_objects_or_proposals(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny()
    _, _, labels = drawn(model, batch(objects=0), monkeypatch)
    assert labels.tolist() == [0] * 96
    nothing = batch(objects=0, proposals=0)
    loss = model.loss(nothing)["cls"]
    loss.backward()
    assert loss.item() == 0
    raw = model(nothing.images, nothing.frames, nothing.proposals)
    assert [len(found) for found in model.postprocess(raw, nothing.frames)] == [0, 0]


# -- the network ----------------------------------------------------------------------------------


def test_scores_of_padding_are_0_and_of_others_do_not_depend_on_it() -> None:
    model = tiny(crops_at_once=3).eval()
    given = batch()
    assert given.proposals is not None
    padded = torch.cat([given.proposals, torch.zeros(2, 4, 4)], 1)
    with torch.no_grad():
        plain = model(given.images, given.frames, given.proposals)
        more = model(given.images, given.frames, padded)
    assert not more["valid"][:, 10:].any()
    assert (more["scores"][:, 10:] == 0).all()
    torch.testing.assert_close(more["scores"][:, :10], plain["scores"])
    assert plain["scores"].shape == (2, 10, 3)
    assert plain["deltas"].shape == (2, 10, 3, 4)


def test_the_svms_decide_once_they_are_fitted_and_boxes_move() -> None:
    model = tiny().eval()
    given = batch()
    with torch.no_grad():
        before = model(given.images, given.frames, given.proposals)["scores"]
        model.svm_bias.copy_(torch.tensor([2.0, 0.0, -2.0]))
        model.svm_fitted.fill_(True)
        model.box_bias[0] = torch.tensor([0.5, 0.0, 0.0, 0.0])  # half a width to the right
        raw = model(given.images, given.frames, given.proposals)
    assert not torch.equal(before, raw["scores"])
    expected = torch.tensor([2.0, 0.0, -2.0]).sigmoid()
    torch.testing.assert_close(raw["scores"], expected.expand(2, 10, 3))
    found = model.postprocess(raw, given.frames, score=0.6)[0]
    assert set(found.labels.tolist()) == {0}
    assert given.proposals is not None
    shift = (given.proposals[0, :, 2] - given.proposals[0, :, 0]) / 2
    moved = (given.proposals[0] + shift[:, None] * torch.tensor([1.0, 0, 1, 0])).clamp(max=80)
    assert all(((moved - box).abs().amax(1) < 1e-3).any() for box in found.boxes)


def test_detect_searches_where_no_proposals_are_given(tmp_path: Path) -> None:
    model = tiny()
    model.name, model.options = "rcnn_efficientnet_lite0", TINY
    model.svm_fitted.fill_(True)  # zero margins: every box scores one half
    image = scenes.make(3, (90, 120)).image
    found = model.detect(image, score=0.4)
    assert len(found) > 0
    assert found.boxes.max() <= 120
    model.save(tmp_path / "m.safetensors")
    again = boxatlas.load(tmp_path / "m.safetensors").detect(image, score=0.4)
    assert torch.equal(found.boxes, again.boxes)
    assert model.detect(image[:1, :1]).size == (1, 1)
    many = model.detect([image, image[:40, :70]], score=0.4)
    torch.testing.assert_close(many[0].boxes, found.boxes)


def test_only_images_larger_than_the_limit_are_reduced() -> None:
    model = tiny(longest=100)
    images, frames = model.preprocess.batch(
        [np.zeros((50, 200, 3), np.uint8), np.zeros((60, 90, 3), np.uint8)]
    )
    assert [f.content for f in frames] == [(25, 100), (60, 90)]
    assert images.shape == (2, 3, 64, 128)  # padded to the larger, in steps of 32
    box = torch.tensor([[20.0, 10, 40, 20]])
    torch.testing.assert_close(frames[0].undo(box), box * 2)


# -- switches -------------------------------------------------------------------------------------


def test_phases_follow_the_switches() -> None:
    def names(**options: Any) -> list[tuple[str, str | None, str | None]]:
        return [
            (p.name, p.init_from, p.fit and getattr(p.fit, "__name__", None))
            for p in tiny(**options).phases()
        ]

    tuned = ("fine_tune", None, None)
    assert names() == [tuned, ("svms", "fine_tune", "fit_svms"), ("boxes", "svms", "fit_boxes")]
    assert names(classifier="softmax") == [tuned, ("boxes", "fine_tune", "fit_boxes")]
    assert names(fine_tune=False, box_regression=False) == [("svms", None, "fit_svms")]
    with pytest.raises(InputError, match="only trained by fine-tuning"):
        tiny(fine_tune=False, classifier="softmax")


def test_switches_of_layers_and_parts_change_the_network() -> None:
    model = tiny()
    assert model.svm_weight.shape[1] == model.network.widths["fc7"]
    assert tiny(feature_layer="pool5").svm_weight.shape[1] == model.network.widths["pool5"]
    assert not hasattr(tiny(box_regression=False), "box_weight")
    assert not hasattr(tiny(classifier="softmax"), "svm_weight")
    with pytest.raises(InputError, match=r"no such layer.*pool5, fc7"):
        tiny(feature_layer="fc6")
    with pytest.raises(InputError, match="no such backbone"):
        tiny(backbone="resnet")
    with pytest.raises(InputError, match="leaves nothing"):
        tiny(crop_padding=16)
    with pytest.raises(InputError, match=r"crops of 224 pixels alone \(got 227\)"):
        tiny(backbone="timm/vit_tiny_patch16_224", crop_size=227)


CROPS = [{"crop_mode": "square"}, {"crop_mode": "square_masked"}, {"crop_padding": 0}]


@pytest.mark.parametrize("options", CROPS)
def test_switches_of_the_crop_change_what_is_seen(options: dict[str, Any]) -> None:
    given = batch()
    plain, changed = (
        m(given.images, given.frames, given.proposals)["scores"]
        for m in (tiny().eval(), tiny(**options).eval())
    )
    assert not torch.allclose(plain, changed)


def test_switches_of_overlap_change_the_targets(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    given = batch()
    loose, strict = (drawn(tiny(positive_iou=v), given, monkeypatch)[0][:32] for v in (0.2, 0.95))
    assert len({tuple(b) for b in loose.tolist()}) > len({tuple(b) for b in strict.tolist()}) == 1
    seen: list[float] = []

    def mined(cache: Any, overlaps: Any, labels: Any, rule: Any, track: Any) -> Any:
        seen.append(rule.negative_iou)
        return np.zeros((3, cache.rows.shape[1]), np.float32), np.zeros(3, np.float32), 1.0

    monkeypatch.setattr("boxatlas.detectors.rcnn.mine", mined)

    class Loader:
        batch_size = 2

        def __len__(self) -> int:
            return 1

        def epoch(self, number: int, start: int = 0) -> Any:
            return iter([given][start:])

    loader = Loader()
    tiny(svm_negative_iou=0.4).fit_svms(loader, tmp_path, lambda items, text: iter(items))
    assert seen == [0.4]


def test_published_shapes() -> None:
    """CaffeNet: pool5 is 6 x 6 x 256, fc7 4096 wide; 56.95 M parameters with 21 outputs."""
    with torch.device("meta"):
        model = boxatlas.create_model("rcnn_alexnet")
    assert isinstance(model, RCNN)
    assert model.network.widths == {"pool5": 9216, "fc6": 4096, "fc7": 4096}
    assert sum(p.numel() for p in model.parameters()) == 56_954_261


# -- a run ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    scenes.write(folder, {"train": 6, "val": 2}, seed=0, size=(72, 96))
    return folder


def recipe(made: Path) -> Any:
    settings = [f"model.{k}={v}" for k, v in TINY.items()]
    settings += [
        "init=none",
        "iterations=3",
        "batch=2",
        "warmup=0",
        "eval_every=3",
        "save_every=1",
        "model.fold_norms=false",
        "val_split=none",
    ]
    return find_recipe("rcnn_efficientnet_lite0", settings).changed({"data": [str(made)]})


def test_a_run_stopped_in_every_phase_ends_as_one_that_was_not(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(recipe(made), tmp_path / "whole")
    stops = {"search": 2, "fine_tune": 2, "svms": 2, "boxes": 2}

    def stopping(owner: Any, name: str, phase: Any) -> None:
        """Raise KeyboardInterrupt at the call of that number in the phase, once."""
        plain, counts = getattr(owner, name), {}

        def wrapped(self: Any, *args: Any, **kwargs: Any) -> Any:
            key = phase(self)
            counts[key] = counts.get(key, 0) + 1
            if counts[key] == stops.get(key):
                del stops[key]
                raise KeyboardInterrupt
            return plain(self, *args, **kwargs)

        monkeypatch.setattr(owner, name, wrapped)

    from boxatlas.data.proposals import Store

    stopping(Store, "add", lambda self: "search")
    stopping(RCNN, "loss", lambda self: "fine_tune")
    stopping(FeatureCache, "commit", lambda self: None)
    stopping(FeatureCache, "add", lambda self: "svms" if "svms" in str(self.folder) else "boxes")
    stopped = 0
    for _ in range(5):
        try:
            resumed = train(recipe(made), tmp_path / "stopped", resume=stopped > 0)
            break
        except KeyboardInterrupt:
            stopped += 1
    else:
        pytest.fail("never ended")
    assert stopped == 4
    one, two = load_file(whole.best), load_file(resumed.best)
    assert one.keys() == two.keys()
    assert one["svm_weight"].any()
    assert one["box_weight"].any()
    for name in one:
        assert torch.equal(one[name], two[name]), name


def test_what_was_trained_is_measured_and_used(made: Path, tmp_path: Path) -> None:
    changed = recipe(made).changed({"val_split": "val"})
    result = train(changed, tmp_path / "run")
    assert 0 <= result.metrics["mAP"] <= 1
    model = boxatlas.load(result.best)
    assert isinstance(model, RCNN)
    assert bool(model.svm_fitted)
    found = model.detect(sorted(made.glob("JPEGImages/*"))[0])
    assert found.classes == scenes.CLASSES
    assert not list((tmp_path / "run").rglob("features.npy"))  # the cache is given back
