"""What `detect` gives: by the weights as they stand, of whatever a person holds, as one expects."""

from __future__ import annotations

import copy
import pickle
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn.utils import parametrize, prune

import boxatlas
from boxatlas import Detections, Detector, InputError
from boxatlas.parts.snapshot import Snapshot

PICTURE = np.random.default_rng(0).integers(0, 256, (60, 80, 3)).astype(np.uint8)
LOW = 0.001


@pytest.fixture
def model() -> Detector:
    torch.manual_seed(0)
    own = {"size": 96, "width": 64, "head_convs": 1, "pretrained": False, "score": 0.0}
    return boxatlas.create_model(
        "retinanet320_efficientnet_lite0_fpn", classes=("cat", "dog"), **own
    ).eval()


def convolutions(model: nn.Module) -> list[nn.Conv2d]:
    return [m for m in model.modules() if isinstance(m, nn.Conv2d)]


def one_element_by_data(model: Detector) -> None:
    convolutions(model)[0].weight.data[0, 0, 0, 0] += 1


def one_element_by_numpy(model: Detector) -> None:
    convolutions(model)[0].weight.detach().numpy()[0, 0, 0, 0] += 1


def rows_swapped(model: Detector) -> None:
    weight = convolutions(model)[0].weight
    weight.data.copy_(weight.data.flip(0))


def new_memory(model: Detector) -> None:
    weight = convolutions(model)[0].weight
    weight.data = weight.data * 2


def module_replaced(model: Detector) -> None:
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.ReLU6 | nn.ReLU):
                setattr(module, name, nn.Tanh())
                return


def attribute_set(model: Detector) -> None:
    next(m for m in model.modules() if isinstance(m, nn.BatchNorm2d)).eps = 1.0


def pruned(model: Detector) -> None:
    for conv in convolutions(model)[:3]:
        prune.l1_unstructured(conv, "weight", amount=0.5)


class Doubled(nn.Module):
    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return 2 * weight


def parametrised(model: Detector) -> None:
    parametrize.register_parametrization(convolutions(model)[0], "weight", Doubled())


def hooked(model: Detector) -> None:
    convolutions(model)[0].register_forward_hook(lambda module, args, output: output * 2)


CHANGES: list[Callable[[Detector], None]] = [
    one_element_by_data, one_element_by_numpy, rows_swapped, new_memory, module_replaced,
    attribute_set, pruned, parametrised, hooked,
]  # fmt: skip


@pytest.mark.parametrize("change", CHANGES, ids=lambda f: f.__name__)
def test_what_is_detected_is_by_the_model_as_it_stands(
    model: Detector, change: Callable[[Detector], None]
) -> None:
    images, frames = model.preprocess.batch([PICTURE])
    before = model.infer(images, frames)[0]
    change(model)
    after = model.infer(images, frames)[0]
    with torch.no_grad():
        raw = copy.deepcopy(model).eval()(images) if change is not pruned else model.eval()(images)
    wanted = model.postprocess(raw, frames)[0]
    assert before != after
    torch.testing.assert_close(after.scores, wanted.scores, rtol=1e-3, atol=1e-5)


def test_classes_options_and_preprocess_are_those_of_the_call() -> None:
    torch.manual_seed(0)
    own = {"size": 96, "pretrained": False, "score": 0.0}
    model = boxatlas.create_model("yolov3_efficientnet_lite0", classes=("cat", "dog"), **own).eval()
    model.detect(PICTURE, score=LOW)
    model.classes = ("wolf", "bear")
    assert set(model.detect(PICTURE, score=LOW).names) <= {"wolf", "bear"}
    model.config = model.config.model_copy(update={"max_detections": 3})
    assert len(model.detect(PICTURE, score=LOW)) == 3
    seen = model.detect(PICTURE, score=LOW)
    model.preprocess = model.preprocess.model_copy(update={"scale": 1 / 512})
    assert model.detect(PICTURE, score=LOW) != seen


def test_any_single_changed_element_is_noticed() -> None:
    torch.manual_seed(0)
    holder = nn.Module()
    kinds = (torch.float32, torch.float16, torch.float64, torch.int64, torch.uint8, torch.bool)
    for i, kind in enumerate(kinds):
        for j, size in enumerate((1, 3, 4097, 5003)):  # odd sizes leave bytes beside whole words
            holder.register_buffer(f"b{i}_{j}", torch.zeros(size, dtype=kind))
    holder.register_buffer("last", torch.randn(40, 30, 3, 3).to(memory_format=torch.channels_last))
    holder.register_buffer("strided", torch.randn(100, 200)[:, ::2])
    taken = Snapshot(holder)
    assert taken.still(holder)
    for buffer in holder.buffers():
        flat = buffer.as_strided((buffer.numel(),), (1,)) if buffer.is_contiguous() else buffer
        for place in (0, -1):
            where = tuple([place] * flat.ndim)
            old = flat[where].clone()
            flat.data[where] = 1 if not old else 0
            assert not taken.still(holder)
            flat.data[where] = old
            assert taken.still(holder)


def test_training_mode_is_no_change(model: Detector) -> None:
    model.detect(PICTURE)
    fast = model.fast()
    model.train()
    assert model.fast() is fast


def test_copies_and_pickles_of_a_detector_that_has_detected(
    model: Detector, tmp_path: Path
) -> None:
    wanted = model.detect(PICTURE, score=LOW)
    assert pickle.loads(pickle.dumps(model)).detect(PICTURE, score=LOW) == wanted
    assert copy.deepcopy(model).detect(PICTURE, score=LOW) == wanted
    torch.save(model, tmp_path / "whole.pt")
    assert (
        torch.load(tmp_path / "whole.pt", weights_only=False).detect(PICTURE, score=LOW) == wanted
    )


def test_an_export_leaves_a_model_as_it_was(model: Detector) -> None:
    class Raw(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
            return tuple(self.model(x).values())

    size = model.preprocess.size
    torch.export.export(Raw(), (torch.rand(1, 3, *size),))
    assert len(model.detect(PICTURE, score=LOW))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_every_precision(model: Detector, dtype: torch.dtype) -> None:
    wanted = model.detect(PICTURE, score=LOW)
    found = model.to(dtype).detect(PICTURE, score=LOW)
    assert found.scores.dtype == torch.float32
    torch.testing.assert_close(found.scores[:5], wanted.scores[:5], rtol=0.05, atol=0.01)


def test_surroundings_of_every_kind(model: Detector) -> None:
    wanted = model.detect(PICTURE, score=LOW)
    with torch.inference_mode():
        inside = model.detect(PICTURE, score=LOW)
    inside.boxes += 1  # an ordinary tensor all the same
    with torch.autocast("cpu", torch.bfloat16):
        assert model.detect(PICTURE, score=LOW) == wanted
    torch.set_default_dtype(torch.float64)
    try:
        fresh = copy.deepcopy(model)
        assert fresh.detect(PICTURE, score=LOW) == wanted
    finally:
        torch.set_default_dtype(torch.float32)
    fresh = copy.deepcopy(model)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: fresh.detect(PICTURE, score=LOW), range(8)))
    assert all(one == wanted for one in found)


def test_found_boxes_are_edited_and_learned_from(model: Detector) -> None:
    found = model.detect(PICTURE, score=LOW)
    found.boxes += 10
    weight = torch.ones((), requires_grad=True)
    (found.scores * weight).sum().backward()
    assert weight.grad is not None


def test_sources_of_every_kind_give_the_same(model: Detector, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(PICTURE).save(path)
    wanted = model.detect(PICTURE, score=LOW)
    planes = torch.from_numpy(PICTURE).permute(2, 0, 1)
    for source in (
        str(path), path, path.read_bytes(), Image.open(path), planes, planes.float() / 255,
        PICTURE.astype(np.uint16) * 257, PICTURE.astype(np.int64), PICTURE / 255.0,
        PICTURE.astype(np.float64),
    ):  # fmt: skip
        assert model.detect(source, score=LOW) == wanted
    assert model.detect(PICTURE[..., ::-1], score=LOW, bgr=True) == wanted
    assert model.detect(path, score=LOW, bgr=True) == wanted  # a file's order is known
    for several in (
        [path, PICTURE], (PICTURE, planes), np.stack([PICTURE] * 2), torch.stack([planes] * 2)
    ):  # fmt: skip
        assert model.detect(several, score=LOW) == [wanted, wanted]
    stream = model.detect((p for p in [path, PICTURE, path]), score=LOW)
    assert isinstance(stream, Iterator)
    assert list(stream) == [wanted] * 3
    assert model.detect([], score=LOW) == []


@pytest.mark.parametrize("source", [None, 3, {"a": 1}, {"a"}, object()])
def test_what_is_no_picture_is_one_line(model: Detector, source: Any) -> None:
    with pytest.raises(InputError, match="no picture"):
        model.detect(source)


def test_a_detector_called_like_a_function_says_what_to_call(model: Detector) -> None:
    with pytest.raises(InputError, match=r"model\.detect"):
        model("photo.jpg")


@pytest.mark.parametrize(
    "options",
    [
        {"score": 7}, {"score": -0.1}, {"score": float("nan")}, {"score": "high"},
        {"nms_iou": 1.5}, {"nms_iou": -1}, {"max_detections": 0}, {"max_detections": -3},
        {"max_detections": 2.5}, {"batch_size": 0}, {"classes": ["bird"]}, {"classes": "bird"},
    ],
)  # fmt: skip
def test_values_out_of_bounds_are_one_line_that_names_them(
    model: Detector, options: dict[str, Any]
) -> None:
    with pytest.raises(InputError, match=next(iter(options))):
        model.detect(PICTURE, **options)


def test_classes_count_and_suppression_of_one_call(model: Detector) -> None:
    whole = model.detect(PICTURE, score=LOW)
    dogs = model.detect(PICTURE, score=LOW, classes="dog", max_detections=5)
    assert set(dogs.names) == {"dog"}
    assert len(dogs) == 5
    assert dogs[0] == whole.filter(classes="dog")[0]
    assert len(model.detect(PICTURE, score=LOW, max_detections=2)) == 2


@pytest.mark.parametrize(
    "name",
    [
        "ssdlite320_efficientnet_lite0",
        "yolov3_efficientnet_lite0",
        "faster_rcnn320_efficientnet_lite0_fpn",
    ],
)
def test_suppression_is_set_for_one_call(name: str) -> None:
    torch.manual_seed(0)
    model = boxatlas.create_model(name, classes=("cat", "dog"), size=128, pretrained=False).eval()
    fast = model.fast()
    most, least = (
        len(model.detect(PICTURE, score=0.0, nms_iou=iou, max_detections=500))
        for iou in (1.0, 0.05)
    )
    assert least < most
    assert model.fast() is fast
    model.config = model.config.model_copy(update={"nms_iou": 0.05})  # read where it stands
    assert len(model.detect(PICTURE, score=0.0, max_detections=500)) == least


def test_pictures_are_kept_only_when_asked_for(model: Detector, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(PICTURE).save(path)
    assert model.detect(path).image is None
    assert model.detect(path).draw().size == (80, 60)  # read again
    assert (model.detect(PICTURE, keep_images=True).image == PICTURE).all()
    with pytest.raises(InputError, match="keep_images"):
        model.detect(PICTURE).draw()
    Image.new("RGB", (9, 9)).save(path)
    with pytest.raises(InputError, match="size"):
        Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0).long(), (), (60, 80),
                   path=str(path)).draw()  # fmt: skip


def test_a_stream_holds_one_batch(model: Detector) -> None:
    side = 400

    def pictures(count: int) -> Iterator[np.ndarray]:
        for i in range(count):
            yield np.full((side, side, 3), i % 256, np.uint8)

    model.detect(np.zeros((side, side, 3), np.uint8))
    tracemalloc.start()
    for _ in model.detect(pictures(30), batch_size=2):
        pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * side * side * 3  # not 30 pictures
