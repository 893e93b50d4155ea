"""The focal loss with its gradient written out, in one pass over the logits.

Public: focal_loss, focal_star_loss, NormaliseChoices, image_weights. Lin et al. 2017, equation 5,
appendices A and B.
Shape letters: B images, A anchors, K classes, P positive (anchor, class) pairs.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from boxatlas.boxes.formats import budget
from boxatlas.options import Options, habit

Normalise = Literal["image", "batch"]


class NormaliseChoices(Options):
    """What the programs divide a sum over all anchors by."""

    normalise: Normalise = habit(
        "image",
        "the losses are divided by the positives of an image and averaged, or by the batch's",
    )


def image_weights(positives: Tensor, normalise: Normalise) -> Tensor:
    """[B] float: the factor of each image's sums, from its number of positives [B]."""
    if normalise == "image":
        return 1 / positives.clamp(min=1).float() / len(positives)
    return (1 / positives.sum().clamp(min=1).float()).expand(len(positives))


def focal_loss(
    logits: Tensor,
    targets: Tensor | tuple[Tensor, ...],
    *,
    alpha: float | None = 0.25,
    gamma: float = 2.0,
    weight: Tensor | None = None,
    ignore: Tensor | None = None,
    reduction: Literal["sum", "mean", "none"] = "sum",
) -> Tensor:
    """-alpha_t (1 - p_t)^gamma log p_t of sigmoids, over all logits [..., K].

    targets: the positive logits, as a tuple of index tensors (one per axis of logits, [P] each), or
    as a mask of logits' shape (0 or 1). alpha weighs positives, 1 - alpha the rest; None or a
    negative number: no weights. weight [B] scales the images (first axis), where each is divided by
    its own number of positives. ignore [...] bool, logits' shape without K: anchors that count for
    nothing. "mean" divides by the number of logits. gamma >= 0.
    """
    if gamma < 0:
        raise ValueError(f"gamma must not be negative, it is {gamma}")
    if logits.dtype in (torch.float16, torch.bfloat16):
        logits = logits.float()  # sums of millions of terms need the precision
    positive = targets if isinstance(targets, tuple) else targets.nonzero(as_tuple=True)
    alpha = None if alpha is None or alpha < 0 else alpha
    near, far = (1.0, 1.0) if alpha is None else (alpha, 1.0 - alpha)
    if reduction == "none":
        return _elementwise(logits, positive, near, far, gamma, weight, ignore)
    total: Any = _Focal.apply(logits, positive, near, far, gamma, weight, ignore)
    return total / max(1, logits.numel()) if reduction == "mean" else total


def focal_star_loss(
    logits: Tensor,
    positive: tuple[Tensor, ...],
    *,
    alpha: float | None = 0.25,
    gamma: float = 2.0,
    beta: float = 1.0,
    weight: Tensor | None = None,
    ignore: Tensor | None = None,
) -> Tensor:
    """FL* of appendix A: -alpha_t log sigmoid(gamma x_t + beta) / gamma, summed.

    The arguments are those of `focal_loss`; gamma > 0 steepens, beta shifts.
    """
    if gamma <= 0:
        raise ValueError(f"gamma must be positive, it is {gamma}")
    is_positive = torch.zeros_like(logits, dtype=torch.bool)
    is_positive[positive] = True
    if logits.dtype in (torch.float16, torch.bfloat16):
        logits = logits.float()
    signed = torch.where(is_positive, logits, -logits)
    loss = -F.logsigmoid(gamma * signed + beta) / gamma
    if alpha is not None and alpha >= 0:
        loss = loss * torch.where(is_positive, alpha, 1.0 - alpha)
    if weight is not None:
        loss = loss * weight.view(-1, *[1] * (loss.dim() - 1))
    return (loss if ignore is None else loss.masked_fill(ignore[..., None], 0.0)).sum()


def _elementwise(
    logits: Tensor,
    positive: tuple[Tensor, ...],
    near: float,
    far: float,
    gamma: float,
    weight: Tensor | None,
    ignore: Tensor | None,
) -> Tensor:
    """The definition, differentiated by autograd: for looking at single values."""
    is_positive = torch.zeros_like(logits, dtype=torch.bool)
    is_positive[positive] = True
    signed = torch.where(is_positive, logits, -logits)  # x_t of appendix A: p_t = sigmoid(x_t)
    loss = -F.logsigmoid(signed) * torch.sigmoid(-signed) ** gamma
    loss = loss * torch.where(is_positive, near, far)
    if weight is not None:
        loss = loss * weight.view(-1, *[1] * (loss.dim() - 1))
    return loss if ignore is None else loss.masked_fill(ignore[..., None], 0.0)


class _Focal(torch.autograd.Function):
    """All logits are first taken as negatives, in parts that stay in cache; positives, which are
    few, are put right after. With q = 1 - p_t and s = -log p_t the loss is q^gamma s and, by
    appendix B, its derivative by x_t is -q^gamma (q + gamma p_t s).
    """

    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        positive: tuple[Tensor, ...],
        near: float,
        far: float,
        gamma: float,
        weight: Tensor | None,
        ignore: Tensor | None,
    ) -> Tensor:
        images = logits.shape[0] if weight is not None else 1
        flat = logits.detach().reshape(images, -1)
        gradient = torch.empty_like(flat)
        sums = flat.new_zeros(images)
        skipped = None if ignore is None else ignore.reshape(images, -1)
        columns = logits.shape[-1]
        anchors = max(1, budget(logits.device) // 8 // max(1, columns))
        for image in range(images):
            for start in range(0, flat.shape[1], anchors * columns):
                part = slice(start, start + anchors * columns)
                skip = None
                if skipped is not None:
                    skip = skipped[image, start // columns : start // columns + anchors]
                sums[image] += _negatives(
                    flat[image, part], gradient[image, part], gamma, skip, columns
                )
        scale = flat.new_ones(images) if weight is None else weight.to(flat)
        gradient.mul_((far * scale)[:, None]) if weight is not None else gradient.mul_(far)
        total = (sums * scale).sum() * far
        total = total + _positives(
            logits, gradient.view(logits.shape), positive, near, far, gamma, weight, ignore
        )
        ctx.save_for_backward(gradient.view(logits.shape))
        return total

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *gradients: Tensor
    ) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        (upper,) = gradients
        if upper.device.type != "cpu" or upper.item() != 1:
            gradient = gradient * upper
        return gradient, None, None, None, None, None, None


def _negatives(
    x: Tensor, gradient: Tensor, gamma: float, skip: Tensor | None, columns: int
) -> Tensor:
    """Sum of p^gamma softplus(x); writes its derivative p^gamma (p + gamma (1 - p) softplus(x))."""
    p = torch.sigmoid(x)
    loss = F.softplus(x)
    power = p * p if gamma == 2 else p**gamma
    torch.sub(1, p, out=gradient)
    gradient.mul_(loss).mul_(gamma).add_(p).mul_(power)
    if skip is not None:
        keep = ~skip[:, None]
        gradient.view(-1, columns).mul_(keep)
        power.view(-1, columns).mul_(keep)
    return torch.dot(power, loss)


def _positives(
    logits: Tensor,
    gradient: Tensor,
    positive: tuple[Tensor, ...],
    near: float,
    far: float,
    gamma: float,
    weight: Tensor | None,
    ignore: Tensor | None,
) -> Tensor:
    """What the positives add beyond having been taken as negatives; their gradient is replaced."""
    x = logits.detach()[positive]
    scale = torch.ones_like(x) if weight is None else weight.to(x)[positive[0]]
    if ignore is not None:
        scale = scale * ~ignore[positive[:-1]]
    p, right, wrong = torch.sigmoid(x), F.softplus(-x), F.softplus(x)
    q = torch.sigmoid(-x)
    gradient[positive] = -near * scale * q**gamma * (q + gamma * p * right)
    return (scale * (near * q**gamma * right - far * p**gamma * wrong)).sum()
