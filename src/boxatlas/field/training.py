"""Training the field's entries: each has a folder that a stop leaves resumable."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch

from boxatlas.create import create_model
from boxatlas.data import read
from boxatlas.errors import InputError
from boxatlas.field.plan import Entry, recipe_of
from boxatlas.files import make_folder, replacing
from boxatlas.parts.base import Detector
from boxatlas.training import Recipe, train
from boxatlas.training.prepare import with_anchors
from boxatlas.weights import description_of, load


def trained(out: Path, name: str, images: int) -> Path:
    """Where the detector is kept that an entry had become after so many images."""
    return out / "trained" / f"{name}-{images}.safetensors"


def train_entry(
    one: Entry, data: str | Path, images: int, out: Path, device: str | torch.device = "cpu"
) -> Path:
    """Train an entry on so many images, going on from a shorter training of it or a stopped one.

    out: the folder of all runs; this one's is out/runs/NAME. Returns the detector's file. Raises
    InputError as `train` does.
    """
    kept = trained(out, one.name, images)
    if kept.exists():
        return kept
    folder = out / "runs" / one.name
    recipe = recipe_of(one, data, images)
    if one.start == "bundled":
        start = out / "starts" / f"{one.name}.safetensors"
        if not start.exists():
            make_folder(start.parent)
            _first_weights(recipe, data).save(start)
        options = (description_of(start) or {})["options"]  # with the anchors that were clustered
        recipe = recipe.changed({"init": str(start), "options": options})
    ended = train(recipe, folder, device=device, resume=folder.exists())
    make_folder(kept.parent)
    with replacing(kept) as temporary:
        shutil.copyfile(ended.last, temporary)
    return kept


def _first_weights(recipe: Recipe, data: str | Path) -> Detector:
    """A detector with random weights but for its backbone, which is that of the detector that the
    package carries. Raises InputError where it takes nothing of it."""
    table = read(data, "train")
    anchored, _ = with_anchors(recipe.changed({"init": "none", "freeze": []}), table)
    torch.manual_seed(recipe.seed)
    detector = create_model(recipe.model, classes=table.classes, **anchored.options)
    held = {_inner(k): v for k, v in load("bundled").state_dict().items() if _inner(k)}
    own = detector.state_dict()
    fitting = {
        name: held[_inner(name)].to(tensor.dtype)
        for name, tensor in own.items()
        if _inner(name) in held and held[_inner(name)].shape == tensor.shape
    }
    if not fitting:
        raise InputError("takes nothing of the common start", field=recipe.model)
    detector.load_state_dict(own | fitting)
    return detector


def _inner(name: str) -> str:
    """A tensor's name within the network that the backbone is made of, "" outside of it."""
    return name.partition("body.")[2]
