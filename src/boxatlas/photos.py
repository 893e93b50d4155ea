"""Photos that installed packages carry, each with its terms: something real to detect on, offline.

boxatlas itself carries none. What is not installed is left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path


@dataclass(frozen=True)
class Photo:
    """A file, what it shows, and who may use it how."""

    path: Path
    title: str
    terms: str


# (package, file in it, what it shows, terms)
_KNOWN = (
    ("matplotlib", "mpl-data/sample_data/grace_hopper.jpg", "Grace Hopper",
     "public domain, a photograph of the United States Navy; from matplotlib"),
    ("skimage", "data/astronaut.png", "Eileen Collins", "public domain, NASA; from scikit-image"),
    ("skimage", "data/chelsea.png", "Chelsea the cat", "CC0, Stefan van der Walt; scikit-image"),
    ("sklearn", "datasets/images/china.jpg", "A palace in China",
     "CC BY 2.0, Daniel Buechele; from scikit-learn"),
)  # fmt: skip


def photos() -> list[Photo]:
    """Those whose package is installed here, in a fixed order."""
    found = []
    for package, inner, title, terms in _KNOWN:
        spec = find_spec(package)
        for folder in (spec.submodule_search_locations or []) if spec is not None else []:
            path = Path(folder) / inner
            if path.is_file():
                found.append(Photo(path, title, terms))
                break
    return found
