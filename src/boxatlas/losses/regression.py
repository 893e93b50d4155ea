"""Box regression losses.

Public: smooth_l1.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def smooth_l1(prediction: Tensor, target: Tensor, beta: float = 1.0, reduction: str = "sum"):
    """Fast R-CNN, equation 3: d^2 / (2 beta) where |d| < beta, else |d| - beta / 2.

    beta is 1 / sigma^2 of the first R-CNN programs (sigma 3: beta 1/9); beta 0 is the L1 loss.
    prediction and target have one shape; reduction "sum", "mean" or "none".
    """
    if beta == 0:
        return F.l1_loss(prediction, target, reduction=reduction)
    return F.smooth_l1_loss(prediction, target, reduction=reduction, beta=beta)
