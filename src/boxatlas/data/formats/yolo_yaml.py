"""YOLO's description of a set: a YAML file of any name with `names` and where each split lies."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from boxatlas.data.formats.building import leaves, read_text
from boxatlas.data.formats.places import (
    SPLIT_NAMES,
    Place,
    per_place,
    split_in,
    split_name,
    suffix_of,
)
from boxatlas.errors import InputError
from boxatlas.images import IMAGE_SUFFIXES

MOST_CLASSES = 100_000  # where nothing says how many there are
_USUAL_FILES = ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml")
_NAME_FILES = ("classes.txt", "_darknet.labels", "obj.names")  # where no YAML file names them
_USUAL = ("train", "val", "valid", "test")
_NAMES = re.compile(r"^\ufeff?\s*[\"']?names[\"']?\s*:", re.MULTILINE)
_WHERE = re.compile(r"^\ufeff?\s*[\"']?(path|train|val|valid|test)[\"']?\s*:", re.MULTILINE)
Refuse = Callable[[InputError], None]  # what is done about a flaw


def stop(error: InputError) -> None:
    raise error


@per_place
def description_files(place: Place) -> list[str]:
    """The YAML files that may describe the set: of a usual name, or else that say as much."""
    found = place.own(".yaml", ".yml")
    if place.named is not None:
        return found
    usual = [name for name in found if name.rpartition("/")[2] in _USUAL_FILES]
    if usual:
        return sorted(usual, key=lambda name: (name.count("/"), name))[:1]
    heads = {name: place.head(name) for name in place.few(found)}
    return [name for name, head in heads.items() if _NAMES.search(head) and _WHERE.search(head)]


def description_file(place: Place) -> str | None:
    """The only one of them. Raises InputError where there are several."""
    found = description_files(place)
    if len(found) > 1:
        raise InputError(
            f"{len(found)} YAML files could describe it: {', '.join(found[:4])}",
            file=place.given,
            hint="name the one that is meant instead of the folder",
        )
    return found[0] if found else None


def describe(place: Place, refuse: Refuse = stop) -> dict[str, Any]:
    """The description as a mapping; empty where there is none or it cannot be read.

    `names` are as written: YAML's own reading makes truth values of yes and no, and 8 of 010.
    """
    import yaml

    name = description_file(place)
    if name is None:
        return {}
    path, found = place.path(name), None
    try:
        text = read_text(path)
        found = yaml.safe_load(text)
        as_written = yaml.load(text, yaml.BaseLoader)  # texts, lists and mappings alone
        if isinstance(found, dict) and isinstance(found.get("names"), list | dict):
            found["names"] = _with_whole_keys(as_written["names"])
    except InputError as error:
        refuse(error)
    except (yaml.YAMLError, ValueError, TypeError, KeyError, RecursionError) as error:
        refuse(InputError(f"is not valid YAML: {error}", file=path))
    if not isinstance(found, dict):
        refuse(InputError("is not a mapping of `names` and splits", file=path))
        return {}
    return found


def root_of(file: Path) -> Path | None:
    """The folder that a YAML file speaks of as `path`, if it is there: the set may lie apart."""
    import yaml

    try:
        found = yaml.load(read_text(file), yaml.BaseLoader)
        path = found.get("path") if isinstance(found, dict) else None
        folder = file.parent / path if isinstance(path, str) and path else None
        return folder if folder is not None and folder.is_dir() else None
    except (InputError, yaml.YAMLError, OSError, ValueError, RecursionError):
        return None  # the reader will say what is wrong


def _with_whole_keys(names: Any) -> Any:
    if not isinstance(names, dict):
        return names
    return {int(key) if str(key).isdecimal() else key: name for key, name in names.items()}


@dataclass(frozen=True)
class Classes:
    """names: each once, None where nothing says them; numbers: which of them a number in a label
    file is, None where it is just that one. file: what says them."""

    names: list[str] | None
    numbers: list[int] | None = None
    file: Path | None = None

    @property
    def written(self) -> list[str] | None:
        """The name of each number in a label file."""
        if self.names is None or self.numbers is None:
            return self.names
        return [self.names[n] for n in self.numbers]


def classes_of(place: Place, description: dict[str, Any], refuse: Refuse = stop) -> Classes:
    """The classes of the YAML file, or else of a list of names."""
    name, names = description_file(place), description.get("names")
    path = None if name is None else place.path(name)
    fields: list[str] | None = None
    if names is None:
        path = names_file(place, refuse)
        if path is None:
            return Classes(None)
        lines = {f"line {n}": line.strip() for n, line in enumerate(read_text(path).split("\n"), 1)}
        fields = [field for field, line in lines.items() if line]
        names = [lines[field] for field in fields]
    if isinstance(names, dict):
        names = _numbered(names, path, refuse)
    if not isinstance(names, list) or not all(isinstance(n, str) for n in names):
        refuse(InputError("must be a list of class names", file=path, field="names"))
        return Classes(None)
    first: dict[str, int] = {}
    numbers = []
    for i, name in enumerate(names):
        if name in first:
            field = fields[i] if fields else f"names[{i}]"
            refuse(InputError("two classes of one name", file=path, value=name, field=field))
        numbers.append(first.setdefault(name, len(first)))
    return Classes(list(first), None if len(first) == len(numbers) else numbers, path)


def names_file(place: Place, refuse: Refuse = stop) -> Path | None:
    """The list of class names beside the labels; of several the first, if they are equal."""
    for bare in _NAME_FILES:
        found = sorted(place.called(bare), key=lambda name: (name.count("/"), name))
        texts = {read_text(place.path(name)).strip() for name in found}
        if len(texts) > 1:
            refuse(
                InputError(
                    f"names other classes than {found[1]}", file=place.path(found[0]), field="names"
                )
            )
        if found:
            return place.path(found[0])
    return None


def _numbered(names: dict[Any, Any], path: Path | None, refuse: Refuse) -> Any:
    """The names in the order of their numbers; a number that has none is named by itself."""
    if not all(type(n) is int and 0 <= n < MOST_CLASSES for n in names):
        return None
    gaps = [n for n in range(max(names, default=-1)) if n not in names]
    if gaps:
        refuse(
            InputError(
                "class numbers must run from 0",
                file=path,
                field="names",
                value=sorted(names),
                hint=f"there is no {gaps[0]}",
            )
        )
    return [names.get(n, f"class{n}") for n in range(len(names) + len(gaps))]


def wrong_count(place: Place, description: dict[str, Any], classes: Classes) -> InputError | None:
    """What `nc` says, where that is not how many names there are."""
    stated, names = description.get("nc"), classes.written
    if stated is None or names is None or str(stated).strip() == str(len(names)):
        return None
    path = place.path(description_file(place) or "")
    return InputError(f"there are {len(names)} names", file=path, field="nc", value=stated)


def keypoint_values(description: dict[str, Any]) -> int:
    """How many numbers follow the box in a line of a pose; 0 where the set has none."""
    shape = description.get("kpt_shape")
    if isinstance(shape, list) and shape and all(type(n) is int and n > 0 for n in shape):
        count = 1
        for n in shape:
            count *= n
        return count
    return 0


def roots(
    place: Place, description: dict[str, Any]
) -> tuple[dict[str, list[Path]], list[InputError]]:
    """(split -> its image folders or list files, what is said of splits that are not there)."""
    found: dict[str, list[Path]] = {}
    missing = []
    for split, entry in entries(description):
        try:
            root = resolve(place, description, entry, split)
        except InputError as error:
            missing.append(error)
        else:
            found.setdefault(split_name(split), []).append(root)
    if not found and not missing and not description:
        found = {split_name(name[:-4]): [place.path(name)] for name in lists_of_images(place)}
    if not found and not missing:
        for folder in _split_folders(place):
            found.setdefault(split_in(f"{folder}/"), []).append(place.path(folder))
    return found, missing


def lists_of_images(place: Place) -> list[str]:
    """The files at the top that have a split's name and begin with that of an image."""
    found = []
    for name in place.own(".txt"):
        if name[:-4].lower() in SPLIT_NAMES:
            first = next((one for one in place.head(name).splitlines() if one.strip()), "").strip()
            found += [name] if suffix_of(first) in IMAGE_SUFFIXES else []
    return found


def _split_folders(place: Place) -> list[str]:
    """The uppermost folders with a split's name that hold images."""
    holding = {name.rpartition("/")[0] for name in place.images}
    found: list[str] = []
    for folder in place.folders:
        name = folder.rpartition("/")[2]
        inner = any(folder.startswith(f"{other}/") for other in found)
        holds = any(one == folder or one.startswith(f"{folder}/") for one in holding)
        if name and split_in(f"{name}/") and holds and not inner:
            found.append(folder)
    return found


def entries(description: dict[str, Any]) -> list[tuple[str, Any]]:
    """(split, where it lies) of the YAML file: the usual names, and each that its folder bears."""
    others = (split for split in description if isinstance(split, str) and split not in _USUAL)
    own = [
        s
        for s in others
        if s in SPLIT_NAMES or description[s] in (f"images/{s}", f"{s}/images", f"{s}.txt")
    ]
    found = []
    for split in (*_USUAL, *own):
        given = description.get(split) or []
        found += [(split, one) for one in (given if isinstance(given, list) else [given])]
    return found


def resolve(place: Place, description: dict[str, Any], entry: Any, split: str) -> Path:
    """Where a split lies: below the root, whatever machine's folder the entry speaks of.

    Roboflow writes ../train/images for train/images; an absolute path means the folder or list
    below whose path ends as it does, the longest end first.
    """
    name = description_file(place) or ""
    if not isinstance(entry, str):
        value = type(entry).__name__
        raise InputError("must be a folder", file=place.path(name), field=split, value=value)
    base, path = name.rpartition("/")[0], description.get("path")
    parts = [p for p in entry.replace("\\", "/").split("/") if p not in ("", ".", "..")]
    places = [base, ""]
    if isinstance(path, str) and not leaves(path):
        places.insert(0, "/".join(p for p in (base, path.strip("./")) if p))
    folders = set(place.folders)
    if not parts and entry.strip("/") in ("", ".") and place.images:  # `.`: the folder itself
        return place.path(base)
    for k in range(len(parts)):
        for start in dict.fromkeys(places):
            one = "/".join(part for part in (start, *parts[k:]) if part)
            if one in folders or one in place.known:
                return place.path(one)
        if not leaves(entry) and ".." not in entry:
            break
    problem = "the split's images are missing"
    if leads_out(entry):
        problem = "a path that leaves the folder"
    raise InputError(problem, file=place.path(name), field=split, value=entry)


def leads_out(entry: str) -> bool:
    """Whether an entry speaks of a place outside the folder; ../train/images does not."""
    return leaves(entry.removeprefix("../"))
