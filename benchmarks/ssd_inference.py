"""SSD300 and SSDlite320 beside torchvision's with the same weights: the whole way from an image
array to detections, batch 1, eager, CPU. Prints ratios of one interleaved run.

    python benchmarks/ssd_inference.py [--threads 2] [--repeats 30]

The answers are checked equal first. The random weights are given a background bias that leaves a
few hundred candidates, as trained ones do. Times are CPU seconds of the process with one thread,
wall seconds with several.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable

import numpy as np
import torch
import torchvision
from torchvision.models import detection

from boxatlas.parts.base import Detector
from boxatlas.weights import import_model

TARGETS = {"ssd300_vgg16": 1.25, "ssdlite320_mobilenet_v3_large": 1.4}


def peer(name: str, image: np.ndarray) -> torch.nn.Module:
    """torchvision's model, random weights, its background bias set for some 250 candidates."""
    torch.manual_seed(0)
    model = getattr(detection, name)(weights=None, weights_backbone=None).eval()
    with torch.no_grad():
        for module in model.modules():  # statistics that keep activations alive in random layers
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = None
                module.train()
            elif isinstance(module, torch.nn.Conv2d) and module.bias is not None:
                torch.nn.init.normal_(module.bias, std=0.05)
        pair = [tensor(image), tensor(image[:, ::-1].copy())]
        model.backbone(model.transform(pair)[0].tensors)
        model.eval()
        heads = [
            m
            for m in model.head.classification_head.module_list.modules()
            if isinstance(m, torch.nn.Conv2d) and m.bias is not None
        ]
        low, high = -5.0, 20.0
        for step in range(12):
            bias = (low + high) / 2 if step < 11 else high
            for head in heads:
                head.bias.view(-1, 91)[:, 0] = bias
            logits = model.head(
                list(model.backbone(model.transform([tensor(image)])[0].tensors).values())
            )["cls_logits"]
            many = int((logits.softmax(-1)[..., 1:] > model.score_thresh).sum())
            low, high = (bias, high) if many > 250 else (low, bias)
        print(f"{name}: {many} candidates")
    return model


def tensor(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(image).permute(2, 0, 1).float() / 255


@torch.inference_mode()
def theirs(model: torch.nn.Module, image: np.ndarray) -> dict[str, torch.Tensor]:
    return model([tensor(image)])[0]


@torch.inference_mode()
def ours(model: Detector, image: np.ndarray) -> dict[str, torch.Tensor]:
    images, frames = model.preprocess.batch([image])
    found = model.infer(images, frames)[0]
    return {"boxes": found.boxes, "scores": found.scores, "labels": found.labels + 1}


def check(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    """The same detections; rows of nearly equal scores may stand in another order."""
    assert len(a["scores"]) == len(b["scores"]), (len(a["scores"]), len(b["scores"]))
    torch.testing.assert_close(a["scores"], b["scores"], rtol=1e-3, atol=1e-5)
    near = ((a["boxes"][:, None] - b["boxes"]).abs().amax(-1) < 0.1) & (
        a["labels"][:, None] == b["labels"]
    )
    found = near.any(1).float().mean().item()
    assert found > 0.98, f"only {found:.1%} of the detections agree"


def interleaved(runs: list[Callable[[], object]], repeats: int) -> list[list[float]]:
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    times: list[list[float]] = [[] for _ in runs]
    for repeat in range(repeats + 3):
        for run, out in zip(runs, times, strict=True):
            start = clock()
            run()
            if repeat >= 3:
                out.append(clock() - start)
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--model", choices=TARGETS, action="append")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    image = np.random.RandomState(0).randint(0, 256, (480, 640, 3)).astype(np.uint8)
    image[100:300, 200:400] //= 2
    print(
        f"torch {torch.__version__}, torchvision {torchvision.__version__}, "
        f"{options.threads} threads, batch 1, 640x480 source"
    )
    short = []
    for name in options.model or TARGETS:
        reference = peer(name, image)
        model = import_model(reference.state_dict(), source="torchvision", as_=name).eval()
        check(theirs(reference, image), ours(model, image))
        a, b = interleaved(
            [lambda r=reference: theirs(r, image), lambda m=model: ours(m, image)], options.repeats
        )
        ratio = statistics.median(x / y for x, y in zip(a, b, strict=True))
        print(
            f"{name}: torchvision {1e3 * statistics.median(a):.1f} ms, "
            f"boxatlas {1e3 * statistics.median(b):.1f} ms, x{ratio:.2f} "
            f"(target x{TARGETS[name]})"
        )
        if ratio < TARGETS[name]:
            short.append(name)
    sys.exit(f"below target: {', '.join(short)}" if short else 0)


if __name__ == "__main__":
    main()
