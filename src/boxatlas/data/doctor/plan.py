"""What a repair will change, and what was done about each flaw."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

from boxatlas.data.doctor.flaws import Flaw

Box = list[float]


@dataclass(frozen=True)
class Action:
    """What was done about a flaw."""

    flaw: Flaw
    did: str

    def as_dict(self) -> dict[str, Any]:
        return {**self.flaw.as_dict(), "did": self.did}


@dataclass
class Plan:
    """What to change. Keys are annotation files and object numbers in them, or image paths."""

    objects: dict[str, set[int]] = field(default_factory=lambda: defaultdict(set))  # left out
    boxes: dict[str, dict[int, Box]] = field(default_factory=lambda: defaultdict(dict))  # xyxy
    masks: dict[str, dict[int, str]] = field(default_factory=lambda: defaultdict(dict))
    fields: dict[str, dict[int, str]] = field(default_factory=lambda: defaultdict(dict))  # COCO's
    sides: dict[str, set[int]] = field(default_factory=lambda: defaultdict(set))  # COCO's images
    images: set[str] = field(default_factory=set)  # left out
    entries: dict[str, set[int]] = field(default_factory=lambda: defaultdict(set))  # COCO's images
    files: set[str] = field(default_factory=set)  # left out
    plain: set[str] = field(default_factory=set)  # odd values written plainly
    texts: set[str] = field(default_factory=set)  # written as UTF-8
    unread: set[str] = field(default_factory=set)  # written as UTF-8 and else as they are
    sizes: dict[str, tuple[int, int]] = field(default_factory=dict)  # height, width
    upright: set[str] = field(default_factory=set)
    leaked: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))  # split -> paths
