"""RetinaNet and Faster R-CNN beside torchvision's with the same weights: the whole way from an
image array to detections, batch 1, eager, CPU. Prints ratios of one interleaved run.

    python benchmarks/pyramid_inference.py [--threads 1] [--repeats 10] [--model retinanet_r50_fpn]

The answers are checked equal first. The random weights are scaled so that activations live and some
hundred boxes pass the threshold. Times are CPU seconds of the process with one thread, wall seconds
with several. The image is 640x480 and is not enlarged, as in the anchors this is compared with.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torchvision
from torch import nn
from torchvision.models import detection

from boxatlas.weights import import_model
from ssd_inference import ours, tensor, theirs

TARGETS = {
    "retinanet_r50_fpn": 1.1,
    "retinanet_r50_fpn_v2": 1.1,
    "faster_rcnn_r50_fpn": 1.15,
    "faster_rcnn_r50_fpn_v2": 1.15,
    "faster_rcnn320_mobilenet_v3_fpn": 1.15,
}
PEERS = {
    "retinanet_r50_fpn": "retinanet_resnet50_fpn",
    "retinanet_r50_fpn_v2": "retinanet_resnet50_fpn_v2",
    "faster_rcnn_r50_fpn": "fasterrcnn_resnet50_fpn",
    "faster_rcnn_r50_fpn_v2": "fasterrcnn_resnet50_fpn_v2",
    "faster_rcnn320_mobilenet_v3_fpn": "fasterrcnn_mobilenet_v3_large_320_fpn",
}
SIZE = (480, 640)


def peer(name: str, image: np.ndarray) -> Any:
    """torchvision's model with weights of which some hundred boxes pass the threshold."""
    torch.manual_seed(0)
    sizes = {} if "320" in name else {"min_size": SIZE[0], "max_size": SIZE[1]}
    model = getattr(detection, PEERS[name])(weights=None, weights_backbone=None, **sizes).eval()
    with torch.no_grad():
        for module in model.backbone.modules():  # statistics that fit random layers
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = None
                module.train()
        pair = [tensor(image), tensor(image[:, ::-1].copy())]
        images = model.transform(pair)[0].tensors
        model.backbone(images)
        model.eval()
        if name.startswith("retinanet"):
            _spread(model.head.classification_head.cls_logits, model, image, -1)
            model.head.regression_head.bbox_reg.weight.mul_(4)
        else:
            model.rpn.head.cls_logits.weight.mul_(20)
            model.rpn.head.bbox_pred.weight.mul_(4)
            _spread(model.roi_heads.box_predictor.cls_score, model, image, 0)
    return model


def _spread(layer: Any, model: nn.Module, image: np.ndarray, background: int) -> None:
    """Scale a class layer until its scores differ, then shift it until a few hundred pass."""
    seen: list[torch.Tensor] = []
    handle = layer.register_forward_hook(lambda m, a, out: seen.append(out.detach()))
    theirs(model, image)
    handle.remove()
    bias = layer.bias
    first = bias.new_zeros(()) if background else bias[0]
    spread = torch.cat([s.flatten() for s in seen]).std()
    layer.weight.mul_(1.0 / spread)
    low, high = (-12.0, 2.0) if background else (-5.0, 20.0)
    for _ in range(10):
        middle = (low + high) / 2
        if background:
            bias.fill_(middle)
        else:
            bias[0] = first + middle
        many = len(theirs(model, image)["scores"]) > (250 if background else 90)
        # More bias gives more boxes, except that of the background.
        low, high = (low, middle) if many == bool(background) else (middle, high)


def check(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    """Scores to 1e-3 and boxes to 0.1 pixels or a thousandth of their longer side (random weights
    make deltas that exaggerate rounding), but for a few near the threshold or in a tie."""
    side = (b["boxes"][:, 2:] - b["boxes"][:, :2]).amax(-1)
    gap = (a["scores"][:, None] - b["scores"]).abs()
    near = (a["boxes"][:, None] - b["boxes"]).abs().amax(-1)
    same = (
        (gap < 1e-3) & (near < (side / 1000).clamp(min=0.1)) & (a["labels"][:, None] == b["labels"])
    )
    for found in (same.any(1), same.any(0)):
        agree = found.float().mean().item()
        assert agree >= 0.97, f"only {agree:.1%} of the detections agree"


def interleaved(runs: list[Callable[[], object]], repeats: int, threads: int) -> list[list[float]]:
    clock = time.process_time if threads == 1 else time.perf_counter
    times: list[list[float]] = [[] for _ in runs]
    for repeat in range(repeats + 2):
        for run, out in zip(runs, times, strict=True):
            start = clock()
            run()
            if repeat >= 2:
                out.append(clock() - start)
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--model", choices=TARGETS, action="append")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    image = np.random.RandomState(0).randint(0, 256, (*SIZE, 3)).astype(np.uint8)
    image[100:300, 200:400] //= 2
    print(
        f"torch {torch.__version__}, torchvision {torchvision.__version__}, "
        f"{options.threads} threads, batch 1, {SIZE[1]}x{SIZE[0]} source"
    )
    short = []
    for name in options.model or TARGETS:
        reference = peer(name, image)
        extra: dict[str, Any] = {} if "320" in name else {"size": SIZE}
        model = import_model(reference.state_dict(), source="torchvision", as_=name, **extra).eval()
        for module in reference.modules():  # both with the epsilon of the built network
            if isinstance(module, nn.BatchNorm2d):
                assert module.eps == 1e-5
        found = theirs(reference, image)
        check(found, shifted(ours(model, image), name))
        a, b = interleaved(
            [lambda r=reference: theirs(r, image), lambda m=model: ours(m, image)],
            options.repeats,
            options.threads,
        )
        ratio = statistics.median(x / y for x, y in zip(a, b, strict=True))
        print(
            f"{name}: {len(found['scores'])} detections, torchvision "
            f"{1e3 * statistics.median(a):.0f} ms, boxatlas {1e3 * statistics.median(b):.0f} ms, "
            f"x{ratio:.2f} (target x{TARGETS[name]})",
            flush=True,
        )
        if ratio < TARGETS[name]:
            short.append(name)
    sys.exit(f"below target: {', '.join(short)}" if short else 0)


def shifted(found: dict[str, torch.Tensor], name: str) -> dict[str, torch.Tensor]:
    """Labels in torchvision's numbers: RetinaNet's are its own, `ours` counts from 1."""
    if name.startswith("retinanet"):
        found["labels"] = found["labels"] - 1
    return found


if __name__ == "__main__":
    main()
