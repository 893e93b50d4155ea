"""The table: slicing, filtering, joining; and the blocks that masks are packed into."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as coco_masks
from sets import table_of, two_images

from boxatlas.data.masks import Masks, decode, encode
from boxatlas.data.table import Table
from boxatlas.errors import InputError


def test_a_row_is_one_image():
    row = two_images()[-1]
    assert (row.path, row.id, row.size) == ("2.png", 3, (70, 80))
    assert row.names == ["dog", "cat"]
    assert row.boxes.tolist() == [[5, 5, 40, 60], [50, 5, 70, 20]]
    assert [r.path for r in two_images()] == ["0.png", "1.png", "2.png"]
    with pytest.raises(IndexError):
        two_images()[3]


def test_slices_masks_and_lists_are_tables():
    table = two_images()
    assert table[1:].paths == ["1.png", "2.png"]
    assert table[[2, 0]].labels.tolist() == [1, 0, 0, 1, 2]
    assert table[table.counts > 0].paths == ["0.png", "2.png"]
    assert table[::-1].offsets.tolist() == [0, 2, 2, 5]


def test_filtering_by_class_keeps_the_images():
    table = two_images().of_classes(["tea pot", "cat"])
    assert table.classes == ("tea pot", "cat")
    assert table.counts.tolist() == [2, 0, 1]
    assert table.labels.tolist() == [1, 0, 1]
    with pytest.raises(InputError, match="did you mean 'tea pot'"):
        table.of_classes(["teapot"])


def test_joined_tables_hold_the_objects_of_both():
    other = table_of([[[1, 2, 3, 4]]], [[0]], [(9, 9)], classes=("owl",))
    table = two_images() + other
    assert table.classes == ("cat", "dog", "tea pot", "owl")
    assert len(table) == 4
    assert table[3].names == ["owl"]
    assert table[3].boxes.tolist() == [[1, 2, 3, 4]]


def test_relabelling_refuses_to_lose_a_class_that_is_used():
    assert two_images().relabelled(["dog", "cat", "tea pot"]).labels.tolist() == [1, 0, 2, 0, 1]
    with pytest.raises(InputError, match="tea pot"):
        two_images().relabelled(["cat", "dog"])


def test_boxes_without_area_are_dropped_and_counted():
    flat = table_of([[[0, 0, 5, 5], [3, 3, 3, 9], [7, 2, 4, 9], [4, 4, 5, 5]]], [[0, 1, 2, 0]],
                    [(9, 9)])  # fmt: skip
    kept, dropped = flat.without_empty_boxes()
    assert dropped == 3  # of no width, inverted, and VOC's equal corners
    assert kept.boxes.tolist() == [[0, 0, 5, 5]]
    assert len(kept) == 1


def test_category_ids_follow_their_classes():
    first = replace(two_images(), category_ids=(1, 18, 90))
    assert first.of_classes(["tea pot", "cat"]).category_ids == (90, 1)
    other = replace(first.of_classes(["dog"]), classes=("owl",), category_ids=(7,))
    assert Table.join([first, other]).category_ids == (1, 18, 90, 7)
    clash = replace(other, category_ids=(18,))
    assert Table.join([first, clash]).category_ids is None


polygons = st.lists(
    st.lists(st.tuples(*[st.floats(0, 100, width=32)] * 2), min_size=3, max_size=6).map(
        lambda points: [v for point in points for v in point]
    ),
    min_size=1,
    max_size=3,
)
bitmaps = st.integers(0, 2**24 - 1).map(
    lambda bits: np.array([bits >> k & 1 for k in range(24)], bool).reshape(4, 6)
)


@given(masks=st.lists(st.one_of(st.none(), polygons, bitmaps.map(encode)), max_size=6))
def test_packed_masks_come_out_as_they_went_in(masks):
    packed = Masks.packed(masks)
    assert list(packed) == masks
    assert list(packed.take(np.arange(len(masks))[::-1])) == masks[::-1]
    assert list(Masks.joined([packed, packed])) == masks + masks


@given(bitmap=bitmaps)
def test_run_lengths_are_cocos(bitmap):
    assert np.array_equal(decode(encode(bitmap)), bitmap)
    theirs = coco_masks.encode(np.asfortranarray(bitmap.astype(np.uint8)))
    assert np.array_equal(decode({"size": theirs["size"], "counts": theirs["counts"]}), bitmap)
    text = {"size": theirs["size"], "counts": theirs["counts"].decode()}
    assert np.array_equal(decode(Masks.packed([text])[0]), bitmap)
