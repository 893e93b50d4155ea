"""The sigmoid focal loss and its gradient."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from boxatlas.losses.focal import focal_loss
from boxatlas.verify.case import Case, UnsupportedError


def focal(case: Case) -> dict[str, Any]:
    """Each output is a loss or a gradient under its own alpha, gamma and reduction."""
    logits, targets = case.input(), case.stored("targets")
    return {entry["name"]: _output(entry, logits, targets) for entry in case.outputs}


def _output(entry: Mapping[str, Any], logits: Tensor, targets: Tensor) -> Tensor:
    params = entry["params"]
    logits = logits.clone().requires_grad_()
    with torch.enable_grad():
        loss = focal_loss(
            logits,
            targets,
            alpha=params["alpha"],
            gamma=params["gamma"],
            reduction=params["reduction"],
        )
        if entry["quantity"] == "loss":
            return loss.detach()
        gradient = torch.autograd.grad(loss.sum(), logits)[0]
    if entry["quantity"] == "gradient_on_logits":
        return gradient
    if entry["quantity"] == "norm_of_gradient_on_logits":
        return gradient.norm()
    raise UnsupportedError(f"quantity {entry['quantity']}")


CASES = {"focal_loss": focal}
