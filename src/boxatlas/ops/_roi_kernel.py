"""The compiled RoIAlign of `roi`: a loop over RoIs, channels last.

The mean over a bin's samples is separable: each axis gives every bin a run of cells with weights,
so cells that several samples touch are read once. Numba is loaded with this module.
"""

from __future__ import annotations

import numpy as np

from boxatlas.ops.compiled import compiled


@compiled
def _axis(start, bin_size, grid, size, first, count, weight):
    cells = np.float32(grid)  # torchvision's order of operations: a sample may lie on the edge
    for p in range(len(first)):
        first[p], count[p] = 0, 0
        low, high = size, -1
        for k in range(grid):
            at = start + np.float32(p) * bin_size + np.float32(k + 0.5) * bin_size / cells
            if at < -1.0 or at > size:
                continue
            at = max(at, np.float32(0.0))
            cell = min(int(at), size - 1)
            low, high = min(low, cell), max(high, min(cell + 1, size - 1))
        if high < 0:
            continue
        first[p], count[p] = low, high - low + 1
        for k in range(count[p]):
            weight[p, k] = 0.0
        for k in range(grid):
            at = start + np.float32(p) * bin_size + np.float32(k + 0.5) * bin_size / cells
            if at < -1.0 or at > size:
                continue
            at = max(at, np.float32(0.0))
            cell = int(at)
            if cell >= size - 1:
                weight[p, size - 1 - low] += 1.0 / grid
            else:
                part = at - cell
                weight[p, cell - low] += (1.0 - part) / grid
                weight[p, cell + 1 - low] += part / grid


def _align(out, cells, images, spans, rows, start, stop, sampling_ratio):
    height, width, channels = cells.shape[1], cells.shape[2], cells.shape[3]
    bins_y, bins_x = out.shape[1], out.shape[2]
    y_first, y_count = np.empty(bins_y, np.int64), np.empty(bins_y, np.int64)
    x_first, x_count = np.empty(bins_x, np.int64), np.empty(bins_x, np.int64)
    y_weight = np.empty((bins_y, height), np.float32)
    x_weight = np.empty((bins_x, width), np.float32)
    for i in range(start, stop):
        row = rows[i]
        image = images[row]
        x1, y1, roi_w, roi_h = spans[row]
        bin_w, bin_h = roi_w / np.float32(bins_x), roi_h / np.float32(bins_y)
        grid_x = sampling_ratio if sampling_ratio > 0 else int(np.ceil(bin_w))
        grid_y = sampling_ratio if sampling_ratio > 0 else int(np.ceil(bin_h))
        _axis(y1, bin_h, grid_y, height, y_first, y_count, y_weight)
        _axis(x1, bin_w, grid_x, width, x_first, x_count, x_weight)
        for py in range(bins_y):
            for px in range(bins_x):
                target = out[row, py, px]
                target[:] = 0.0
                for dy in range(y_count[py]):
                    wy = y_weight[py, dy]
                    y = y_first[py] + dy
                    dx = 0
                    while dx + 1 < x_count[px]:
                        w0 = wy * x_weight[px, dx]
                        w1 = wy * x_weight[px, dx + 1]
                        a = cells[image, y, x_first[px] + dx]
                        b = cells[image, y, x_first[px] + dx + 1]
                        for c in range(channels):
                            target[c] += w0 * a[c] + w1 * b[c]
                        dx += 2
                    if dx < x_count[px]:
                        w0 = wy * x_weight[px, dx]
                        a = cells[image, y, x_first[px] + dx]
                        for c in range(channels):
                            target[c] += w0 * a[c]


align = compiled(_align, fastmath={"contract", "reassoc", "nsz"})
