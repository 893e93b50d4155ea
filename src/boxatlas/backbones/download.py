"""ImageNet weights of torchvision's classifiers, fetched once into torch's cache."""

from __future__ import annotations

import contextlib
import sys

import torch
from torch import Tensor

from boxatlas.errors import InputError


def imagenet_state(architecture: str) -> dict[str, Tensor]:
    """The first published ImageNet weights of a torchvision model. Raises InputError offline."""
    from torchvision.models import get_model_weights

    try:
        url = get_model_weights(architecture)["IMAGENET1K_V1"].url
    except (ValueError, KeyError):
        problem = "no ImageNet weights are published for this backbone"
        hint = "use pretrained=false, or a timm backbone"
        raise InputError(problem, field="pretrained", value=True, hint=hint) from None
    return fetched(url)


def fetched(url: str) -> dict[str, Tensor]:
    """The tensors of a file that torch's cache holds, or is given. Raises InputError offline."""
    try:
        with contextlib.redirect_stdout(sys.stderr):  # torch says there what it downloads
            return torch.hub.load_state_dict_from_url(url, progress=False, weights_only=True)
    except OSError as error:
        problem = f"the ImageNet weights cannot be downloaded: {error}"
        hint = "connect, or use pretrained=false"
        raise InputError(problem, field="pretrained", hint=hint) from None
