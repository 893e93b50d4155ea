"""Label Studio's tasks: a JSON list, one task an image; boxes and polygons in percent of it.

Read are the first annotation of each task that was not cancelled, its rectangles and polygons.
An image is found by the end of the path or address that the task gives. `data.split`, where a
task has it, names its split; the labelling configuration beside the tasks names the classes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from boxatlas.data.formats.building import (
    Builder,
    above_zero,
    sizes_of,
    stated_size,
)
from boxatlas.data.formats.json_stream import elements
from boxatlas.data.formats.labelstudio_regions import add_region
from boxatlas.data.formats.labelstudio_tasks import address_of, image_of, results_of, split_of
from boxatlas.data.formats.places import Place, Seen, per_place
from boxatlas.data.table import Table
from boxatlas.errors import InputError

FIELD = "result[{}]"
OF_IMAGE = True  # objects are numbered anew for each image of a file
TASKS, CONFIG = "tasks.json", "label_config.xml"


def evidence(place: Place) -> Seen | None:
    found = _files(place)
    for name in found:
        if _holds_tasks(place, name):
            return Seen(f"{name} is a list of Label Studio's tasks")
    return Seen(f"{found[0]} is called as Label Studio's tasks are", sure=False) if found else None


def splits(place: Place) -> list[str]:
    tasks = (task for name in _files(place) for task in elements(place.path(name)))
    return sorted({name for name in map(split_of, tasks) if name})


@per_place
def _files(place: Place) -> list[str]:
    """The JSON files that are lists of tasks; tasks.json is meant to be one."""
    return [
        name
        for name in place.few(place.own(".json"))
        if _holds_tasks(place, name) or (name == TASKS and not place.document(name).whole)
    ]


def _holds_tasks(place: Place, name: str) -> bool:
    """Whether the elements of a list are tasks: their `data` names an image."""
    kind, value, _ = place.document(name)
    first = value[0] if kind == "list" and value else None
    return isinstance(first, dict) and isinstance(first.get("data"), dict)


def annotation_names(place: Place) -> list[str]:
    """Every text file that describes the set."""
    config = [CONFIG] if CONFIG in place.known else []
    return [*_files(place), *config]


def read(place: Place, split: str | None, builder: Builder) -> Table:
    """The images of a split, or of all of them."""
    listed = _configured(place)
    classes = {name: i for i, name in enumerate(listed)}
    waiting = 0
    for name in _files(place):
        path = place.path(name)
        for i, task in enumerate(elements(path)):
            if split is not None and split_of(task) != split:
                continue
            try:
                waiting += not _task(builder, task, path, f"[{i}]", place, classes)
            except InputError as error:
                builder.refuse(error)
    if waiting:
        builder.notes.append(f"{waiting} tasks that nobody has annotated are left out")
    table = builder.table(list(classes))
    return table if listed else table.relabelled(sorted(classes))


def _configured(place: Place) -> list[str]:
    """The classes of the labelling configuration, if it lies there."""
    from boxatlas.data.formats.voc_xml import parse

    if CONFIG not in place.known:
        return []
    path = place.path(CONFIG)
    names = [label.get("value") or "" for label in parse(path).iter("Label")]
    return [name for name in dict.fromkeys(names) if name]


def _task(
    builder: Builder,
    task: Any,
    path: Path,
    field: str,
    place: Place,
    classes: dict[str, int],
) -> bool:
    """Add a task's image and objects; False for a task without an annotation."""
    data = task.get("data") if isinstance(task, dict) else None
    key, address = address_of(data if isinstance(data, dict) else {})
    if not address:
        raise InputError("a task needs `data.image`", file=path, field=field, value=task)
    results = results_of(task, path, field)
    if results is None:
        return False
    image = image_of(address, place, path, f"{field}.data.{key}")
    size = None
    for i, result in enumerate(results):
        if isinstance(result, dict) and above_zero(size) is None:
            where = f"{field}.{FIELD.format(i)}."
            size = stated_size(
                result.get("original_height"), result.get("original_width"), path, where
            )
    found = above_zero(size) or sizes_of([image])[0]
    if isinstance(found, InputError):
        raise found
    builder.image(image, task.get("id", image.stem), found, path)
    for i, result in enumerate(results):
        where = f"{field}.{FIELD.format(i)}"
        try:
            add_region(builder, result, i, path, where, found, classes)
        except InputError as error:
            builder.refuse(error)
    return True
