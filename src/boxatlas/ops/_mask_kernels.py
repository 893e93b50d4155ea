"""Compiled loops over outlines: polygons and run lengths as pixels, of a window only.

Numba is loaded with this module, so it is imported where it is used.

The rule of a polygon's border is COCO's (pycocotools, rleFrPoly): the border is walked at five
times the resolution, and a pixel is inside where its column's centre has been crossed an odd number
of times above it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from boxatlas.ops.compiled import compiled, in_threads

Array = NDArray[Any]
_FINE = 5.0  # steps of the walk in a pixel


@compiled
def _cross(u, v, before_u, before_v, height, width, first, flips):
    """A step of the walk that changes the fine column, marked where it is a pixel's centre."""
    column = (min(u, before_u) + 0.5) / _FINE - 0.5
    if np.floor(column) != column or column < 0 or column > width - 1:
        return
    at = int(column) - first
    if at < 0 or at >= len(flips):
        return
    row = (min(v, before_v) + 0.5) / _FINE - 0.5
    row = np.ceil(min(max(row, 0.0), float(height)))
    flips[at, int(row)] ^= 1


@compiled
def _walk(points, start, stop, height, width, first, flips):
    """Mark in flips [columns, height + 1] where the border crosses the columns' centres."""
    before_u, before_v, begun = 0, 0, False
    for j in range(start, stop):
        nxt = j + 1 if j + 1 < stop else start
        xs, ys = int(_FINE * points[j, 0] + 0.5), int(_FINE * points[j, 1] + 0.5)
        xe, ye = int(_FINE * points[nxt, 0] + 0.5), int(_FINE * points[nxt, 1] + 0.5)
        dx, dy = abs(xe - xs), abs(ye - ys)
        flip = (dx >= dy and xs > xe) or (dx < dy and ys > ye)
        if flip:
            xs, xe, ys, ye = xe, xs, ye, ys
        steep = dx < dy
        length = dy if steep else dx
        slope = 0.0
        if length > 0:
            slope = (xe - xs) / length if steep else (ye - ys) / length
        for d in range(length + 1):
            t = length - d if flip else d
            if steep:
                u, v = int(xs + slope * t + 0.5), ys + t
            else:
                u, v = xs + t, int(ys + slope * t + 0.5)
            if begun and u != before_u:
                _cross(u, v, before_u, before_v, height, width, first, flips)
            before_u, before_v, begun = u, v, True


@compiled
def _union(points, parts, low, high, height, width, top, left, flips, out):
    """Polygons low..high of an image of height x width, or-ed into out, whose first pixel is
    (top, left); flips is zero and is left so."""
    for part in range(low, high):
        _walk(points, parts[part], parts[part + 1], height, width, left, flips)
        for x in range(len(flips)):
            inside = 0
            for y in range(height):
                inside ^= flips[x, y]
                flips[x, y] = 0
                if inside and 0 <= y - top < len(out):
                    out[y - top, x] = 1
            flips[x, height] = 0


@compiled
def _window_of_runs(ends, height, top, left, out):
    """The pixels of run lengths, whose first pixel is (top, left), into out."""
    for x in range(out.shape[1]):
        at = (left + x) * height + top
        run = np.searchsorted(ends, at, side="right")
        for y in range(out.shape[0]):
            while run < len(ends) and ends[run] <= at + y:
                run += 1
            out[y, x] = run % 2


@compiled
def _polygon_targets(points, parts, objects, rows, which, rois, out, start, stop):
    side = out.shape[1]
    flips = np.zeros((side, side + 1), np.uint8)
    for i in range(start, stop):
        k = which[i]
        low, high = objects[rows[k]], objects[rows[k] + 1]
        bitmap = np.zeros((side, side), np.uint8)
        width = max(rois[k, 2] - rois[k, 0], np.float32(1.0))
        height = max(rois[k, 3] - rois[k, 1], np.float32(1.0))
        begin, end = parts[low], parts[high]
        scaled = np.empty((end - begin, 2), np.float64)
        cells = np.float32(side)
        for j in range(begin, end):  # in float32, as the release
            x, y = np.float32(points[j, 0]), np.float32(points[j, 1])
            scaled[j - begin, 0] = (x - rois[k, 0]) * cells / width
            scaled[j - begin, 1] = (y - rois[k, 1]) * cells / height
        own = parts[low : high + 1] - begin
        _union(scaled, own, 0, high - low, side, side, 0, 0, flips, bitmap)
        out[k] = bitmap


@compiled
def _sample(window, top, left, y, x, height, width):
    """RoIAlign's bilinear sample of the whole image, read from the window."""
    if y < -1.0 or y > height or x < -1.0 or x > width:
        return np.float32(0.0)
    y, x = max(y, np.float32(0.0)), max(x, np.float32(0.0))
    y0, x0 = int(y), int(x)
    y1, x1 = y0 + 1, x0 + 1
    if y0 >= height - 1:
        y0 = y1 = height - 1
        y = np.float32(y0)
    if x0 >= width - 1:
        x0 = x1 = width - 1
        x = np.float32(x0)
    ly, lx = y - np.float32(y0), x - np.float32(x0)
    hy, hx = np.float32(1.0) - ly, np.float32(1.0) - lx
    above = hx * window[y0 - top, x0 - left] + lx * window[y0 - top, x1 - left]
    below = hx * window[y1 - top, x0 - left] + lx * window[y1 - top, x1 - left]
    return hy * above + ly * below


@compiled
def _bitmap_targets(
    points,
    parts,
    objects,
    ends,
    runs,
    is_rle,
    rows,
    which,
    rois,
    height,
    width,
    aligned,
    threshold,
    out,
    start,
    stop,
):
    side = out.shape[1]
    shift = np.float32(0.5 if aligned else 0.0)
    for i in range(start, stop):
        k = which[i]
        one = rows[k]
        x1, y1 = rois[k, 0] - shift, rois[k, 1] - shift
        roi_w, roi_h = rois[k, 2] - shift - x1, rois[k, 3] - shift - y1
        least = np.float32(0.0 if aligned else 1.0)
        roi_w, roi_h = max(roi_w, least), max(roi_h, least)
        bin_w, bin_h = roi_w / np.float32(side), roi_h / np.float32(side)
        grid_w, grid_h = max(int(np.ceil(bin_w)), 1), max(int(np.ceil(bin_h)), 1)
        left = min(max(int(np.floor(x1)), 0), width - 1)
        top = min(max(int(np.floor(y1)), 0), height - 1)
        right = min(max(int(np.ceil(x1 + roi_w)) + 2, left + 1), width)
        bottom = min(max(int(np.ceil(y1 + roi_h)) + 2, top + 1), height)
        window = np.zeros((bottom - top, right - left), np.uint8)
        if is_rle[one]:
            _window_of_runs(ends[runs[one] : runs[one + 1]], height, top, left, window)
        else:
            flips = np.zeros((right - left, height + 1), np.uint8)
            low, high = objects[one], objects[one + 1]
            _union(points, parts, low, high, height, width, top, left, flips, window)
        for py in range(side):
            for px in range(side):
                total = np.float32(0.0)
                for gy in range(grid_h):
                    y = y1 + np.float32(py) * bin_h
                    y += np.float32(gy + 0.5) * bin_h / np.float32(grid_h)
                    for gx in range(grid_w):
                        x = x1 + np.float32(px) * bin_w
                        x += np.float32(gx + 0.5) * bin_w / np.float32(grid_w)
                        total += _sample(window, top, left, y, x, height, width)
                mean = total / np.float32(grid_h * grid_w)
                if threshold >= 0:
                    mean = np.float32(1.0 if mean >= threshold else 0.0)
                out[k, py, px] = mean


def polygon_bitmap(points: Array, parts: Array, first: int, last: int, out: Array) -> None:
    """Polygons first..last united into out [h, w] uint8."""
    height, width = out.shape
    flips = np.zeros((width, height + 1), np.uint8)
    _union(points, parts, first, last, height, width, 0, 0, flips, out)


def polygon_targets(
    points: Array, parts: Array, objects: Array, rows: Array, which: Array, rois: Array, out: Array
) -> None:
    """For each k of `which`: object rows[k] scaled into rois[k] and rasterised into out[k]."""
    arguments = (points, parts, objects, rows, which, rois, out)
    in_threads(lambda a, b: _polygon_targets(*arguments, a, b), len(which), torch.get_num_threads())


def bitmap_targets(
    points: Array,
    parts: Array,
    objects: Array,
    ends: Array,
    runs: Array,
    is_rle: Array,
    rows: Array,
    which: Array,
    rois: Array,
    size: tuple[int, int],
    aligned: bool,
    threshold: float,
    out: Array,
) -> None:
    """For each k of `which`: the RoIAlign of object rows[k]'s pixels in rois[k], into out[k].

    threshold < 0: the mean itself; else whether it is reached.
    """
    arguments = (points, parts, objects, ends, runs, is_rle, rows, which, rois)
    rest = (size[0], size[1], aligned, threshold, out)
    in_threads(
        lambda a, b: _bitmap_targets(*arguments, *rest, a, b), len(which), torch.get_num_threads()
    )
