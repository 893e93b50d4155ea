"""From a recipe to a job: the images to train and evaluate on, the detector, its first weights."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from boxatlas import evaluation
from boxatlas.create import create_model
from boxatlas.data import Table, augmentation, make_loader, read, splits
from boxatlas.data.anchors import cluster, shapes_of
from boxatlas.data.doctor.pictures import doubles
from boxatlas.data.loader import Sizes
from boxatlas.data.split import held_out
from boxatlas.errors import InputError
from boxatlas.evaluation.metrics import Metric
from boxatlas.images import Preprocess
from boxatlas.options import replaced, validated
from boxatlas.parts.base import Detector
from boxatlas.structures import Detections
from boxatlas.training.distributed import World, gathered
from boxatlas.training.optim import divided, steps_in
from boxatlas.training.phases import EpochBatches, Job
from boxatlas.training.proposals import proposals_for
from boxatlas.training.recipe import Recipe

_HELD_OUT = 0.1  # of the training images, where the data has no validation split
_COMPARED = 20_000  # images among which doubles are looked for: a minute or two on two cores


@dataclass(frozen=True)
class Images:
    """Training images, validation images (None: no evaluation), and lines that say which."""

    train: Table
    val: Table | None
    notes: tuple[str, ...]


def images_of(recipe: Recipe) -> Images:
    """The training and the validation images of a recipe's folders.

    Validation is `val` where a folder has one that is not trained on; else a tenth of the training
    images, drawn by the seed and held out. It is never `test`. Raises InputError for an unknown
    split or an empty folder.
    """
    if not recipe.data:
        raise InputError("no data set was given", field="--data", hint="--data DIR")
    if recipe.val_split == "test":
        raise InputError(
            "the best checkpoint is never chosen on test",
            field="val_split",
            value="test",
            hint="use auto, and `boxatlas eval RUN/best.safetensors --split test` afterwards",
        )
    known = {folder: splits(folder, recipe.format) for folder in recipe.data}
    parts, used = [], []
    for folder, names in known.items():
        split = _train_split(recipe.train_split, names)
        parts.append(read(folder, split, recipe.format))
        used.append(split or "all images")
    train, dropped = Table.join(parts).without_empty_boxes()
    val, said = _validation(recipe, known, train)
    if val is not None:  # an image of a class but no boxes judges nothing
        val = val.select(val.image_label < 0)
    if val is None and recipe.val_split == "auto" and int((train.image_label < 0).sum()) > 1:
        train, val, said = _tenth(train, recipe.seed)
    if val is not None:  # one order of classes for both
        classes = tuple(dict.fromkeys((*train.classes, *val.classes)))
        train, val = train.relabelled(classes), val.relabelled(classes)
    if not train.classes:
        raise InputError("the training images hold no object", file=recipe.data[0])
    notes = [
        f"training: {len(train)} images ({', '.join(dict.fromkeys(used))}), "
        f"{len(train.labels)} objects, {len(train.classes)} classes",
        f"validation: {len(val)} images ({said})" if val is not None else f"validation: {said}",
    ]
    if dropped:
        notes.append(f"{dropped} boxes of no area are left out")
    return Images(train, val, (*notes, *train.notes))


def _train_split(wanted: str, names: Sequence[str]) -> str | None:
    """The split of one folder; None = all images.

    train and trainval stand in for one another; where a folder has one split of another name, such
    as CVAT's `default`, that is all there is.
    """
    usual = wanted in ("train", "trainval")
    if not names or (usual and len(names) == 1 and names[0] not in ("train", "trainval")):
        return None
    other = {"train": "trainval", "trainval": "train"}.get(wanted, wanted)
    return other if wanted not in names and other in names else wanted


def _validation(
    recipe: Recipe, known: dict[str, list[str]], train: Table
) -> tuple[Table | None, str]:
    """The validation images that the recipe names, and which they are, to log."""
    if recipe.val_split == "none":
        return None, "none, as the recipe says"
    name = "val" if recipe.val_split == "auto" else recipe.val_split
    folders = [folder for folder, names in known.items() if name in names]
    if not folders:
        if recipe.val_split != "auto":
            read(recipe.data, name, recipe.format)  # says which folder lacks it
        return None, "too few images to hold any out"
    val = read(folders, name, recipe.format)
    shared = len(set(val.paths) & set(train.paths))
    if shared and recipe.val_split == "auto":
        return None, "too few images to hold any out, and those of val are trained on"
    return val, f"{name}; {shared} of them are trained on too" if shared else name


def _tenth(table: Table, seed: int) -> tuple[Table, Table, str]:
    """(the rest, a tenth of the images drawn by the seed, what is said), in the table's order.

    Images of a class but no boxes are not drawn. Images that show the same are all drawn, or none,
    as in `data split`: nothing is judged by what it learned.
    """
    said = f"no val split: a tenth of the training images, seed {seed}, not trained on"
    boxed = np.flatnonzero(table.image_label < 0)
    count = max(1, round(len(boxed) * _HELD_OUT))
    groups = np.arange(len(table))
    if len(table) <= _COMPARED:
        groups = doubles(table.paths)
    else:
        said += "; too many to look for doubles: `boxatlas data split` does"
    drawn = np.zeros(len(table), bool)
    drawn[held_out(boxed, count, seed, groups)] = True
    return table.select(~drawn), table.select(drawn), said


def resolve_init(recipe: Recipe) -> Recipe:
    """Replace `init: auto` by what it means for this model; take the options that weights go with.

    auto: the bundled detector where the package carries one of the model, else ImageNet's weights.
    field: the field's detector of the model.
    A checkpoint, the bundled one too, brings its options and what differs in its preprocess, but
    for what the recipe itself gives.
    """
    init = recipe.init
    if init in ("none", "imagenet"):
        return recipe
    from boxatlas.weights import bundled_options, field_of, is_bundled

    if init == "field":
        return _as_checkpoint(recipe.changed({"init": field_of(recipe.model)}))
    if init == "auto":
        init = "bundled" if is_bundled(recipe.model) else "imagenet"
    if init in ("bundled", "imagenet"):
        own = bundled_options(recipe.model) if init == "bundled" else {}
        return recipe.changed({"init": init, "options": replaced(own, recipe.options)})
    return _as_checkpoint(recipe)


def _as_checkpoint(recipe: Recipe) -> Recipe:
    """The recipe with the options and the preprocess of the checkpoint that it starts from."""
    from boxatlas.weights import description_of

    description = description_of(recipe.init)
    if description is None or description.get("model") != recipe.model:
        return recipe  # tensors alone; or of another model, which is refused when they are loaded
    known = {k: v for k, v in description["options"].items() if k != "pretrained"}
    with torch.device("meta"):  # only its preprocess is needed
        usual = create_model(recipe.model, classes=description["classes"], **known)
    own = usual.preprocess.model_dump(mode="json")
    differs = {k: v for k, v in description["preprocess"].items() if own.get(k) != v}
    return recipe.changed(
        {
            "options": replaced(known, recipe.options),
            "preprocess": {**differs, **recipe.preprocess},
        }
    )


def with_anchors(recipe: Recipe, table: Table) -> tuple[Recipe, list[str]]:
    """Replace `anchors: data` by clusters of the objects' shapes; also the lines to log.

    YOLOv2, section 2: k-means by IoU on the training boxes, as they are in the network's input.
    The published priors stay where there are fewer boxes than priors, or weights made for them.
    """
    options = recipe.options
    if options.get("anchors") != "data":
        return recipe, []
    if recipe.init not in ("none", "imagenet"):
        return recipe, [f"anchors: as published, for the weights of {recipe.init}"]
    with torch.device("meta"):  # only its sizes are needed
        model = create_model(recipe.model, classes=table.classes, **options)
    count, unit = model.anchor_count, model.anchor_unit
    fit = model.preprocess
    shapes = shapes_of(table, fit.size if fit.resize == "letterbox" else None)
    if len(shapes.unique(dim=0)) < count:
        return recipe, [f"anchors: as published ({count} need as many boxes of different shape)"]
    clusters = cluster(shapes, count, seed=recipe.seed)
    anchors = [[round(side / unit, 3) for side in pair] for pair in clusters.pixels(fit.size)]
    text = ", ".join(f"{w:g}x{h:g}" for w, h in anchors)
    line = f"anchors: clusters of the boxes, average IoU {clusters.average_iou:.2f}: {text}"
    return recipe.changed({"options": {**options, "anchors": anchors}}), [line]


def detector_of(recipe: Recipe, classes: Sequence[str]) -> tuple[Detector, list[str]]:
    """Build the recipe's detector with its initial weights; also the lines to log."""
    torch.manual_seed(recipe.seed)
    options = dict(recipe.options)
    if recipe.init == "imagenet":
        options["pretrained"] = True
    try:
        model = create_model(recipe.model, classes=classes, **options)
    except InputError as error:
        if recipe.init == "imagenet" and "pretrained" in str(error):
            raise InputError(str(error), hint="or start anew: --set init=none") from None
        raise
    model.options.pop("pretrained", None)  # its checkpoints bring all weights with them
    if recipe.preprocess:
        own = {**model.preprocess.model_dump(), **recipe.preprocess}
        model.preprocess = validated(Preprocess, own, "preprocess")
    if recipe.init in ("none", "imagenet"):
        lines = [f"weights: {'random' if recipe.init == 'none' else 'ImageNet backbone'}"]
        if recipe.init == "none" and recipe.freeze:
            lines.append(
                "  the layers that `freeze` names stay random: --set freeze=[] trains them"
            )
        return model, lines
    from boxatlas.weights import load_into

    transfer = load_into(model, recipe.init)
    model.images_seen.zero_()
    return model, [f"weights of {recipe.init}", *(f"  {line}" for line in transfer.lines())]


def workers_of(recipe: Recipe, device: torch.device, world: World) -> int:
    """Processes that read images: none beside a CPU that trains, up to eight beside a GPU."""
    if recipe.workers >= 0:
        return recipe.workers
    if device.type == "cpu":
        return 0
    return min(8, max(1, (os.cpu_count() or 1) // world.size - 1))


def size_schedule(
    sizes: Sequence[tuple[int, int]], model: Detector, recipe: Recipe, batches: int, world: World
) -> Sizes:
    """The multi-scale schedule for epochs of `batches` batches."""
    _, parts = divided(recipe, world.size)
    epoch_steps = math.ceil(batches / parts)
    last = model.largest_last
    total = steps_in(recipe.length, recipe, epoch_steps)
    return Sizes(sizes, epoch_steps, parts, total - last if last else None)


def make_evaluator(
    val: Table, metric: Metric, workers: int, proposals: Any, world: World
) -> Callable[[Detector], dict[str, Any]]:
    """A function detector -> metrics on `val`; each process predicts a share of the images, the
    first one measures them all."""

    def evaluate(detector: Detector) -> dict[str, Any]:
        share = list(range(world.rank, len(val), world.size))
        detections = evaluation.predict(
            detector, val.select(share), workers=workers, progress=world.first, proposals=proposals
        )
        parts = gathered(detections, world)
        if not world.first:
            return {}
        whole: list[Detections | None] = [None] * len(val)
        for rank, part in enumerate(parts):
            whole[rank :: world.size] = part
        return evaluation.evaluate([one for one in whole if one is not None], val, metric=metric)

    return evaluate


def _evaluator(
    recipe: Recipe,
    val: Table | None,
    judged: int | None,
    workers: int,
    proposals: Any,
    world: World,
) -> Callable[[Detector], dict[str, Any]] | None:
    """What judges on `val`, or on at most so many of its images; None where there is no val."""
    if val is None:
        return None
    if judged is not None:
        val = val.select(list(range(min(judged, len(val)))))
    return make_evaluator(val, recipe.metric, workers, proposals, world)


def prepare(
    recipe: Recipe,
    folder: Path,
    device: torch.device,
    world: World,
    *,
    begun: bool = False,
    judged: int | None = None,
) -> tuple[Job, list[str]]:
    """The job of a recipe, and lines to log.

    begun: the folder holds weights to resume from; judged: evaluate on at most this many images.
    """
    images = images_of(recipe)
    recipe, of_anchors = with_anchors(recipe, images.train)
    first = recipe.changed({"init": "none"}) if begun else recipe
    model, of_weights = detector_of(first, images.train.classes)
    model = model.to(device)
    # A method may want its images in another proportion (YOLO9000) or at changing sizes (YOLOv2).
    table, sizes = model.training_table(images.train), model.training_sizes()
    workers = workers_of(recipe, device, world)
    augment = augmentation(recipe.augment, **recipe.augment_options)
    tables = [images.train] if images.val is None else [images.train, images.val]
    proposals, of_proposals = proposals_for(
        recipe,
        model.takes_proposals,
        tables,
        folder / "proposals",
        world,
        min_side=model.min_proposal_side,
        try_out=judged is not None,
    )
    lines = [*images.notes, *of_proposals, *of_anchors, *([] if begun else of_weights)]

    def loader(
        recipe: Recipe, batch_size: int, phase_proposals: Any = None, training: bool = True
    ) -> EpochBatches:
        here = world if training else World()
        batches = make_loader(
            table if training else images.train,
            model.preprocess,
            augment=augment if training else None,
            batch_size=batch_size,
            shuffle=training,
            seed=recipe.seed,
            workers=workers,
            rank=here.rank,
            world=here.size,
            drop_last=training,
            proposals=proposals if phase_proposals is None else phase_proposals,
        )
        if sizes and training:
            batches.change_sizes(size_schedule(sizes, model, recipe, len(batches), world))
        return batches

    evaluate = _evaluator(recipe, images.val, judged, workers, proposals, world)
    return Job(recipe, model, folder, loader, evaluate, images.train, device, world), lines
