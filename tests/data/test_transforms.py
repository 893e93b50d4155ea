"""Augmentation as a person would test it: with marks painted into boxes, and by its statistics."""

from __future__ import annotations

import colorsys

import numpy as np
import pytest
import torch
from scipy import stats

from boxatlas.data.masks import decode
from boxatlas.data.transforms import KINDS, Sample, augmentation
from boxatlas.data.transforms.colour import Distortion, painted
from boxatlas.data.transforms.sample import View, rendered
from boxatlas.data.transforms.ssd import SSDAugmentation, centres_inside
from boxatlas.errors import InputError
from boxatlas.images import Preprocess

MARKS = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255]], np.uint8)
BOXES = np.array([[20, 30, 90, 80], [100, 20, 180, 110], [60, 90, 95, 140]], np.float32)
PLAIN = {"scale": 1.0, "mean": (0, 0, 0), "std": (1, 1, 1)}  # a network input is the pixels
NO_COLOUR = {"ssd": {"distort": 0.0}, "yolo": {"hue": 0.0, "saturation": 1.0, "exposure": 1.0}}


def marked(masks: str | None = None, proposals: bool = False) -> Sample:
    """A grey picture whose boxes are filled with red, green and blue."""
    pixels = np.full((150, 200, 3), 128, np.uint8)
    for box, colour in zip(BOXES.astype(int), MARKS, strict=True):
        pixels[box[1] : box[3], box[0] : box[2]] = colour
    made = None
    if masks == "polygon":
        made = [[[x1, y1, x2, y1, x2, y2, x1, y2]] for x1, y1, x2, y2 in BOXES.tolist()]
    elif masks == "rle":
        made = []
        for x1, y1, x2, y2 in BOXES.astype(int).tolist():
            columns = [150 * x1 + y1, *([y2 - y1, 150 - (y2 - y1)] * (x2 - x1))]
            columns[-1] += 150 * (200 - x2) - y1
            made.append({"size": [150, 200], "counts": columns})
    return Sample(
        pixels,
        BOXES.copy(),
        np.arange(3, dtype=np.int32),
        np.array([False, True, False]),
        made,
        BOXES.copy() if proposals else None,
    )


def extent(image: torch.Tensor, mark: int, channels: str = "rgb") -> list[float] | None:
    """The box around the pixels that are nearer to a mark's colour than to anything else."""
    order = [2, 1, 0] if channels == "bgr" else [0, 1, 2]
    distance = (image[order] - torch.tensor(MARKS[mark].astype(np.float32))[:, None, None]).abs()
    rows, columns = torch.nonzero(distance.amax(0) < 64, as_tuple=True)
    if len(rows) == 0:
        return None
    return [
        float(columns.min()),
        float(rows.min()),
        float(columns.max()) + 1,
        float(rows.max()) + 1,
    ]


@pytest.mark.parametrize("channels", ["rgb", "bgr"])
@pytest.mark.parametrize("kind", list(KINDS))
def test_a_mark_painted_into_a_box_is_still_inside_it(kind: str, channels: str):
    augment = augmentation(kind, **NO_COLOUR.get(kind, {}))
    preprocess = Preprocess(size=(240, 240), channels=channels, **PLAIN)
    seen = 0
    for seed in range(60):
        image, _, objects = augment(marked(), preprocess, np.random.default_rng(seed))
        for box, label in zip(objects.boxes, objects.labels, strict=True):
            mark = extent(image, int(label), channels)
            if mark is None:  # a sliver at the edge, blended away
                assert min(box[2] - box[0], box[3] - box[1]) < 6
                continue
            # To the width of an interpolated edge, which grows with the magnification.
            np.testing.assert_allclose(mark, box, atol=6)
            seen += 1
    assert seen > 60


@pytest.mark.parametrize("form", ["polygon", "rle"])
@pytest.mark.parametrize("kind", list(KINDS))
def test_masks_and_proposals_move_as_boxes_do(kind: str, form: str):
    augment = augmentation(kind, **NO_COLOUR.get(kind, {}))
    preprocess = Preprocess(size=(200, 260), **PLAIN)
    for seed in range(15):
        image, _, objects = augment(
            marked(form, proposals=True), preprocess, np.random.default_rng(seed)
        )
        assert objects.masks is not None
        assert objects.proposals is not None
        assert len(objects.proposals) == 3  # all of them, whatever becomes of the objects
        np.testing.assert_allclose(objects.proposals[objects.labels], objects.boxes, atol=1e-4)
        assert objects.ignore.tolist() == [label == 1 for label in objects.labels]
        for box, mask in zip(objects.boxes, objects.masks, strict=True):
            if form == "polygon":
                xs, ys = np.array(mask[0][0::2]), np.array(mask[0][1::2])
                around = np.array([xs.min(), ys.min(), xs.max(), ys.max()])
                limit = np.array([image.shape[2], image.shape[1]] * 2)
                np.testing.assert_allclose(around.clip(0, limit), box, atol=1e-2)
            elif min(box[2] - box[0], box[3] - box[1]) > 2:
                bitmap = decode(mask)
                assert bitmap.shape == tuple(image.shape[1:])
                rows, columns = np.nonzero(bitmap)
                around = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
                np.testing.assert_allclose(around, box, atol=1.01)


@pytest.mark.parametrize("resize", ["stretch", "letterbox", "shorter"])
def test_the_boxes_are_those_that_the_frame_says(resize: str):
    preprocess = Preprocess(size=(120, 300), resize=resize, **PLAIN)
    _, frame, objects = augmentation("none")(marked(), preprocess, np.random.default_rng(0))
    np.testing.assert_allclose(objects.boxes, frame.apply(torch.tensor(BOXES)).numpy(), atol=1e-3)
    undone = frame.undo(torch.tensor(objects.boxes))
    np.testing.assert_allclose(undone.numpy(), BOXES, atol=1e-3)


@pytest.mark.parametrize("form", [None, "polygon", "rle"])
def test_flipped_twice_is_the_identity(form: str | None):
    first, preprocess = marked(form, proposals=True), Preprocess(size=(150, 200), **PLAIN)
    flip = augmentation("flip", p=1.0)
    once, _, objects = flip(first, preprocess, np.random.default_rng(0))
    assert not torch.equal(once, torch.from_numpy(first.pixels).permute(2, 0, 1).float())
    objects.pixels = once.permute(1, 2, 0).numpy().astype(np.uint8)
    twice, _, again = flip(objects, preprocess, np.random.default_rng(0))
    assert torch.equal(twice, torch.from_numpy(first.pixels).permute(2, 0, 1).float())
    assert again.boxes.tolist() == BOXES.tolist()
    assert again.proposals is not None
    assert again.proposals.tolist() == BOXES.tolist()
    for mask, source in zip(again.masks or [], first.masks or [], strict=True):
        if form == "polygon":
            np.testing.assert_allclose(mask, source)
        else:
            assert np.array_equal(decode(mask), decode(source))


def test_flip_mirrors_every_second_image():
    flip, preprocess = augmentation("flip"), Preprocess(size=(150, 200), **PLAIN)
    rng = np.random.default_rng(3)
    left = [flip(marked(), preprocess, rng)[2].boxes[0, 0] == BOXES[0, 0] for _ in range(400)]
    assert abs(np.mean(left) - 0.5) < 4 * np.sqrt(0.25 / 400)


# -- SSD's rules (arXiv 1512.02325, section 2.2) ---------------------------------------------------

DRAWS = 4000


def uniform(values: np.ndarray, low: float, high: float) -> None:
    """Kolmogorov and Smirnov do not object at one in a thousand."""
    assert stats.kstest(values, stats.uniform(low, high - low).cdf).pvalue > 1e-3


def test_trial_crops_have_the_papers_scales_ratios_and_places():
    crops = SSDAugmentation().trial_crops(20_000, np.random.default_rng(0))
    sides = crops[:, 2:] - crops[:, :2]
    assert crops.min() >= 0
    assert crops.max() <= 1 + 1e-9
    scale, ratio = np.sqrt(sides.prod(1)), sides[:, 0] / sides[:, 1]
    uniform(scale, 0.3, 1.0)
    assert ratio.min() >= 0.5
    assert ratio.max() <= 2
    small = scale < np.sqrt(0.5)  # where every ratio from 1/2 to 2 fits into the image
    uniform(ratio[small], 0.5, 2.0)
    free = 1 - sides
    uniform((crops[:, :2] / free)[free > 1e-6], 0, 1)


def test_the_samplers_are_drawn_evenly():
    """Over a box of the whole image a crop's IoU is its area: each sampler's chance is known."""
    whole = np.array([[0, 0, 100, 100]], np.float32)
    augment, rng = SSDAugmentation(), np.random.default_rng(1)
    views = np.array([augment.cropped((0, 0, 100, 100), whole, rng) for _ in range(DRAWS)])
    area = (views[:, 2:] - views[:, :2]).prod(1) / 1e4
    taken = np.all(views == [0, 0, 100, 100], axis=1)
    miss = (1 - (1 - np.sqrt(0.9)) / 0.7) ** 50  # all trials of the sampler of 0.9 too small
    expected = (1 - miss) / 7 + miss / 6
    assert abs(taken.mean() - expected) < 4 * np.sqrt(expected / DRAWS)
    # A crop of area a > 0.9 comes from any of the six, of a < 0.1 only from the free one.
    tiny = 1 / 7 * (np.sqrt(0.1) - 0.3) / 0.7
    assert abs((area < 0.1).mean() - tiny) < 4 * np.sqrt(tiny / DRAWS)


def test_without_objects_only_the_whole_and_the_free_crop_remain():
    augment, rng = SSDAugmentation(), np.random.default_rng(2)
    none = np.zeros((0, 4), np.float32)
    views = np.array([augment.cropped((0, 0, 1, 1), none, rng) for _ in range(DRAWS)])
    whole = np.all(views == [0, 0, 1, 1], axis=1)
    assert abs(whole.mean() - 0.5) < 4 * np.sqrt(0.25 / DRAWS)
    crops = views[~whole]
    uniform(np.sqrt((crops[:, 2:] - crops[:, :2]).prod(1)), 0.3, 1.0)


@pytest.mark.parametrize("constraint", ["any", "all"])
def test_a_crop_overlaps_as_its_sampler_asks(constraint: str):
    augment = SSDAugmentation.of(overlaps=(0.7,), constraint=constraint)
    boxes = np.array([[0, 0, 100, 90], [5, 5, 95, 95]], np.float32)
    rng = np.random.default_rng(3)
    views = np.array([augment.cropped((0, 0, 100, 100), boxes, rng) for _ in range(900)])
    low, high = (
        np.maximum(views[:, None, :2], boxes[:, :2]),
        np.minimum(views[:, None, 2:], boxes[:, 2:]),
    )
    shared = (high - low).clip(0).prod(-1)
    area = (views[:, 2:] - views[:, :2]).prod(1)[:, None]
    iou = shared / (area + (boxes[:, 2:] - boxes[:, :2]).prod(1) - shared)
    reach = iou.max(1) if constraint == "any" else iou.min(1)
    # A third each: the whole image (which overlaps well here), the sampler of 0.7, the free crop.
    free = (reach < 0.7).mean()
    assert 0 < free < 1 / 3 + 4 * np.sqrt(2 / 9 / 900)


def test_zoom_out_is_up_to_four_times_the_sides_in_every_second_image():
    augment, rng, sample = SSDAugmentation(), np.random.default_rng(4), marked()
    views = np.array([augment.expanded(sample, rng) for _ in range(DRAWS)])
    whole = np.all(views == [0, 0, 200, 150], axis=1)
    assert abs(whole.mean() - 0.5) < 4 * np.sqrt(0.25 / DRAWS)
    out = views[~whole]
    ratio = (out[:, 2] - out[:, 0]) / 200
    np.testing.assert_allclose(ratio, (out[:, 3] - out[:, 1]) / 150)
    uniform(ratio, 1, 4)
    uniform(-out[:, 0] / (200 * (ratio - 1)), 0, 1)
    uniform(-out[:, 1] / (150 * (ratio - 1)), 0, 1)


def test_colours_change_each_with_its_own_chance():
    augment, rng = SSDAugmentation(), np.random.default_rng(5)
    drawn = [augment.distortion(rng) for _ in range(DRAWS)]
    add, hue = np.array([d.add for d in drawn]), np.array([d.hue for d in drawn])
    contrast = np.array([d.gain * d.last for d in drawn])
    saturation = np.array([d.saturation for d in drawn])
    for values, still, low, high in (
        (add, 0, -32, 32),
        (contrast, 1, 0.5, 1.5),
        (saturation, 1, 0.5, 1.5),
        (hue, 0, -0.1, 0.1),
    ):
        changed = values[values != still]
        assert abs(len(changed) / DRAWS - 0.5) < 4 * np.sqrt(0.25 / DRAWS)
        uniform(changed, low, high)
    last = np.array([d.last != 1 for d in drawn])[contrast != 1]
    assert abs(last.mean() - 0.5) < 4 * np.sqrt(0.25 / len(last))


def test_an_object_stays_while_its_centre_does():
    boxes = np.array([[0, 0, 20, 20], [40, 40, 60, 60], [90, 90, 100, 100]], np.float32)
    assert centres_inside(boxes, (10, 10, 50, 50)).tolist() == [True, True, False]


def test_objects_are_cut_to_the_crop():
    preprocess = Preprocess(size=(100, 100), **PLAIN)
    _, _, objects = rendered(marked(), View((50, 50, 150, 150)), preprocess)
    expected = [[0, 0, 40, 30], [50, 0, 100, 60], [10, 40, 45, 90]]
    np.testing.assert_allclose(objects.boxes, expected, atol=1e-4)


def test_colours_change_as_in_hsv():
    """Brightness, contrast, saturation and hue against Python's own colour model."""
    rng = np.random.default_rng(6)
    pixels = rng.integers(0, 256, (8, 9, 3), dtype=np.uint8)
    preprocess = Preprocess(size=(8, 9), **PLAIN)
    for d in (
        Distortion(add=20.0, gain=1.3),
        Distortion(hue=0.09),
        Distortion(saturation=1.4),
        Distortion(-15.0, 1.0, 0.6, -0.07, 1.2),
    ):
        out = painted(pixels, (0, 0), (8, 9), (0, 0, 0), False, d, preprocess)
        for y in range(8):
            for x in range(9):
                value = ((pixels[y, x].astype(float) + d.add).clip(0, 255) * d.gain).clip(0, 255)
                h, s, v = colorsys.rgb_to_hsv(*value)
                rgb = colorsys.hsv_to_rgb((h + d.hue) % 1, min(s * d.saturation, 1), v)
                expected = (np.array(rgb) * d.last).clip(0, 255)
                np.testing.assert_allclose(out[:, y, x].numpy(), expected, atol=0.1)


def test_what_zoom_out_adds_is_not_distorted():
    preprocess = Preprocess(size=(20, 20), **PLAIN)
    pixels = np.full((10, 10, 3), 100, np.uint8)
    out = painted(
        pixels, (5, 5), (20, 20), (123, 117, 104), False, Distortion(add=50.0), preprocess
    )
    assert out[:, 0, 0].tolist() == [123, 117, 104]
    assert out[:, 10, 10].tolist() == [150, 150, 150]


def test_without_augmentation_training_sees_what_detection_sees():
    preprocess = Preprocess(size=(96, 128))
    image, frame, _ = augmentation("none")(marked(), preprocess, np.random.default_rng(0))
    detected, other = preprocess(marked().pixels)
    assert torch.equal(image, detected)
    assert frame == other


def test_misspelt_kinds_and_options_name_the_nearest():
    with pytest.raises(InputError, match="did you mean 'flip'"):
        augmentation("flop")
    with pytest.raises(InputError, match="mirror"):
        augmentation("ssd", miror=0.5)


@pytest.mark.parametrize(
    ("kind", "option", "value"),
    [
        ("flip", "p", 1.5),
        ("ssd", "scale", (0, 0)),
        ("ssd", "scale", (0.5, 2)),
        ("ssd", "ratio", (2, 0.5)),
        ("ssd", "trials", 0),
        ("ssd", "zoom_ratio", 0.5),
        ("ssd", "overlaps", (0.5, 2)),
        ("yolo", "jitter", 1),
        ("yolo", "exposure", 0),
        ("yolo", "hue", float("nan")),
    ],
)
def test_a_range_that_cannot_be_is_refused(kind: str, option: str, value: object) -> None:
    with pytest.raises(InputError, match=f"^{option}"):
        augmentation(kind, **{option: value})
