"""What annotation files say besides a table's columns, kept to be written again in their layout."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True)
class Extras:
    """VOC's pose and source, COCO's licences and addresses, and whatever else a file holds.

    layout: whose words they are. names: of all that is said, for whom they are lost on. heads: what
    each file says as a whole, head_of [N]: whose an image is. classes: by name. images [N] and
    objects [T] (or none at all): in the layout's own notation, "" where nothing is said.
    """

    layout: str
    names: tuple[str, ...]
    heads: list[dict[str, Any]]
    head_of: list[int]
    classes: dict[str, dict[str, Any]]
    images: list[str]
    objects: list[str]

    def of_images(self, index: Iterable[int]) -> Extras:
        """Of these images; their objects are left to the caller."""
        index = list(index)
        return replace(
            self, head_of=[self.head_of[i] for i in index], images=[self.images[i] for i in index]
        )

    def of_objects(self, rows: Iterable[int]) -> Extras:
        """Of these objects."""
        return replace(self, objects=[self.objects[k] for k in rows]) if self.objects else self

    def head(self, images: Sequence[int]) -> dict[str, Any]:
        """What the files of these images say as a whole, the first of them first."""
        found: dict[str, Any] = {}
        for head in self._heads(images):
            found = {**head, **found}
        return found

    def differing(self, images: Sequence[int]) -> list[str]:
        """The names of what `head` has to choose of."""
        whole = self.head(images)
        return [name for head in self._heads(images) for name in head if head[name] != whole[name]]

    def _heads(self, images: Sequence[int]) -> Iterator[dict[str, Any]]:
        return (self.heads[n] for n in dict.fromkeys(self.head_of[i] for i in images))


def joined(parts: Sequence[tuple[Extras | None, int, int]]) -> Extras | None:
    """Of several tables, each with its numbers of images and objects. Of different layouts only
    the names are left."""
    known = [extras for extras, _, _ in parts if extras is not None]
    if not known:
        return None
    layouts = list(dict.fromkeys(extras.layout for extras in known))
    none = Extras(layouts[0], (), [{}], [], {}, [], [])
    out = Extras(
        " and ".join(layouts),
        tuple(dict.fromkeys(n for e in known for n in e.names)),
        [],
        [],
        {},
        [],
        [],
    )
    any_object = any(extras.objects for extras in known)
    for extras, images, objects in parts:
        same = extras if extras is not None and len(layouts) == 1 else none
        out.head_of.extend(len(out.heads) + n for n in same.head_of or [0] * images)
        out.heads.extend(same.heads)
        out.images.extend(same.images or [""] * images)
        out.objects.extend(same.objects or [""] * (objects if any_object else 0))
        out.classes.update({k: v for k, v in same.classes.items() if k not in out.classes})
    return out
