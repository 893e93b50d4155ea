"""Layouts that have a text file for each image, called as the image is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from boxatlas.data.formats.building import Builder, sizes_of
from boxatlas.data.formats.places import Place
from boxatlas.errors import InputError


def begun(place: Place, names: Iterable[str], builder: Builder) -> Iterator[Path]:
    """Begin the image of each of these files and give the file; its objects are the caller's to
    add. What has no image is refused."""
    pairs: list[tuple[str, Path]] = []
    for name in names:
        try:
            pairs.append((name, place.beside(name.rpartition(".")[0], place.path(name), "image")))
        except InputError as error:
            builder.refuse(error)
    for (name, image), size in zip(pairs, sizes_of([p for _, p in pairs]), strict=True):
        if isinstance(size, InputError):
            builder.refuse(size)
            continue
        builder.image(image, name.rpartition(".")[0], size, place.path(name))
        yield place.path(name)
