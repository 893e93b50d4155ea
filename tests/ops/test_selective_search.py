"""Selective search: each step against its definition, written out slowly or worked by hand."""

import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.segmentation import felzenszwalb as skimage_felzenszwalb

import boxatlas.ops
from boxatlas.errors import InputError
from boxatlas.ops.colour_spaces import COLOUR_SPACES, convert
from boxatlas.ops.felzenszwalb import felzenszwalb
from boxatlas.ops.grouping import SIMILARITIES, group, similarity, union
from boxatlas.ops.regions import codes, describe
from boxatlas.ops.search import SelectiveSearch, hierarchies, ranked, selective_search
from boxatlas.verify import run


def blobs(height=60, width=80, seed=0, channels=3):
    """A small picture of overlapping shapes under a little noise."""
    rng = np.random.default_rng(seed)
    image = np.full((height, width, channels), rng.integers(0, 255, channels), np.int64)
    y, x = np.mgrid[:height, :width]
    for _ in range(9):
        cy, cx, r = rng.integers(height), rng.integers(width), rng.integers(4, height // 3)
        image[(y - cy) ** 2 + ((x - cx) * rng.uniform(0.5, 1.5)) ** 2 < r * r] = rng.integers(
            0, 255, channels
        )
    return (image + rng.integers(-9, 10, image.shape)).clip(0, 255).astype(np.uint8)


def regions_of(image, labels):
    planes = np.ascontiguousarray(np.atleast_3d(image).transpose(2, 0, 1))
    return describe(codes(planes), labels.astype(np.int32), int(labels.max()) + 1)


# -- the graph-based segmentation -------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("sigma", [0.0, 0.8, 1.7])
def test_segments_equal_scikit_image(seed, sigma):
    """Real-valued colours have no ties, so that the order of the edges is the same."""
    rng = np.random.default_rng(seed)
    image = blobs(50, 70, seed) / 255 + rng.uniform(-0.02, 0.02, (50, 70, 3))
    # There the scale is in units of 255 and the Gaussian leaves floats as they are.
    expected = skimage_felzenszwalb(image, scale=60, sigma=sigma, min_size=20)
    found = felzenszwalb(image, k=60 / 255, sigma=sigma, min_size=20)
    pairs = np.unique(np.stack([expected.ravel(), found.ravel()]), axis=1)
    assert pairs.shape[1] == expected.max() + 1 == found.max() + 1
    assert found.max() > 3


def test_segments_are_numbered_by_their_first_pixel_and_large_enough():
    labels = felzenszwalb(blobs(), k=30, min_size=25)
    first = [int(np.flatnonzero(labels.ravel() == i)[0]) for i in range(labels.max() + 1)]
    assert first == sorted(first)
    assert np.bincount(labels.ravel()).min() >= 25


def test_a_step_splits_where_it_is_higher_than_k_over_size():
    """Two flat halves of 50 pixels: internal difference 0, so they join when step <= k / 50."""
    image = np.zeros((10, 10))
    image[:, 5:] = 4.0
    assert felzenszwalb(image, k=4.0 * 50 - 1, sigma=0, min_size=1).max() == 1
    assert felzenszwalb(image, k=4.0 * 50 + 1, sigma=0, min_size=1).max() == 0


# -- colour spaces ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("space", "pixel", "expected"),
    [
        ("RGB", (10, 20, 30), (10, 20, 30)),
        ("I", (10, 20, 60), (30,)),
        ("HSV", (0, 255, 0), (85, 255, 255)),  # green at 120 of 360 degrees
        ("HSV", (100, 50, 50), (0, 128, 100)),
        ("H", (0, 0, 200), (170,)),
        ("rgb", (30, 60, 60), (51, 102, 102)),  # 255 * 1/5 and 2/5
        ("rgI", (30, 60, 60), (51, 102, 50)),
        ("rgb", (0, 0, 0), (85, 85, 85)),  # black counts as grey
        ("C", (90, 90, 90), (128, 170)),  # grey: both opponents are 0
        ("C", (200, 0, 0), (255, 255)),
        ("C", (0, 0, 7), (128, 0)),
        ("Lab", (255, 255, 255), (255, 128, 128)),
        ("Lab", (0, 0, 0), (0, 128, 128)),
        ("Lab", (255, 0, 0), (136, 208, 195)),  # L 53.24, a 80.09, b 67.20
    ],
)
def test_colour_of_a_pixel(space, pixel, expected):
    found = convert(np.array(pixel, np.uint8)[None, None], space)
    assert found.dtype == np.uint8
    assert tuple(found[:, 0, 0].tolist()) == expected


def test_lab_and_hsv_follow_scikit_image():
    from skimage.color import rgb2hsv, rgb2lab

    image = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    lab = rgb2lab(image) * [2.55, 1, 1] + [0, 128, 128]
    assert np.abs(convert(image, "Lab").transpose(1, 2, 0) - lab).max() < 1.0
    assert np.abs(convert(image, "HSV").transpose(1, 2, 0) - rgb2hsv(image) * 255).max() <= 0.51


def test_chromaticity_does_not_see_the_intensity():
    image = np.random.default_rng(1).integers(10, 60, (8, 8, 3), np.uint8)
    for space in ("rgb", "C", "H"):
        assert np.abs(convert(image, space).astype(int) - convert(image * 4, space)).max() <= 1


# -- regions and similarities -----------------------------------------------------------------


def test_similarities_by_hand():
    """A 4 x 6 image in three regions: A its left 4 x 2, B the upper 2 x 4, C the lower 2 x 4."""
    labels = np.zeros((4, 6), np.int32)
    labels[:2, 2:], labels[2:, 2:] = 1, 2
    image = np.zeros((4, 6, 1), np.uint8)
    image[:, 1] = 200  # half of A lies in bin 200 * 25 // 256 = 19
    image[:2, 2:] = 200  # all of B
    regions = regions_of(image, labels)
    pairs = np.array([[0, 1], [0, 2], [1, 2]])
    assert regions.sizes.tolist() == [8, 8, 8]
    assert regions.boxes.tolist() == [[0, 0, 2, 4], [2, 0, 6, 2], [2, 2, 6, 4]]
    assert regions.colour[0].nonzero()[0].tolist() == [0, 19]
    np.testing.assert_allclose(similarity(regions, pairs, ["colour"]), [0.5, 0.5, 0.0])
    np.testing.assert_allclose(similarity(regions, pairs, ["size"]), [1 - 16 / 24] * 3, rtol=1e-6)
    # Only B with C fill their common box; A with either leaves 8 of 24 pixels.
    np.testing.assert_allclose(
        similarity(regions, pairs, ["fill"]), [1 - 8 / 24, 1 - 8 / 24, 1.0], rtol=1e-6
    )
    joined = union(regions, 0, 1)
    assert joined.sizes[0] == 16
    assert joined.boxes[0].tolist() == [0, 0, 6, 4]
    assert joined.colour[0, [0, 19]].tolist() == [0.25, 0.75]
    np.testing.assert_allclose(similarity(joined, np.array([[0, 2]]), ["fill"]), [1.0])


def test_texture_of_a_ramp_by_hand():
    """Along a ramp of slope 12 the derivative is 12 to the right, 12 / sqrt(2) on its two sides."""
    image = np.tile((np.arange(21) * 12).astype(np.uint8), (9, 1))[..., None]
    middle = codes(np.ascontiguousarray(image.transpose(2, 0, 1)))[4, 10]
    bins = [int(12 * f / 10.2) for f in (1, 0.7071, 0, 0.7071)]  # ten bins of 0..102
    # right, down right and down; up to the left runs against the ramp, so its opposite counts.
    assert middle[1:].tolist() == [25 + bins[0], 25 + 10 + bins[1], 25 + 20, 25 + 70 + bins[3]]
    regions = regions_of(image[:, 8:13], np.zeros((9, 5), np.int32))
    held = regions.texture.reshape(8, 10)
    np.testing.assert_allclose(held.sum(1), 1 / 8, rtol=1e-6)
    assert held[4, 0] == pytest.approx(1 / 8)  # to the left there is nothing


def test_similarities_equal_the_reference_vector(parity_dir):
    results = list(run(parity_dir, "op_selective_search_similarity"))
    assert [r.status for r in results] == ["pass"]


@given(seed=st.integers(0, 1000), k=st.sampled_from([10, 40, 200]))
@settings(max_examples=20, deadline=None)
def test_each_similarity_lies_in_0_to_1_and_is_symmetric(seed, k):
    image = blobs(30, 40, seed)
    labels = felzenszwalb(image, k=k, min_size=5)
    regions = regions_of(image, labels)
    pairs = np.stack(np.triu_indices(len(regions), 1), 1)
    for name in SIMILARITIES:
        values = similarity(regions, pairs, [name])
        assert (values > -1e-5).all()
        assert (values < 1 + 1e-5).all()
        np.testing.assert_allclose(values, similarity(regions, pairs[:, ::-1], [name]), rtol=1e-5)
    np.testing.assert_allclose(regions.colour.sum(1), 1, rtol=1e-5)
    np.testing.assert_allclose(regions.texture.sum(1), 1, rtol=1e-5)


# -- grouping ---------------------------------------------------------------------------------


def plain_grouping(image, labels, names):
    """Algorithm 1 on sets of pixels: every number is counted anew from the pixels of a region."""
    coded = codes(np.ascontiguousarray(image.transpose(2, 0, 1))).reshape(labels.size, -1)
    flat, (height, width) = labels.ravel(), labels.shape
    members = {i: np.flatnonzero(flat == i) for i in range(labels.max() + 1)}
    channels = image.shape[2]

    def histogram(pixels, part):
        counts = np.bincount(coded[pixels].ravel(), minlength=105 * channels).astype(float)
        if part == "colour":
            return counts[: 25 * channels] / counts[: 25 * channels].sum()
        texture = counts[25 * channels :].reshape(-1, 10)
        texture[:, 0] += len(pixels) - texture.sum(1)
        return texture.ravel() / texture.sum()

    def box(pixels):
        y, x = pixels // width, pixels % width
        return [x.min(), y.min(), x.max() + 1, y.max() + 1]

    def alike(a, b):
        a, b = members[a], members[b]
        x1, y1, x2, y2 = box(np.concatenate([a, b]))
        values = {
            "size": 1 - (len(a) + len(b)) / labels.size,
            "fill": 1 - ((x2 - x1) * (y2 - y1) - len(a) - len(b)) / labels.size,
        }
        for part in ("colour", "texture"):
            values[part] = np.minimum(histogram(a, part), histogram(b, part)).sum()
        return sum(values[name] for name in names)

    def touch(a, b):
        mask = np.zeros((height + 2, width + 2), bool)
        mask[1 + members[a] // width, 1 + members[a] % width] = True
        near = sum(np.roll(mask, (dy, dx), (0, 1)) for dy in (-1, 0, 1) for dx in (-1, 0, 1)) > 0
        return near[1 + members[b] // width, 1 + members[b] % width].any()

    alive = set(members)
    score = {(a, b): alike(a, b) for a in alive for b in alive if a < b and touch(a, b)}
    boxes = [box(members[i]) for i in range(len(members))]
    while score:
        a, b = max(score, key=lambda pair: score[pair])
        neighbours = {c for pair in score for c in pair if a in pair or b in pair} - {a, b}
        score = {pair: s for pair, s in score.items() if not {a, b} & set(pair)}
        new = len(boxes)
        members[new] = np.concatenate([members[a], members[b]])
        boxes.append(box(members[new]))
        score.update({(c, new): alike(c, new) for c in neighbours})
    return boxes


@pytest.mark.parametrize(
    "names", [tuple(SIMILARITIES), ("texture", "size", "fill"), ("colour",), ("fill",), ("size",)]
)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_grouping_equals_the_plain_version(names, seed):
    image = blobs(36, 48, seed)
    labels = felzenszwalb(image, k=20, min_size=12)
    assert labels.max() >= 6
    regions = regions_of(image, labels)
    boxes, sizes, merges, _ = group(regions, names)
    assert len(boxes) == 2 * len(regions) - 1
    assert len(merges) == len(regions) - 1
    if names not in (("fill",), ("size",)):  # of which many pairs have exactly as much
        assert boxes.tolist() == plain_grouping(image, labels, names)
    assert boxes[-1].tolist() == [0, 0, 48, 36]
    assert sizes[-1] == 36 * 48
    assert sorted(merges.ravel().tolist()) == list(range(2 * len(regions) - 2))


def test_grouping_by_size_by_hand():
    """Strips of 1, 2, 3 and 10 columns: by size alone the smallest two neighbours go first."""
    labels = np.repeat(np.arange(4), [1, 2, 3, 10])[None].repeat(5, 0).astype(np.int32)
    regions = regions_of(np.zeros((5, 16, 1), np.uint8), labels)
    _, sizes, merges, alike = group(regions, ["size"])
    assert [sorted(m) for m in merges.tolist()] == [[0, 1], [2, 4], [3, 5]]
    assert sizes[4:].tolist() == [15, 30, 80]
    np.testing.assert_allclose(alike, [1 - 15 / 80, 1 - 30 / 80, 0], atol=1e-6)


def test_a_region_that_borders_on_all_others():
    """A comb: one region with 300 neighbours, more pairs than there is room for at first."""
    labels = np.zeros((6, 602), np.int32)
    labels[1::2, 1:-1:2] = np.arange(1, 901).reshape(3, 300)
    labels[5] = 0
    labels = np.unique(labels, return_inverse=True)[1].reshape(labels.shape).astype(np.int32)
    image = np.random.default_rng(0).integers(0, 255, (6, 602, 1), np.uint8)
    boxes, sizes, _, _ = group(regions_of(image, labels), ["colour"])
    assert len(boxes) == 2 * (labels.max() + 1) - 1
    assert sizes[-1] == labels.size


# -- the whole ----------------------------------------------------------------------------------


def test_modes_are_those_of_the_paper():
    counts = {}
    for mode in ("single", "fast", "quality"):
        config = SelectiveSearch.of(mode=mode)
        counts[mode] = len(config.spaces) * len(config.sets) * len(config.ks)
    assert counts == {"single": 1, "fast": 8, "quality": 80}
    trees = hierarchies(blobs(), mode="fast")
    assert [(t.colour_space, t.k, "colour" in t.similarities) for t in trees] == [
        (space, k, colour)
        for space in ("HSV", "Lab")
        for k in (50, 100)
        for colour in (True, False)
    ]


def test_a_seed_fixes_the_order_and_only_the_order():
    image = blobs(seed=3)
    first, again, other = (selective_search(image, seed=seed) for seed in (1, 1, 2))
    assert first.dtype == np.float32
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert set(map(tuple, first)) == set(map(tuple, other))
    assert len(set(map(tuple, first))) == len(first)
    assert np.array_equal(first, selective_search(image, seed=1, threads=1))
    assert np.array_equal(first[:9], selective_search(image, seed=1, max_boxes=9))


def test_ranks():
    image = blobs(seed=4)
    config = SelectiveSearch.of(mode="single", rank="none")
    trees = hierarchies(image, config)
    boxes = list(dict.fromkeys(map(tuple, trees[0].boxes[::-1].astype(np.float32).tolist())))
    assert [tuple(b) for b in ranked(trees, config).tolist()] == boxes
    fast = SelectiveSearch.of(rank="position")
    by_position = ranked(hierarchies(image, fast), fast)
    assert by_position[0].tolist() == [0, 0, 80, 60]  # the whole image ends every hierarchy
    early = np.mean(
        [
            (selective_search(image, seed=s)[:10, 2:] - selective_search(image, seed=s)[:10, :2])
            .prod(1)
            .mean()
            for s in range(8)
        ]
    )
    every = selective_search(image)
    assert early > (every[:, 2:] - every[:, :2]).prod(1).mean()  # large ones tend to come first


@pytest.mark.parametrize(
    "options",
    [
        {"colour_spaces": ("RGB",)},
        {"colour_spaces": tuple(COLOUR_SPACES)},
        {"k": (30.0,)},
        {"similarities": (("colour",),)},
        {"similarities": (("texture", "fill"),)},
        {"sigma": 0.0},
        {"min_size": 200},
        {"min_box_side": 20},
        {"resize_width": 40},
        {"mode": "quality"},
        {"rank": "none"},
    ],
)
def test_every_switch_changes_the_boxes(options):
    image = blobs(seed=5)
    usual = selective_search(image)
    changed = selective_search(image, **options)
    assert not np.array_equal(usual, changed)
    assert (changed[:, 2:] > changed[:, :2]).all()
    assert changed.min() >= 0
    assert (changed.max(0) <= [80, 60, 80, 60]).all()


def test_boxes_of_a_reduced_image_are_in_the_whole_images_pixels():
    image = blobs(60, 80).repeat(10, 0).repeat(10, 1)  # 800 wide, reduced to 500
    boxes = selective_search(image, rank="position")
    assert boxes[0].tolist() == [0, 0, 800, 600]
    assert len(selective_search(image, resize_width=None, min_box_side=20)) > 1


def test_history_gives_the_pixels_of_every_region():
    tree = hierarchies(blobs(), mode="single")[0]
    for region in range(len(tree.sizes)):
        mask = tree.mask(region)
        y, x = np.nonzero(mask)
        assert mask.sum() == tree.sizes[region]
        assert tree.boxes[region].tolist() == [x.min(), y.min(), x.max() + 1, y.max() + 1]


@pytest.mark.parametrize("mode", ["single", "fast", "quality"])
@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 40, 3), (40, 1, 3), (30, 30, 3), (2, 2, 3)])
def test_images_of_one_colour_give_the_image(mode, shape):
    boxes = selective_search(np.full(shape, 77, np.uint8), mode=mode)
    assert boxes.tolist() == [[0, 0, shape[1], shape[0]]]


def test_grey_images():
    grey = blobs(channels=1)[..., 0]
    assert np.array_equal(selective_search(grey), selective_search(np.stack([grey] * 3, 2)))
    assert len(selective_search(grey)) > 5


def test_a_huge_image_keeps_its_memory_and_time_small():
    image = np.zeros((6000, 9000, 3), np.uint8)
    image[1000:3000, 2000:7000] = (200, 30, 60)
    boxes = selective_search(image, mode="single")
    inside = np.abs(boxes - [2000, 1000, 7000, 3000]).max(1)
    assert inside.min() <= 2 * 18  # two pixels at a width of 500


def test_names_that_do_not_exist_are_said():
    with pytest.raises(InputError, match="did you mean 'colour'"):
        selective_search(blobs(), similarities=(("color",),))
    with pytest.raises(InputError, match="colour_spaces"):
        selective_search(blobs(), colour_spaces=("XYZ",))
    with pytest.raises(InputError, match="mode"):
        selective_search(blobs(), mode="slow")
    with pytest.raises(InputError, match="choose from"):
        convert(blobs(), "CMYK")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("k", (float("inf"),)),
        ("k", (float("nan"),)),
        ("sigma", float("inf")),
        ("min_box_side", float("nan")),
        ("threads", -1),
        ("threads", 0),
        ("seed", -1),
    ],
)
def test_values_that_cannot_be_are_said(field, value):
    with pytest.raises(InputError, match=field):
        selective_search(blobs(), mode="single", **{field: value})


def test_many_equals_one_by_one():
    images = [blobs(seed=s) for s in range(5)]
    many = boxatlas.ops.selective_search_many(images, mode="single", threads=2)
    for image, boxes in zip(images, many, strict=True):
        assert np.array_equal(boxes, selective_search(image, mode="single"))


def test_operators_do_not_import_numba_before_it_is_needed():
    code = "import boxatlas.ops, sys; assert 'numba' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.slow
def test_compiling_takes_under_20_seconds_and_is_kept(tmp_path):
    """CPU seconds of a process that finds no compiled kernels, and of the next one."""
    code = (
        "import time, numpy as np; from boxatlas.ops import selective_search as search; "
        "start = time.process_time(); search(np.eye(40, dtype=np.uint8) * 200); "
        "print(time.process_time() - start)"
    )
    environment = {**os.environ, "BOXATLAS_CACHE": str(tmp_path), "OMP_NUM_THREADS": "1"}
    environment.pop("NUMBA_CACHE_DIR", None)
    first, second = (
        float(
            subprocess.run(
                [sys.executable, "-c", code], env=environment, check=True, capture_output=True
            ).stdout
        )
        for _ in range(2)
    )
    assert first < 20
    assert second < first / 3
