"""The focal loss, forward and backward, beside torchvision's, in one run.

    python benchmarks/focal_loss.py [--rounds 5]

torchvision's way is its RetinaNet head's: one call per image, divided by that image's positives.
Loss and gradient must agree before anything is timed; the ratios are what to read.
"""

from __future__ import annotations

import argparse
import time

import torch
from torch import Tensor
from torchvision.ops import sigmoid_focal_loss

from boxatlas.losses.focal import focal_loss

POSITIVES = 60  # per image


def torchvision_way(logits: Tensor, positive: tuple[Tensor, ...]) -> Tensor:
    image, anchor, label = positive
    losses = []
    for i, own in enumerate(logits):
        mine = image == i
        target = torch.zeros_like(own)
        target[anchor[mine], label[mine]] = 1.0
        losses.append(sigmoid_focal_loss(own, target, reduction="sum") / max(1, int(mine.sum())))
    return torch.stack(losses).mean()


def one_pass(logits: Tensor, positive: tuple[Tensor, ...]) -> Tensor:
    weight = torch.full((len(logits),), 1 / POSITIVES / len(logits))
    return focal_loss(logits, positive, weight=weight)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    print("CPU milliseconds, forward and backward, 1 thread")
    print("batch anchors classes  torchvision  one pass  ratio")
    for images, anchors, classes in ((4, 19206, 91), (1, 76725, 80), (2, 76725, 91)):
        generator = torch.Generator().manual_seed(anchors)
        logits = torch.randn(images, anchors, classes, generator=generator) - 4
        logits.requires_grad_()
        total = POSITIVES * images
        positive = (
            torch.arange(images).repeat_interleave(POSITIVES),
            torch.randperm(anchors, generator=generator)[:total],
            torch.randint(0, classes, (total,), generator=generator),
        )
        ways = {"torchvision": torchvision_way, "one pass": one_pass}
        losses = {name: way(logits, positive) for name, way in ways.items()}
        torch.testing.assert_close(losses["one pass"], losses["torchvision"], rtol=1e-5, atol=0)
        gradients = [torch.autograd.grad(loss, logits)[0] for loss in losses.values()]
        torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-4, atol=1e-8)
        del losses, gradients
        best = dict.fromkeys(ways, float("inf"))
        for _ in range(rounds):
            for name, way in ways.items():
                logits.grad = None
                start = time.process_time()
                way(logits, positive).backward()
                best[name] = min(best[name], (time.process_time() - start) * 1e3)
        peer, ours = best["torchvision"], best["one pass"]
        print(
            f"{images:5d} {anchors:7d} {classes:7d}  {peer:11.1f}  {ours:8.1f}  {peer / ours:5.2f}"
        )


if __name__ == "__main__":
    main()
