"""YOLO9000. Redmon & Farhadi 2016, "YOLO9000: Better, Faster, Stronger", arXiv 1612.08242, 4.

Data with boxes know tens of classes, data with labels thousands. YOLO9000 learns from both at once:
YOLOv2 (three priors, no passthrough) with a WordTree in place of the softmax, and images of two
kinds: those with boxes, whose few classes lie high in the tree, and those that only
have a label, deep in it. An image with a label teaches the label's path at the one place that is
surest of it, so that words without a single box are detected.
Shape letters: B images, A priors of a cell, N nodes of the tree, H x W cells.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from boxatlas.detectors.yolov2 import YOLOv2, YOLOv2Config
from boxatlas.errors import InputError, nearest
from boxatlas.losses.tree import ImageObjectness, ImagePick, image_loss, tree_classes
from boxatlas.losses.yolo import region_loss
from boxatlas.options import convention, switch
from boxatlas.parts.yolo import mean_losses, truth_of
from boxatlas.registry import Published, register_model
from boxatlas.structures import Batch
from boxatlas.wordtree import Decoder, WordTree, read_lines

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
    tree: str | None = convention(None, "Darknet's file of the tree: `id parent` a line")
    tree_names: str | None = convention(None, "a file of its words, one a line; None: the ids")
    class_map: tuple[str, str] | None = convention(
        None, "files: names of the data's classes, and the node that each is"
    )
    parents: tuple[int, ...] | None = convention(
        None, "the tree without a file: each class's parent, -1 = a root; None: all are roots"
    )
    ids: tuple[str, ...] | None = convention(None, "the ids of its words")
    words: dict[str, int] | None = convention(None, "names of the data's classes: their nodes")
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

    def __init__(self, tree: WordTree, config: YOLO9000Config) -> None:
        super().__init__(tree.names, config)
        self.tree = tree
        # Without a tree the groups' softmax is one over all words, each a root.
        flat = config.class_loss == "flat"
        self.groups = WordTree([-1] * len(tree), names=tree.names) if flat else tree
        self.words = _words(tree, config)
        self.answers: list[int] | None = None

    def loss(self, batch: Batch, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """YOLOv2's loss over paths for images with boxes; the path alone for those with a label."""
        (one,) = self.maps(self(batch.images))
        found = self.coder.activate(one.numbers.float(), 2)
        truth, labelled = truth_of(batch), batch.targets.image_label >= 0
        boxed, alone = (~labelled).nonzero()[:, 0], labelled.nonzero()[:, 0]
        options = self.loss_options(len(batch))
        losses = region_loss(
            found[boxed],
            truth[boxed],
            one.priors,
            self.coder,
            class_loss=tree_classes(self.groups),
            **options,
        )
        if len(alone):
            config = self.config
            words = image_loss(
                found[alone],
                batch.targets.image_label[alone],
                self.groups,
                rule=config.image_pick,
                objectness=config.image_objectness,
                suppress_others=config.image_background == "suppress_others",
                object_scale=config.object_scale,
                noobject_scale=config.noobject_scale,
                class_scale=config.class_scale,
            )
            for name, value in words.items():
                losses[name] = losses[name] + value
        return mean_losses(losses, len(batch))

    def class_scores(self, logits: Tensor) -> Tensor:
        """The absolute probability of each word."""
        return self.groups.absolute(self.groups.conditional(logits))

    def scored(
        self, logits: Tensor, objectness: Tensor, score: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One class a box: the deepest word that is sure enough. After `asked`: those words."""
        config = self.config
        if self.answers is not None:
            scores = objectness[:, None] * self.class_scores(logits)[:, self.answers]
            row, label = (scores >= score).nonzero(as_tuple=True)
            return row, label, scores[row, label]
        conditional = self.groups.conditional(logits)
        label = self.groups.decode(conditional, config.tree_threshold, config.tree_decode)
        value = objectness
        if config.tree_score == "objectness_times_absolute":
            absolute = self.groups.absolute(conditional)
            value = value * absolute.gather(1, label.clamp(min=0)[:, None])[:, 0]
        row = ((label >= 0) & (value >= score)).nonzero()[:, 0]
        return row, label[row], value[row]

    def describe(self) -> dict[str, Any]:
        """As every detector's; a checkpoint carries its tree, not the names of files."""
        document = super().describe()
        files = ("tree", "tree_names", "class_map")
        options = {k: v for k, v in document["options"].items() if k not in files}
        own = {"parents": list(self.tree.parents), "ids": list(self.tree.ids)}
        document["options"] = {**options, **own, "words": dict(self.words)}
        return document

    def nodes_of(self, names: Sequence[str]) -> list[int]:
        """The nodes that names of classes mean: by `words`, as ids, or as words of the tree.

        Raises InputError for one that is none of these, naming the nearest.
        """
        known = {
            **{name: i for i, name in enumerate(self.tree.names)},
            **{id_: i for i, id_ in enumerate(self.tree.ids)},
            **self.words,
        }
        out = []
        for name in names:
            node = known.get(name, known.get(DARKNETS.get(name, "")))
            if node is None:
                raise InputError(
                    "no such word in the tree", field="class", value=name, hint=nearest(name, known)
                )
            out.append(node)
        return out

    def restricted_to(self, classes: Sequence[str]) -> YOLO9000:
        """This detector when only these classes are asked for, so that it can be measured.

        Each box then scores objectness times the probability of each of them (section 4's
        evaluation on ImageNet's detection task); its classes are these. The weights are shared.
        """
        out = copy.copy(self)
        out.answers, out.classes, out._fast = self.nodes_of(classes), tuple(classes), None
        return out

    def training_table(self, table: Any) -> Any:
        """The training images with words for classes, those with boxes repeated."""
        nodes = np.array([*self.nodes_of(table.classes), -1], np.int32)
        table = replace(
            table,
            classes=self.classes,
            labels=nodes[table.labels],
            image_label=nodes[table.image_label],
        )
        return oversampled(table, self.config.oversampling)


def oversampled(table: Any, ratio: float) -> Any:
    """A table whose images without a box-free label are repeated: labels : boxes = ratio : 1.

    Never are images left out; a table of one kind alone stays as it is.
    """
    labelled = np.flatnonzero(table.image_label >= 0)
    boxed = np.flatnonzero(table.image_label < 0)
    if not ratio or not len(labelled) or not len(boxed):
        return table
    wanted = max(len(boxed), round(len(labelled) / ratio))
    return table.select(np.concatenate([np.resize(boxed, wanted), labelled]))


def _tree(classes: Sequence[str], config: YOLO9000Config) -> WordTree:
    """The tree of a file, whose words are then the classes, or over the given classes."""
    if config.tree is not None:
        if config.parents is not None:
            raise InputError(
                "give the tree as a file or as parents", field="tree", value=config.tree
            )
        return WordTree.read(config.tree, config.tree_names)
    parents = config.parents or (-1,) * len(classes)
    if len(parents) != len(classes):
        raise InputError(f"{len(parents)} nodes for {len(classes)} classes", field="parents")
    return WordTree(parents, config.ids, classes)


def _words(tree: WordTree, config: YOLO9000Config) -> dict[str, int]:
    """The data's own names of classes: their nodes."""
    words = dict(config.words or {})
    if config.class_map is not None:
        names, nodes = (read_lines(Path(file)) for file in config.class_map)
        mapped = tree.read_map(config.class_map[1])
        if len(names) != len(nodes):
            raise InputError(
                f"{len(nodes)} nodes for {len(names)} names",
                field="class_map",
                file=config.class_map[1],
            )
        words.update(zip(names, mapped, strict=True))
    for name, node in words.items():
        if not 0 <= node < len(tree):
            raise InputError(
                f"is not a node of the tree (0 to {len(tree) - 1})",
                field=f"words.{name}",
                value=node,
            )
    return words


# COCO's own names of what Darknet's coco.names calls otherwise.
DARKNETS = {
    "motorcycle": "motorbike",
    "airplane": "aeroplane",
    "couch": "sofa",
    "tv": "tvmonitor",
    "potted plant": "pottedplant",
    "dining table": "diningtable",
}


@register_model(
    method="YOLO9000",
    title="YOLO9000: Better, Faster, Stronger",
    arxiv="1612.08242",
    year=2016,
    family="one-stage",
    backbone="Darknet-19",
    size="544",
    published=(
        Published("ImageNet-DET val, 200 classes", "mAP@0.5", 19.7, source="section 4"),
        Published(
            "ImageNet-DET val, 156 classes without boxes", "mAP@0.5", 16.0, source="section 4"
        ),
    ),
    classes=9418,
)
def yolo9000(classes: Sequence[str], **options: Any) -> YOLO9000:
    """YOLO9000 at 544x544: classes in a WordTree (`tree=FILE` or `parents=[...]`), three priors."""
    own = {"anchors": PRIORS, "passthrough": False, "tower": 0, "joined": 0}
    config = YOLO9000Config.of(**{**own, **options})
    model = YOLO9000(_tree(classes, config), config)
    if config.tree is not None and len(classes) < len(model.tree):
        model.nodes_of(classes)  # the data's classes must be words of the tree
    return model
