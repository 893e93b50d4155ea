"""RetinaNet and Faster R-CNN from end to end, and beside torchvision's with the same weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pyramids import SMALL, batch, small, torchvisions, total

from boxatlas.create import create_model
from boxatlas.errors import InputError
from boxatlas.images import read
from boxatlas.weights import import_model, load, load_into


@pytest.mark.parametrize("name", list(SMALL))
def test_learn_save_load_detect(name, tmp_path):
    model = small(name)
    model.name, given = name, batch()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    first = total(model.train(), given).item()
    for _ in range(2):
        optimizer.zero_grad()
        total(model, given).backward()
        optimizer.step()
    assert total(model, given).item() < first
    model.save(tmp_path / "one.safetensors")
    again = load(tmp_path / "one.safetensors")
    photo = np.random.RandomState(0).randint(0, 256, (50, 70, 3)).astype(np.uint8)
    found, loaded = (m.eval().detect(photo, score=0.001) for m in (model, again))
    assert len(found) > 0
    assert torch.equal(found.boxes, loaded.boxes)
    assert torch.equal(found.scores, loaded.scores)
    assert (found.boxes >= 0).all()
    assert (found.boxes[:, 2] <= 70).all()
    assert (found.boxes[:, 3] <= 50).all()


@pytest.mark.parametrize("name", list(SMALL))
def test_any_timm_backbone(name):
    """Maps of whatever widths; what the weights expect of colours goes with the backbone."""
    assert total(small(name, backbone="timm/test_efficientnet"), batch()).isfinite()
    light = small(name, backbone="timm/tf_efficientnet_lite0")
    assert light.preprocess.mean == light.preprocess.std == (0.5, 0.5, 0.5)


@pytest.mark.parametrize("name", list(SMALL))
def test_images_without_objects_have_a_finite_loss(name):
    given = batch()
    given.targets.labels[:] = -1
    given.targets.boxes[:] = 0
    model = small(name).train()
    loss = total(model, given)
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("name", list(SMALL))
def test_the_loss_is_the_same_in_either_mode_and_repeats(name):
    """Only dropout and batch norm may depend on the mode; here the norms are frozen."""
    model, given = small(name, norm="frozen"), batch()
    losses = [total(model.train(mode), given, seed=4).item() for mode in (True, False, True)]
    assert losses[0] == losses[1] == losses[2]


@pytest.mark.parametrize("name", list(SMALL))
def test_the_fast_form_answers_alike(name):
    model = small(name).eval()
    fast = model.fast()
    assert not any("BatchNorm" in type(m).__name__ for m in fast.modules())
    with torch.no_grad():
        for a, b in zip(model.probe(batch().images), fast.probe(batch().images), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", list(SMALL))
def test_classes_are_carried_over_by_name(name):
    old = small(name, classes=3)
    new = create_model(name, classes=["class2", "other"], **{**SMALL[name], "norm": "batch"})
    state = {k: v.clone() for k, v in old.state_dict().items()}
    from boxatlas.weights.transfer import transfer

    done = transfer(new, state, old.classes)
    assert all(rows == ["class2"] for rows in done.rows.values())
    cls = "head.cls.out.bias" if "retinanet" in name else "predictor.cls.bias"
    assert cls in done.rows
    step, before = (3, 0) if "retinanet" in name else (1, 1)  # anchor-major; background first
    got, had = new.state_dict()[cls], state[cls]
    assert got[before] == had[before + 2]
    if "retinanet" in name:
        assert got[2] == had[step + 2]  # the next anchor's row


PEERS = {
    "retinanet_resnet50_fpn": "retinanet_r50_fpn",
    "retinanet_resnet50_fpn_v2": "retinanet_r50_fpn_v2",
    "fasterrcnn_resnet50_fpn": "faster_rcnn_r50_fpn",
    "fasterrcnn_resnet50_fpn_v2": "faster_rcnn_r50_fpn_v2",
    "fasterrcnn_mobilenet_v3_large_320_fpn": "faster_rcnn320_mobilenet_v3_fpn",
}


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.parametrize("theirs", list(PEERS))
def test_detections_on_photos_equal_torchvisions(theirs, shared_data):
    """Boxes to 0.1 pixels and scores to 1e-3, but for ties; the whole way from the file."""
    folder = shared_data / "voc20" / "native_samples" / "JPEGImages"
    photos = [read(path) for path in sorted(folder.glob("*.jpg"))[:2]]
    tensors = [torch.from_numpy(photo).permute(2, 0, 1).float() / 255 for photo in photos]
    sizes = {} if "320" in theirs else {"min_size": 224, "max_size": 300}
    peer = torchvisions(theirs, tensors, **sizes)
    size = {} if "320" in theirs else {"size": (224, 300)}
    state, ours = peer.state_dict(), PEERS[theirs]
    model = import_model(state, source="torchvision", as_=ours, **size).eval()
    shift = 0 if "retinanet" in theirs else 1  # our labels leave the background out
    for photo, tensor in zip(photos, tensors, strict=True):
        with torch.no_grad():
            (want,) = peer([tensor])
        images, frames = model.preprocess.batch([photo])
        (got,) = model.infer(images, frames)
        assert len(want["scores"]) > 20
        assert abs(len(got) - len(want["scores"])) <= 2
        near = (got.boxes[:, None] - want["boxes"]).abs().amax(-1) < 0.1
        near &= (got.scores[:, None] - want["scores"]).abs() < 1e-3
        near &= got.labels[:, None] + shift == want["labels"]
        assert near.any(1).float().mean() > 0.97
        assert near.any(0).float().mean() > 0.97


@pytest.mark.parametrize("theirs", ["retinanet_resnet50_fpn", "fasterrcnn_resnet50_fpn"])
def test_files_of_old_torchvision_import_too(theirs):
    """Before 0.13 single convolutions were not wrapped: the published files have these names."""
    from torchvision.models import detection

    torch.manual_seed(0)
    peer = getattr(detection, theirs)(weights=None, weights_backbone=None, num_classes=3)
    state, old = peer.state_dict(), {}
    for name, value in state.items():
        if "num_batches_tracked" in name:
            continue  # frozen norms have none
        for level in "0123":
            name = name.replace(f"blocks.{level}.0.", f"blocks.{level}.")
        name = name.replace("rpn.head.conv.0.0.", "rpn.head.conv.")
        for i in range(4):
            name = name.replace(f"_head.conv.{i}.0.", f"_head.conv.#{2 * i}.")
        old[name.replace("#", "")] = value
    model = import_model(old, source="torchvision", as_=PEERS[theirs])
    assert model.options["norm"] == "frozen"
    assert model.options["norm_eps"] == 0.0
    deep = "neck.outer.0.0.weight" if "retinanet" in theirs else "trunk.neck.outer.0.0.weight"
    assert torch.equal(model.state_dict()[deep], state["backbone.fpn.layer_blocks.0.0.weight"])


def test_weights_of_another_model_are_refused(tmp_path):
    model = small("retinanet_r50_fpn")
    model.name = "retinanet_r50_fpn"
    model.save(tmp_path / "r.safetensors")
    with pytest.raises(InputError, match="faster_rcnn_r50_fpn"):
        load_into(small("faster_rcnn_r50_fpn"), tmp_path / "r.safetensors")
