"""The figures of the site, by name. Each is drawn at build time by what it shows."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

from docs.figures import atlas, curves, fields, pictures, pooling, steps, structures

Picture = tuple[bytes, str]  # a PNG and what it shows
Figure = str | list[Picture]  # SVG, or pictures side by side
FIGURES: dict[str, Callable[..., Any]] = {
    "structure": structures.structure,
    "anchors": pictures.anchors,
    "assigned": pictures.assigned,
    "cascade": pictures.cascade,
    "search": pictures.search,
    "roi-levels": fields.roi_levels,
    "receptive-field": fields.receptive_field,
    "roi-pool": pooling.roi_pool,
    "position-sensitive": pooling.position_sensitive,
    "log1p": curves.log1p,
    "scale-free": curves.scale_free,
    "smooth-l1": curves.smooth,
    "focal": curves.focal,
    "easy-negatives": curves.easy_negatives,
    "schedule": curves.schedule,
    "suppression": steps.suppression,
    "ranked": steps.ranked,
    "precision-recall": steps.precision_recall,
    "timeline": atlas.timeline,
    "taxonomy": atlas.taxonomy,
    "word-tree": atlas.word_tree,
}


@lru_cache(maxsize=256)
def figure(words: str) -> Figure:
    """A figure by its name and values: "anchors ssd300_vgg16 level=1".

    A value without a name goes to the next place; numbers and true/false are what they look like.
    Raises ValueError for an unknown name.
    """
    name, *rest = words.split()
    if name not in FIGURES:
        raise ValueError(f"no figure is called {name!r}; there are {', '.join(FIGURES)}")
    given = [w for w in rest if "=" not in w]
    named = dict(w.split("=", 1) for w in rest if "=" in w)
    return FIGURES[name](*given, **{k: _plain(v) for k, v in named.items()})


def _plain(word: str) -> Any:
    if word in ("true", "false"):
        return word == "true"
    for kind in (int, float):
        try:
            return kind(word)
        except ValueError:
            continue
    return word
