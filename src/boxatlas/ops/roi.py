"""What a region sees of a feature map: RoI pooling and RoIAlign, over one map or a pyramid.

Shape letters: B images, C channels, R RoIs, P the side of the pooled grid.
RoIs are [R, 5]: image index, then x1, y1, x2, y2 in pixels of the network's input.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torchvision.ops
from torch import Tensor, nn

RoiOp = Literal["align", "pool"]


class MapLinear(nn.Linear):
    """A fully connected layer over a whole map: [R, C, P, P] -> [R, out].

    Its columns run channel, row, column, as in every published fc6.
    """

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.flatten(1))


def roi_pool(
    features: Tensor, rois: Tensor, output_size: int | tuple[int, int], spatial_scale: float
) -> tuple[Tensor, Tensor]:
    """Max over each bin of a RoI. Girshick 2015, arXiv 1504.08083, section 2.1.

    -> (pooled [R, C, P, P], argmax [R, C, P, P]: position in the map, -1 where a bin is empty).
    Corners are rounded to cells and belong to the RoI, as Caffe's layer has it.
    """
    return torch.ops.torchvision.roi_pool(features, rois, spatial_scale, *_pair(output_size))


def roi_align(
    features: Tensor,
    rois: Tensor,
    output_size: int | tuple[int, int],
    spatial_scale: float,
    sampling_ratio: int = 0,
    aligned: bool = True,
) -> Tensor:
    """Mean of bilinear samples in each bin. He et al. 2017, arXiv 1703.06870, section 3.

    -> [R, C, P, P]. sampling_ratio 0: as many samples a side as a bin has cells. aligned: cell
    centres lie at half coordinates; without it (the first releases) they lie at whole ones and a
    RoI's sides are at least one cell.
    """
    out = _pair(output_size)
    if not _compiled_can(features, rois):
        return torchvision.ops.roi_align(
            features, rois, out, spatial_scale, sampling_ratio, aligned
        )
    pooled = _empty(len(rois), *out, features.shape[1])
    _align_into(pooled, features, rois, None, spatial_scale, sampling_ratio, aligned)
    return pooled.permute(0, 3, 1, 2)


def pyramid_pool(
    maps: Sequence[Tensor],
    scales: Sequence[float],
    rois: Tensor,
    levels: Tensor,
    output_size: int | tuple[int, int],
    *,
    op: RoiOp = "align",
    sampling_ratio: int = 2,
    aligned: bool = True,
) -> Tensor:
    """Pool each RoI [R, 5] from the map of its level -> [R, C, P, P].

    maps: fine to coarse, with scales = 1 / stride; levels [R]: index into them.
    """
    out = _pair(output_size)
    if op == "align" and _compiled_can(maps[0], rois):
        pooled = _empty(len(rois), *out, maps[0].shape[1])
        for i, (features, scale) in enumerate(zip(maps, scales, strict=True)):
            rows = torch.nonzero(levels == i)[:, 0]
            _align_into(pooled, features, rois, rows, scale, sampling_ratio, aligned)
        return pooled.permute(0, 3, 1, 2)
    pieces, order = [], []
    for i, (features, scale) in enumerate(zip(maps, scales, strict=True)):
        rows = torch.nonzero(levels == i)[:, 0]
        chosen = rois[rows]
        if op == "align":
            pieces.append(
                torchvision.ops.roi_align(features, chosen, out, scale, sampling_ratio, aligned)
            )
        else:
            pieces.append(roi_pool(features, chosen, out, scale)[0])
        order.append(rows)
    return torch.cat(pieces)[torch.argsort(torch.cat(order))]


def _pair(size: int | tuple[int, int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def _empty(*shape: int) -> Tensor:
    """Memory from numpy, which asks for huge pages: first touch costs more than the arithmetic."""
    import numpy as np

    return torch.from_numpy(np.empty(shape, np.float32))


def _compiled_can(features: Tensor, rois: Tensor) -> bool:
    """The compiled kernel has no gradient and runs on the CPU, outside of tracing and export."""
    return (
        features.device.type == "cpu"
        and features.dtype == rois.dtype == torch.float32
        and not (torch.is_grad_enabled() and (features.requires_grad or rois.requires_grad))
        and not torch.compiler.is_compiling()
        and not torch.onnx.is_in_onnx_export()
    )


def _align_into(
    pooled: Tensor,
    features: Tensor,
    rois: Tensor,
    rows: Tensor | None,
    scale: float,
    sampling_ratio: int,
    aligned: bool,
) -> None:
    """Write the RoIs of `rows` (None: all) into pooled [R, P, P, C]."""
    from boxatlas.ops.compiled import in_threads

    rows = torch.arange(len(rois)) if rows is None else rows
    cells = features.detach().permute(0, 2, 3, 1).contiguous().numpy()
    # Where a RoI starts and how long it is, in cells, rounded step by step as torch rounds.
    shift = 0.5 if aligned else 0.0
    start = rois[:, 1:3] * scale - shift
    length = rois[:, 3:5] * scale - shift - start
    spans = torch.cat([start, length if aligned else length.clamp(min=1)], 1).detach()
    arguments = (pooled.numpy(), cells, rois[:, 0].long().numpy(), spans.numpy(), rows.numpy())
    from boxatlas.ops._roi_kernel import align  # numba takes a moment to load

    in_threads(
        lambda a, b: align(*arguments, a, b, sampling_ratio), len(rows), torch.get_num_threads()
    )
