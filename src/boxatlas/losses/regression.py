"""Box regression losses.

Public: smooth_l1, giou_loss.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from boxatlas.boxes.formats import area


def smooth_l1(prediction: Tensor, target: Tensor, beta: float = 1.0, reduction: str = "sum"):
    """Fast R-CNN, equation 3: d^2 / (2 beta) where |d| < beta, else |d| - beta / 2.

    beta is 1 / sigma^2 of the first R-CNN programs (sigma 3: beta 1/9); beta 0 is the L1 loss.
    prediction and target have one shape; reduction "sum", "mean" or "none".
    """
    if beta == 0:
        return F.l1_loss(prediction, target, reduction=reduction)
    return F.smooth_l1_loss(prediction, target, reduction=reduction, beta=beta)


def giou_loss(prediction: Tensor, target: Tensor, reduction: str = "sum") -> Tensor:
    """1 - GIoU of boxes [..., 4] xyxy. Rezatofighi et al. 2019, arXiv 1902.09630, algorithm 1.

    GIoU = IoU - (C - U) / C, with U the union's area and C that of the box around both.
    reduction "sum", "mean" or "none" ([...]).
    """
    tiny = 1e-7
    low = torch.maximum(prediction[..., :2], target[..., :2])
    high = torch.minimum(prediction[..., 2:], target[..., 2:])
    shared = (high - low).clamp(min=0).prod(-1)
    union = area(prediction) + area(target) - shared
    around = (
        torch.maximum(prediction[..., 2:], target[..., 2:])
        - torch.minimum(prediction[..., :2], target[..., :2])
    ).prod(-1)
    loss = 1 - shared / (union + tiny) + (around - union) / (around + tiny)
    return {"sum": loss.sum, "mean": loss.mean, "none": lambda: loss}[reduction]()
