"""R-CNN's crops: against the vector, against plain resizing, and by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from boxatlas.ops.crops import Crop
from boxatlas.verify import run


def one(crop: Crop, image: torch.Tensor, box: list[float]) -> torch.Tensor:
    return crop(image[None], torch.tensor([box]), torch.zeros(1, dtype=torch.int64))[0]


def test_crops_equal_the_reference_vector(parity_dir: Path) -> None:
    assert [r.status for r in run(parity_dir, "op_rcnn_crop")] == ["pass"]


def test_without_context_a_box_of_the_crops_size_is_cut_out_as_it_is() -> None:
    image = torch.rand(3, 60, 80)
    crop = one(Crop(32, "warp", 0), image, [10, 20, 42, 52])
    assert torch.equal(crop, image[:, 20:52, 10:42])


def test_a_warp_is_a_bilinear_resize_of_the_box() -> None:
    image = torch.rand(3, 60, 80)
    crop = one(Crop(32, "warp", 0), image, [5, 7, 50, 30])
    expected = F.interpolate(image[None, :, 7:30, 5:50], (32, 32), mode="bilinear")[0]
    torch.testing.assert_close(crop, expected, atol=1e-5, rtol=1e-5)


def test_context_surrounds_the_box_by_as_many_pixels_of_the_crop() -> None:
    """An image that is 1 in the box alone: the crop is 0 in a frame of 16 pixels, 1 within."""
    image = torch.zeros(1, 200, 300)
    image[:, 60:110, 80:200] = 1
    crop = one(Crop(64, "warp", 16), image, [80, 60, 200, 110])[0]
    assert crop[18:46, 18:46].min() == 1
    assert crop[:14].max() == crop[-14:].max() == 0
    assert crop[:, :14].max() == crop[:, -14:].max() == 0


def test_a_square_keeps_the_shape_of_what_it_shows() -> None:
    """A box twice as wide as high fills the width and half the height."""
    image = torch.zeros(1, 200, 200)
    image[:, 80:120, 60:140] = 1
    crop = one(Crop(80, "square", 0), image, [60, 80, 140, 120])[0]
    assert crop[22:58, 1:-2].min() == 1  # the program's square is a pixel larger than the box
    assert crop[:18].max() == crop[-18:].max() == 0
    warped = one(Crop(80, "warp", 0), image, [60, 80, 140, 120])[0]
    assert warped.min() == 1


def test_a_masked_square_shows_the_box_alone() -> None:
    image = torch.ones(1, 200, 200)
    box = [60, 80, 140, 120]
    whole = one(Crop(80, "square", 0), image, box)[0]
    masked = one(Crop(80, "square_masked", 0), image, box)[0]
    assert whole.min() == 1
    assert masked[20:60, 2:-2].min() == 1
    assert masked[:18].max() == masked[-18:].max() == 0


def test_what_lies_beyond_the_image_is_0_and_the_mean_goes_off_within() -> None:
    image, mean = torch.full((1, 40, 40), 7.0), torch.full((1, 48, 48), 2.0)
    crop = Crop(48, "warp", 12)
    # The box fills the image, so that a quarter of the crop on every side lies beyond.
    geometry = crop.geometry(torch.tensor([[0.0, 0, 40, 40]]), torch.tensor([[40, 40]]))
    x1, y1, x2, y2, width, height, left, top = geometry[0].tolist()
    assert (x1, y1, x2, y2) == (1, 1, 40, 40)
    assert left == top
    found = crop(image[None], torch.tensor([[0.0, 0, 40, 40]]), torch.tensor([0]), mean=mean)[0, 0]
    inside = torch.zeros(48, 48, dtype=torch.bool)
    inside[top : top + height, left : left + width] = True
    assert (found[inside] == 5).all()
    assert (found[~inside] == 0).all()
    assert 22 <= width <= 25


@given(
    seed=st.integers(0, 300),
    mode=st.sampled_from(["warp", "square"]),
    padding=st.sampled_from([0, 5]),
)
@settings(max_examples=30, deadline=None)
def test_a_batch_equals_its_boxes_one_by_one(seed: int, mode: str, padding: int) -> None:
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=generator)

    images = draw(3, 2, 50, 70)
    low = draw(9, 2) * torch.tensor([60.0, 40.0])
    boxes = torch.cat([low, low + 0.3 + draw(9, 2) * 9], 1)
    which = torch.randint(3, (9,), generator=generator)
    sizes = torch.tensor([[50, 70], [41, 66], [50, 52]])
    crop = Crop(24, mode, padding)  # type: ignore[arg-type]
    together = crop(images, boxes, which, sizes)
    assert together.shape == (9, 2, 24, 24)
    assert together.isfinite().all()
    for i in range(9):
        height, width = sizes[which[i]].tolist()
        alone = crop(
            images[which[i], None, :, :height, :width], boxes[i : i + 1], torch.tensor([0])
        )
        torch.testing.assert_close(together[i], alone[0], atol=1e-6, rtol=0)
    parts = list(crop.batches(images, boxes, which, sizes, 4))
    assert torch.equal(torch.cat(parts), together)


@pytest.mark.parametrize("box", [[3.0, 3, 3.2, 3.2], [0, 0, 20, 1], [19, 19, 20, 20]])
def test_boxes_of_a_pixel_give_whole_crops(box: list[float]) -> None:
    image = torch.full((1, 20, 20), 3.0)
    for mode in ("warp", "square", "square_masked"):
        for padding in (0, 4):
            found = one(Crop(16, mode, padding), image, box)  # type: ignore[arg-type]
            assert found.shape == (1, 16, 16)
            assert found.max() == 3
