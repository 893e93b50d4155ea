"""From a recipe to a job: which images are learned and judged, the detector, its first weights."""

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
from boxatlas.parts.base import Detector
from boxatlas.structures import Detections
from boxatlas.training.distributed import World, gathered
from boxatlas.training.optim import divided, steps_in
from boxatlas.training.phases import Job, Loader
from boxatlas.training.proposals import given
from boxatlas.training.recipe import Recipe

_HELD_OUT = 0.1  # of the training images, where the data has no validation split
_COMPARED = 20_000  # images among which doubles are looked for: a minute or two on two cores


@dataclass(frozen=True)
class Images:
    """What is learned and what it is judged by (None: nothing), and how they came about."""

    train: Table
    val: Table | None
    notes: tuple[str, ...]


def images_of(recipe: Recipe) -> Images:
    """The training and the validation images of a recipe's folders.

    Validation is `val` where a folder has one of which nothing is learned; else a tenth of the
    training images, drawn by the seed and not learned. It is never `test`. Raises InputError for
    an unknown split or an empty folder.
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
    parts, learned = [], []
    for folder, names in known.items():
        split = _train_split(recipe.train_split, names)
        parts.append(read(folder, split, recipe.format))
        learned.append(split or "all images")
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
        f"training: {len(train)} images ({', '.join(dict.fromkeys(learned))}), "
        f"{len(train.labels)} objects, {len(train.classes)} classes",
        f"validation: {len(val)} images ({said})" if val is not None else f"validation: {said}",
    ]
    if dropped:
        notes.append(f"{dropped} boxes of no area are not learned")
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
    """The validation images by the recipe's word, and what to say of them."""
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
        return None, "too few images to hold any out, and those of val are learned"
    return val, f"{name}; {shared} of them are learned too" if shared else name


def _tenth(table: Table, seed: int) -> tuple[Table, Table, str]:
    """(the rest, a tenth of the images drawn by the seed, what is said), in the table's order.

    Images of a class but no boxes are not drawn. Images that show the same are all drawn, or none,
    as in `data split`: nothing is judged by what it learned.
    """
    said = f"no val split: a tenth of the training images, seed {seed}, not learned"
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


def with_start(recipe: Recipe) -> Recipe:
    """`init: auto` as what it means here, and the bundled detector's options where it is the start.

    auto: the bundled detector where the package carries one of the model, else ImageNet's weights.
    """
    init = recipe.init
    if init not in ("auto", "bundled"):
        return recipe
    from boxatlas.weights import bundled_options, is_bundled

    if init == "auto":
        init = "bundled" if is_bundled(recipe.model) else "imagenet"
    own = bundled_options(recipe.model) if init == "bundled" else {}
    return recipe.changed({"init": init, "options": {**own, **recipe.options}})


def with_anchors(recipe: Recipe, table: Table) -> tuple[Recipe, list[str]]:
    """`anchors: data` of a method with priors as clusters of the objects' shapes, and what is said.

    YOLOv2, section 2: k-means by IoU on the training boxes, as they are in the network's input.
    The published ones stay where there are fewer boxes than priors, or weights that know them.
    """
    options = recipe.options
    if options.get("anchors") != "data":
        return recipe, []
    if recipe.init not in ("none", "imagenet"):
        return recipe, [f"anchors: as published, for the weights of {recipe.init}"]
    with torch.device("meta"):  # only its sizes are asked
        model = create_model(recipe.model, classes=table.classes, **options)
    count, unit = model.anchor_count, model.anchor_unit
    fit = model.preprocess
    shapes = shapes_of(table, fit.size if fit.resize == "letterbox" else None)
    if len(shapes.unique(dim=0)) < count:
        return recipe, [f"anchors: as published ({count} need as many boxes of different shape)"]
    found = cluster(shapes, count, seed=recipe.seed)
    anchors = [[round(side / unit, 3) for side in pair] for pair in found.pixels(fit.size)]
    text = ", ".join(f"{w:g}x{h:g}" for w, h in anchors)
    said = f"anchors: clusters of the boxes, average IoU {found.average_iou:.2f}: {text}"
    return recipe.changed({"options": {**options, "anchors": anchors}}), [said]


def detector_of(recipe: Recipe, classes: Sequence[str]) -> tuple[Detector, list[str]]:
    """The recipe's detector with its first weights, and what is to be said of them."""
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
    if recipe.init in ("none", "imagenet"):
        said = [f"weights: {'random' if recipe.init == 'none' else 'ImageNet backbone'}"]
        if recipe.init == "none" and recipe.freeze:
            said.append(
                "  the layers that `freeze` names stay random: --set freeze=[] lets them learn"
            )
        return model, said
    from boxatlas.weights import load_into

    done = load_into(model, recipe.init)
    model.images_seen.zero_()
    return model, [f"weights of {recipe.init}", *(f"  {line}" for line in done.lines())]


def workers_of(recipe: Recipe, device: torch.device, world: World) -> int:
    """Processes that read images: none beside a CPU that trains, up to eight beside a GPU."""
    if recipe.workers >= 0:
        return recipe.workers
    if device.type == "cpu":
        return 0
    return min(8, max(1, (os.cpu_count() or 1) // world.size - 1))


def changing(
    sizes: Sequence[tuple[int, int]], model: Detector, recipe: Recipe, batches: int, world: World
) -> Sizes:
    """When inputs change, in a training of so many batches an epoch, and when for the last time."""
    _, parts = divided(recipe, world.size)
    epoch_steps = math.ceil(batches / parts)
    last = model.largest_last
    total = steps_in(recipe.length, recipe, epoch_steps)
    return Sizes(sizes, epoch_steps, parts, total - last if last else None)


def judging(
    val: Table, metric: Metric, workers: int, proposals: Any, world: World
) -> Callable[[Detector], dict[str, Any]]:
    """What measures a detector on `val`: every process its share, the first puts them together."""

    def judge(detector: Detector) -> dict[str, Any]:
        mine = list(range(world.rank, len(val), world.size))
        found = evaluation.predict(
            detector, val.select(mine), workers=workers, progress=world.first, proposals=proposals
        )
        parts = gathered(found, world)
        if not world.first:
            return {}
        whole: list[Detections | None] = [None] * len(val)
        for rank, part in enumerate(parts):
            whole[rank :: world.size] = part
        return evaluation.evaluate([one for one in whole if one is not None], val, metric=metric)

    return judge


def prepare(
    recipe: Recipe,
    folder: Path,
    device: torch.device,
    world: World,
    *,
    begun: bool = False,
    judged: int | None = None,
) -> tuple[Job, list[str]]:
    """The job of a recipe, and lines that say what was found.

    begun: the folder holds the weights to go on with; judged: judge by at most so many images.
    """
    images = images_of(recipe)
    recipe, chosen = with_anchors(recipe, images.train)
    first = recipe.changed({"init": "none"}) if begun else recipe
    model, said = detector_of(first, images.train.classes)
    said = chosen + ([] if begun else said)
    model = model.to(device)
    # A method may want its images in another proportion (YOLO9000) or at changing sizes (YOLOv2).
    learned, sizes = model.training_table(images.train), model.training_sizes()
    workers = workers_of(recipe, device, world)
    augment = augmentation(recipe.augment, **recipe.augment_options)
    tables = [images.train] if images.val is None else [images.train, images.val]
    boxes, told = given(
        recipe,
        model.takes_proposals,
        tables,
        folder / "proposals",
        world,
        min_side=model.min_proposal_side,
        try_out=judged is not None,
    )
    said = [*told, *said]

    def loader(
        recipe: Recipe, batch_size: int, proposals: Any = None, learning: bool = True
    ) -> Loader:
        here = world if learning else World()
        made = make_loader(
            learned if learning else images.train,
            model.preprocess,
            augment=augment if learning else None,
            batch_size=batch_size,
            shuffle=learning,
            seed=recipe.seed,
            workers=workers,
            rank=here.rank,
            world=here.size,
            drop_last=learning,
            proposals=boxes if proposals is None else proposals,
        )
        if sizes and learning:
            made.change_sizes(changing(sizes, model, recipe, len(made), world))
        return made

    val = images.val
    if val is not None and judged is not None:
        val = val.select(list(range(min(judged, len(val)))))

    judge = None if val is None else judging(val, recipe.metric, workers, boxes, world)
    job = Job(recipe, model, folder, loader, judge, images.train, device, world)
    return job, [*images.notes, *said]
