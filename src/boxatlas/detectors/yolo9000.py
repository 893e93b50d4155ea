"""YOLO9000. Redmon & Farhadi 2016, "YOLO9000: Better, Faster, Stronger", arXiv 1612.08242, 4.

YOLOv2 (three priors, no passthrough) with a WordTree in place of the softmax, trained on two kinds
of images at once: those with boxes, whose few classes lie high in the tree, and those that only
have a label, deep in it. An image with a label teaches the label's path at the one place that is
surest of it, so that words without a single box are detected.
Shape letters: B images, A priors of a cell, N nodes of the tree, H x W cells.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from boxatlas.detectors.yolo_common import mean_losses, truth_of
from boxatlas.detectors.yolov2 import YOLOv2, YOLOv2Config
from boxatlas.errors import InputError, nearest
from boxatlas.losses.tree import ImageObjectness, ImagePick, image_loss, tree_classes
from boxatlas.losses.yolo import region_loss
from boxatlas.options import convention, switch
from boxatlas.registry import Published, register_model
from boxatlas.structures import Batch
from boxatlas.wordtree import Decoder, WordTree

PRIORS = ((0.77871, 1.14074), (3.00525, 4.31277), (9.22725, 9.61974))  # in cells


class YOLO9000Config(YOLOv2Config):
    """Every choice of YOLO9000; what YOLOv2 has is as there."""

    class_loss: Literal["hierarchical", "flat"] = switch(
        "hierarchical", "section 4: a softmax for each group of siblings; flat: one over all words"
    )
    tree_threshold: float = switch(0.5, "section 4: how sure each step down the tree must be")
    oversampling: float = switch(
        4.0, "section 4: images with labels alone for each with boxes; 0: as they come", ge=0
    )
    parents: tuple[int, ...] | None = convention(
        None, "each class's parent among the classes, -1 = a root; None: all are roots"
    )
    tree: str | None = convention(None, "a file that says so (Darknet's, `id parent` a line)")
    tree_decode: Decoder = convention("conditional", "how the answer is read off the tree")
    tree_score: Literal["objectness", "objectness_times_absolute"] = convention(
        "objectness", "what a detection's score is"
    )
    image_objectness: ImageObjectness = convention(
        "push_to_0.3", "what the place that answers for an image's label learns as objectness"
    )
    image_background: Literal["suppress_others", "off"] = convention(
        "suppress_others", "what the other places of such an image learn"
    )
    image_pick: ImagePick = convention("objectness_times_class", "how that place is found")


class YOLO9000(YOLOv2):
    """YOLOv2's network with the classes in a tree. `tree` is the WordTree of its classes."""

    config: YOLO9000Config  # pyright: ignore[reportIncompatibleVariableOverride]

    def __init__(self, classes: Sequence[str], config: YOLO9000Config) -> None:
        super().__init__(classes, config)
        self.tree = _tree(classes, config)
        # Without a tree the groups' softmax is one over all words, each a root.
        flat = config.class_loss == "flat"
        self.groups = WordTree([-1] * len(classes), names=classes) if flat else self.tree

    def loss(self, batch: Batch, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """YOLOv2's loss over paths for images with boxes; the path alone for those with a label."""
        (one,) = self.maps(self(batch.images))
        found = self.coder.activate(one.numbers.float(), 2)
        truth, labelled = truth_of(batch), batch.targets.image_label >= 0
        boxed, alone = (~labelled).nonzero()[:, 0], labelled.nonzero()[:, 0]
        options = self.loss_options(len(batch))
        losses = region_loss(
            found[boxed], truth[boxed], one.priors, self.coder,
            class_loss=tree_classes(self.groups), **options,
        )  # fmt: skip
        if len(alone):
            config = self.config
            words = image_loss(
                found[alone], batch.targets.image_label[alone], self.groups,
                rule=config.image_pick, objectness=config.image_objectness,
                suppress_others=config.image_background == "suppress_others",
                object_scale=config.object_scale, noobject_scale=config.noobject_scale,
                class_scale=config.class_scale,
            )  # fmt: skip
            for name, value in words.items():
                losses[name] = losses[name] + value
        return mean_losses(losses, len(batch))

    def class_scores(self, logits: Tensor) -> Tensor:
        """The absolute probability of each word."""
        return self.groups.absolute(self.groups.conditional(logits))

    def scored(
        self, logits: Tensor, objectness: Tensor, score: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One class a box: the deepest word that is sure enough."""
        config = self.config
        conditional = self.groups.conditional(logits)
        label = self.groups.decode(conditional, config.tree_threshold, config.tree_decode)
        value = objectness
        if config.tree_score == "objectness_times_absolute":
            absolute = self.groups.absolute(conditional)
            value = value * absolute.gather(1, label.clamp(min=0)[:, None])[:, 0]
        row = ((label >= 0) & (value >= score)).nonzero()[:, 0]
        return row, label[row], value[row]

    def describe(self) -> dict[str, Any]:
        """As every detector's; a checkpoint carries its tree, not the name of a file."""
        document = super().describe()
        options = {k: v for k, v in document["options"].items() if k != "tree"}
        document["options"] = {**options, "parents": list(self.tree.parents)}
        return document

    def training_table(self, table: Any) -> Any:
        """The training images with those that have boxes repeated, for `oversampling` to 1."""
        return oversampled(table, self.config.oversampling)


def oversampled(table: Any, ratio: float) -> Any:
    """A table whose images without a box-free label are repeated: labels : boxes = ratio : 1.

    Never are images left out; a table of one kind alone stays as it is.
    """
    import numpy as np

    labelled = np.flatnonzero(table.image_label >= 0)
    boxed = np.flatnonzero(table.image_label < 0)
    if not ratio or not len(labelled) or not len(boxed):
        return table
    wanted = max(len(boxed), round(len(labelled) / ratio))
    return table.select(np.concatenate([np.resize(boxed, wanted), labelled]))


def _tree(classes: Sequence[str], config: YOLO9000Config) -> WordTree:
    if config.tree is not None and config.parents is not None:
        raise InputError("give the tree as a file or as parents", field="tree", value=config.tree)
    if config.tree is not None:
        tree = WordTree.read(config.tree)
        parents = tree.parents
    else:
        parents = config.parents or (-1,) * len(classes)
    if len(parents) != len(classes):
        raise InputError(
            f"{len(parents)} nodes for {len(classes)} classes", field="tree", value=config.tree,
            hint="classes are the tree's names, in its order",
        )  # fmt: skip
    return WordTree(parents, names=classes)


def words_of(tree: WordTree, names: Sequence[str]) -> list[int]:
    """The nodes of names. Raises InputError for one that is not in the tree, naming the nearest."""
    number = {name: node for node, name in enumerate(tree.names)}
    for name in names:
        if name not in number:
            raise InputError("no such word in the tree", field="class", value=name,
                             hint=nearest(name, number))  # fmt: skip
    return [number[name] for name in names]


@register_model(
    method="YOLO9000", title="YOLO9000: Better, Faster, Stronger", arxiv="1612.08242", year=2016,
    family="one-stage", backbone="Darknet-19", size="544",
    published=(
        Published("ImageNet-DET val, 200 classes", "mAP@0.5", 19.7, source="section 4"),
        Published("ImageNet-DET val, 156 classes without boxes", "mAP@0.5", 16.0,
                  source="section 4"),
    ),
)  # fmt: skip
def yolo9000(classes: Sequence[str], **options: Any) -> YOLO9000:
    """YOLO9000 at 544x544: classes in a WordTree (`tree=FILE` or `parents=[...]`), three priors."""
    own = {"anchors": PRIORS, "passthrough": False, "tower": 0, "joined": 0}
    return YOLO9000(classes, YOLO9000Config.of(**{**own, **options}))
