"""Pictures with boxes."""

from __future__ import annotations

import numpy as np

from boxatlas.drawing import colour, draw

GREY = np.full((60, 80, 3), 128, np.uint8)


def test_a_box_is_drawn_on_its_edge_and_the_rest_stays() -> None:
    out = np.asarray(draw(GREY, np.array([[20.0, 25.0, 50.0, 45.0]]), [""], [3]))
    assert tuple(out[25, 30]) == colour(3)
    assert tuple(out[44, 30]) == colour(3)
    assert tuple(out[35, 20]) == tuple(out[35, 49]) == colour(3)
    assert (out[30:40, 25:45] == 128).all()
    assert (out[:25] == 128).all()
    assert (out[:, 50:] == 128).all()
    assert (GREY == 128).all()


def test_a_name_stands_above_or_inside_where_there_is_no_room() -> None:
    above = np.asarray(draw(GREY, np.array([[20.0, 25.0, 50.0, 45.0]]), ["cat"], [0], [0.5]))
    assert (above[10:25] != 128).any()
    top = np.asarray(draw(GREY, np.array([[0.0, 0.0, 50.0, 45.0]]), ["cat"], [0], [0.5]))
    assert top.shape == GREY.shape
    assert tuple(top[3, 1]) == colour(0)


def test_a_mask_tints_its_pixels_only() -> None:
    mask = np.zeros((1, 60, 80), bool)
    mask[0, 30:40, 10:20] = True
    out = np.asarray(draw(GREY, np.array([[70.0, 50.0, 75.0, 55.0]]), [""], [2], None, mask))
    assert (out[30:40, 10:20] != 128).any(-1).all()
    assert (out[0:20, 0:60] == 128).all()


def test_colours_are_told_apart() -> None:
    colours = np.array([colour(k) for k in range(20)], float)
    apart = np.abs(colours[:, None] - colours[None]).max(-1) + 255 * np.eye(20)
    assert apart.min() > 20


def test_boxes_beyond_the_border_and_none_at_all() -> None:
    draw(GREY, np.array([[-20.0, -5.0, 900.0, 900.0], [5.0, 5.0, 5.0, 5.0]]), ["a", "b"], [0, 1])
    assert (np.asarray(draw(GREY, np.zeros((0, 4)), [], [])) == 128).all()


def test_no_two_of_voc_s_classes_have_nearly_one_colour() -> None:
    colours = np.array([colour(k) for k in range(20)], float)
    apart = np.linalg.norm(colours[:, None] - colours, axis=-1) + 1e3 * np.eye(20)
    assert apart.min() > 40
