"""Fine-tuning to other classes: what fits is kept, class rows go by name, the rest is new."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from boxatlas.images import Preprocess
from boxatlas.options import Options
from boxatlas.parts.base import ClassRows, Detector
from boxatlas.weights.transfer import transfer


class Heads(Detector):
    """A trunk, logits of 2 anchors x (background + K classes), and a box of 4 rows per class."""

    def __init__(self, classes: Sequence[str], width: int = 3) -> None:
        super().__init__(classes, Preprocess(size=(8, 8)), Options())
        self.trunk = nn.Conv2d(3, width, 1)
        self.logits = nn.Linear(width, 2 * (1 + len(classes)))
        self.boxes = nn.Linear(width, 4 * len(classes), bias=False)

    def class_rows(self) -> dict[str, ClassRows]:
        logits = ClassRows(2, 1)
        return {"logits.weight": logits, "logits.bias": logits, "boxes.weight": ClassRows(1, 0, 4)}


def test_rows_go_to_the_class_of_the_same_name() -> None:
    old, new = Heads(("cat", "dog", "cow")), Heads(("cow", "bird", "cat"))
    fresh = {k: v.clone() for k, v in new.state_dict().items()}
    done = transfer(new, old.state_dict(), old.classes)
    a, b = old.logits.weight.view(2, 4, 3), new.logits.weight.view(2, 4, 3)
    assert torch.equal(b[:, 0], a[:, 0])  # background
    assert torch.equal(b[:, 1], a[:, 3])  # cow
    assert torch.equal(b[:, 3], a[:, 1])  # cat
    assert torch.equal(b[:, 2], fresh["logits.weight"].view(2, 4, 3)[:, 2])  # bird is new
    assert torch.equal(new.boxes.weight[:4], old.boxes.weight[8:])
    assert torch.equal(new.boxes.weight[4:8], fresh["boxes.weight"][4:8])
    assert torch.equal(new.trunk.weight, old.trunk.weight)
    assert set(done.rows) == {"logits.weight", "logits.bias", "boxes.weight"}
    assert done.rows["logits.weight"] == ["cow", "cat"]
    assert not done.new
    text = "\n".join(done.lines())
    assert "loaded: 3 tensors whole" in text  # two of the trunk, the count of images
    assert "class rows: 3 tensors, for cow, cat" in text


def test_equal_classes_load_whole_and_what_does_not_fit_says_why() -> None:
    old, new = Heads(("cat", "dog")), Heads(("cat", "dog"), width=5)
    done = transfer(new, {**old.state_dict(), "extra": torch.zeros(1)}, old.classes)
    assert sorted(done.loaded) == ["images_seen", "logits.bias"]
    assert done.new["trunk.weight"] == "3x3x1x1 does not fit 5x3x1x1"
    assert done.unused == ["extra"]
    same = Heads(("cat", "dog"))
    assert not transfer(same, old.state_dict(), old.classes).new
    assert torch.equal(same.logits.weight, old.logits.weight)


def test_no_class_in_common_keeps_the_background_and_says_so() -> None:
    old, new = Heads(("cat", "dog")), Heads(("car",))
    done = transfer(new, old.state_dict(), old.classes)
    assert done.new["logits.weight"] == "no class in common"
    assert torch.equal(new.logits.bias.view(2, 2)[:, 0], old.logits.bias.view(2, 3)[:, 0])


def test_as_many_classes_of_other_names_are_not_mixed_up() -> None:
    old, new = Heads(("cat", "dog")), Heads(("dog", "cat"))
    transfer(new, old.state_dict(), old.classes)
    assert torch.equal(new.logits.bias.view(2, 3)[0, [1, 2]], old.logits.bias.view(2, 3)[0, [2, 1]])
