"""YOLO9000. Redmon & Farhadi 2016, "YOLO9000: Better, Faster, Stronger", arXiv 1612.08242, 4.

Data with boxes know tens of classes, data with labels thousands. YOLO9000 learns from both at once:
YOLOv2 (three priors, no passthrough) with a WordTree in place of the softmax, and images of two
kinds: those with boxes, whose few classes lie high in the tree, and those that only have a label,
deep in it. An image with a label trains the label's path at the one place that is surest of it, so
that words without a single box are detected.
Shape letters: B images, A priors of a cell, N nodes of the tree, H x W cells.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from boxatlas.backbones.choice import BackboneChoices
from boxatlas.backbones.darknet import DarknetNormChoices
from boxatlas.boxes.nms import SuppressionChoices
from boxatlas.boxes.yolo import PriorChoices
from boxatlas.detectors.yolov2 import YOLOv2, YOLOv2Choices
from boxatlas.errors import InputError, nearest
from boxatlas.losses.tree import image_loss, tree_classes
from boxatlas.losses.yolo import ObjectnessChoices, RegionChoices, SquareScales
from boxatlas.ops.reorg import ReorgChoices
from boxatlas.options import Fraction, NotNegative, idea, setting
from boxatlas.parts.yolo import MultiScaleChoices, YOLOChoices, mean_losses, objects_of
from boxatlas.registry import Method, Published
from boxatlas.structures import Batch
from boxatlas.wordtree import VOC_WORDS, TreeChoices, WordTree, tree_of, words_of

METHOD = Method("YOLO9000", "YOLO9000: Better, Faster, Stronger", "1612.08242", 2016, "one-stage")
PRIORS = ((0.77871, 1.14074), (3.00525, 4.31277), (9.22725, 9.61974))  # in cells


class Config(
    BackboneChoices,
    SuppressionChoices,
    DarknetNormChoices,
    YOLOChoices,
    MultiScaleChoices,
    PriorChoices,
    SquareScales,
    ObjectnessChoices,
    RegionChoices,
    ReorgChoices,
    YOLOv2Choices,
    TreeChoices,
):
    """Every choice of YOLO9000: YOLOv2's, and those of the tree and of joint training."""

    class_loss: Literal["hierarchical", "flat"] = idea(
        "hierarchical", "section 4: a softmax for each group of siblings; flat: one over all words"
    )
    tree_threshold: Fraction = idea(0.5, "section 4: how sure each step down the tree must be")
    oversampling: NotNegative = idea(
        4.0, "section 4: images with labels alone for each with boxes; 0: as they come"
    )
    tree_score: Literal["objectness", "objectness_times_absolute"] = setting(
        "objectness", "score of a detection: objectness, or times the probability of its word"
    )

    backbone = setting("auto", 'auto: by new_network; a Darknet network or "timm/NAME"')
    anchors = setting(
        PRIORS, "(width, height) of each prior in cells; none: YOLOv2's five; data: clusters"
    )
    passthrough = idea(
        False, "table 2: the map of stride 16 is joined to the last; the released network has none"
    )
    multi_scale = idea(True, "table 2: training changes inputs among 320 to 608 every 10 steps")
    objectness_target = idea("iou", "section 2: as in YOLO the IoU, or 1")
    tower = 0
    joined = 0
    score = 0.005
    nms_iou = 0.45
    max_detections = 1000

    gone: ClassVar[Mapping[str, Any]] = {
        "image_objectness": "push_to_0.3",
        "image_background": "suppress_others",
        "image_pick": "objectness_times_class",
    }

    def idle(self) -> dict[str, str]:
        rows = super().idle() | {"anchor_boxes": "a tree of words needs YOLOv2's own head"}
        no_tree = self.tree is None and not any(parent >= 0 for parent in self.parents or ())
        if no_tree:
            rows["class_loss"] = "without a tree all words are one group"
        if (no_tree or self.class_loss == "flat") and self.tree_decode != "last_over_half":
            rows["tree_threshold"] = "there is no step down: all words are one group"
        return rows


class YOLO9000(YOLOv2):
    """YOLOv2's network with the classes in a tree. `tree` is the WordTree of its classes."""

    def __init__(self, tree: WordTree, config: Config) -> None:
        super().__init__(tree.names, config)
        self.tree = tree
        # Without a tree the groups' softmax is one over all words, each a root.
        flat = config.class_loss == "flat"
        self.groups = WordTree([-1] * len(tree), names=tree.names) if flat else tree
        self.words = words_of(tree, config)
        self.answers: list[int] | None = None

    def loss(self, batch: Batch, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """YOLOv2's loss over paths for images with boxes; the path alone for those with a label."""
        (layer,) = self.maps(self(batch.images))
        numbers = self.coder.activate(layer.numbers.float(), 2)
        objects, labelled = objects_of(batch), batch.targets.image_label >= 0
        boxed, alone = (~labelled).nonzero()[:, 0], labelled.nonzero()[:, 0]
        losses = self.region_losses(
            numbers[boxed], objects[boxed], len(batch), tree_classes(self.groups)
        )
        if len(alone):
            words = image_loss(
                numbers[alone],
                batch.targets.image_label[alone],
                self.groups,
                object_scale=self.config.object_scale,
                noobject_scale=self.config.noobject_scale,
                class_scale=self.config.class_scale,
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
        """One class a box: the deepest word that is sure enough; of `restricted_to`: all of its."""
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
        document["options"] = {
            **options,
            "parents": list(self.tree.parents),
            "ids": list(self.tree.ids),
            "words": dict(self.words),
        }
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
        nodes = []
        for name in names:
            node = known.get(name, known.get(VOC_WORDS.get(name, "")))
            if node is None:
                raise InputError(
                    "no such word in the tree", field="class", value=name, hint=nearest(name, known)
                )
            nodes.append(node)
        return nodes

    def restricted_to(self, classes: Sequence[str]) -> YOLO9000:
        """This detector with these classes alone, so that it can be measured on their data.

        Each box then scores objectness times the probability of each of them (section 4's
        evaluation on ImageNet's detection task); its classes are these. The weights are shared.
        """
        twin = copy.copy(self)
        twin.answers, twin.classes, twin._fast = self.nodes_of(classes), tuple(classes), None
        return twin

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


# -- the model ------------------------------------------------------------------------------------


@METHOD.model(
    "Darknet-19",
    "544",
    Published("ImageNet-DET val, 200 classes", "mAP@0.5", 19.7, source="section 4"),
    Published("ImageNet-DET val, 156 classes without boxes", "mAP@0.5", 16.0, source="section 4"),
    classes=9418,
)
def yolo9000(classes: Sequence[str], **options: Any) -> YOLO9000:
    """YOLO9000 at 544x544: classes in a WordTree (`tree=FILE` or `parents=[...]`), three priors."""
    config = Config.of(options)
    model = YOLO9000(tree_of(classes, config), config)
    if config.tree is not None and len(classes) < len(model.tree):
        model.nodes_of(classes)  # the data's classes must be words of the tree
    return model
