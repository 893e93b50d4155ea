"""Any Darknet network from its .cfg, layer by layer, to check ours against and to run custom ones.

Public: CfgNetwork.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from boxatlas.backbones.darknet import SLOPE, Conv, Norm, Pool, norm_layer, parts_of
from boxatlas.errors import InputError
from boxatlas.ops.reorg import Reorg
from boxatlas.weights.darknet_layers import Section

_ACTIVATIONS = ("leaky", "linear")


class CfgNetwork(nn.Module):
    """images [B, C, H, W] -> the outputs of all layers, by number.

    Output layers ([yolo], [region], [detection], [cost]) pass their input on. Of convolutional
    cfgs: convolutional, maxpool, avgpool, route, shortcut, upsample, reorg, dropout, softmax.
    Raises InputError for other sections, naming the number.
    """

    def __init__(self, sections: Sequence[Section], norm: Norm | None = None) -> None:
        super().__init__()
        channels: list[int] = []
        before = int(sections[0][1].get("channels", 3))
        self.kinds = [kind for kind, _ in sections[1:]]
        self.sources: list[tuple[int, ...]] = []
        self.layers = nn.ModuleList()
        for index, (kind, options) in enumerate(sections[1:]):
            sources = _sources(kind, options, index)
            self.sources.append(sources)
            own = sum(channels[s] for s in sources) if kind == "route" else before
            layer, before = _layer(kind, options, own, index, norm or norm_layer())
            self.layers.append(layer)
            channels.append(before)

    def forward(self, images: Tensor) -> list[Tensor]:
        outputs: list[Tensor] = []
        x = images
        for kind, sources, layer in zip(self.kinds, self.sources, self.layers, strict=True):
            if kind == "route":
                x = torch.cat([outputs[s] for s in sources], 1)
            elif kind == "shortcut":
                x = x + outputs[sources[0]]
            else:
                x = layer(x)
            outputs.append(x)
        return outputs

    @torch.no_grad()
    def load_state(self, state: Mapping[str, Any]) -> None:
        """Fill from arrays named by layer ("layer0.bias", ...)."""
        for name, target in self.parts():
            target.copy_(torch.as_tensor(state[name]).reshape(target.shape))

    def parts(self) -> list[tuple[str, Tensor]]:
        """(name, tensor) of everything a file of weights holds, in its order."""
        return [
            part
            for index, layer in enumerate(self.layers)
            if isinstance(layer, Conv)
            for part in parts_of(layer, f"layer{index}")
        ]


def _sources(kind: str, options: Mapping[str, str], index: int) -> tuple[int, ...]:
    if kind not in ("route", "shortcut"):
        return ()
    text = options.get("layers" if kind == "route" else "from", "")
    return tuple(v + index if v < 0 else v for v in map(int, text.split(",")))


class _Average(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3), keepdim=True)


def _layer(
    kind: str, options: Mapping[str, str], channels: int, index: int, norm: Norm
) -> tuple[nn.Module, int]:
    """(the layer, its channels)."""

    def number(key: str, default: int) -> int:
        return int(options.get(key, default))

    if kind == "convolutional":
        size, activation = number("size", 1), options.get("activation", "logistic")
        if activation not in _ACTIVATIONS or number("groups", 1) != 1:
            problem = "only plain convolutions, leaky or linear, are known"
            raise InputError(problem, field=f"layer {index}", value=dict(options))
        conv = Conv(
            channels,
            number("filters", 1),
            size,
            number("stride", 1),
            norm=norm if number("batch_normalize", 0) else None,
            leaky=activation == "leaky",
            padding=size // 2 if number("pad", 0) else number("padding", 0),
        )
        return conv, conv.width
    if kind == "maxpool":
        stride = number("stride", 1)
        size = number("size", stride)
        return Pool(size, stride, number("padding", size - 1)), channels
    if kind == "reorg":
        stride = number("stride", 1)
        return Reorg(stride), channels * stride * stride
    if kind == "upsample":
        return nn.Upsample(scale_factor=number("stride", 2), mode="nearest"), channels
    made = {
        "avgpool": _Average(),
        "softmax": nn.Softmax(1),
        "route": nn.Identity(),
        "dropout": nn.Dropout(float(options.get("probability", 0.5))),
        "yolo": nn.Identity(),
        "region": nn.Identity(),
        "detection": nn.Identity(),
        "cost": nn.Identity(),
        "shortcut": nn.LeakyReLU(SLOPE) if options.get("activation") == "leaky" else nn.Identity(),
    }
    if kind not in made:
        raise InputError(f"[{kind}] is not known", field=f"layer {index}")
    return made[kind], channels
