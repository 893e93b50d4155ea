"""Detectors of the field by name, "field/NAME": where their files are, without importing anything.

The distribution boxatlas-field carries a folder `boxatlas_field` of NAME.safetensors, each with its
card NAME.json; in a clone of the repository the same folder is used where it stands.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from boxatlas.errors import InputError, nearest
from boxatlas.weights.bundle import card_of, checked

PREFIX = "field/"
PACKAGE = "boxatlas_field"
_CLONE = Path(__file__).resolve().parents[3] / "field" / PACKAGE
_INSTALL = "pip install boxatlas-field"


def is_field(what: object) -> bool:
    """Whether it is the name of a detector of the field."""
    return isinstance(what, str) and what.startswith(PREFIX)


def field_folder() -> Path | None:
    """The folder of the installed distribution, else of the clone; None where there is neither."""
    spec = find_spec(PACKAGE)
    places = [Path(p) for p in (spec.submodule_search_locations or ())] if spec else []
    return next((p for p in (*places, _CLONE) if any(p.glob("*.safetensors"))), None)


def field_names() -> list[str]:
    """ "field/NAME" of every detector that is here, sorted."""
    folder = field_folder()
    return [] if folder is None else sorted(PREFIX + p.stem for p in folder.glob("*.safetensors"))


def field_file(what: str) -> Path:
    """The file of "field/NAME".

    Raises InputError, saying what to install, where the field is not here; for a name that is not
    in it; and where the file is not the one that its card is of.
    """
    folder = field_folder()
    if folder is None:
        raise InputError("the field's weights are not installed", value=what, hint=_INSTALL)
    names = field_names()
    if what not in names:
        raise InputError("is not in the field", value=what, hint=nearest(what, names))
    return checked(folder / f"{what.removeprefix(PREFIX)}.safetensors", _INSTALL)


def field_card(what: str) -> dict[str, Any]:
    """What is known of "field/NAME". Raises as `field_file` does."""
    return card_of(field_file(what))


def field_of(model: str) -> str:
    """The "field/NAME" that is of a registered model. Raises InputError where there is none."""
    folder = field_folder()
    if folder is None:
        raise InputError("the field's weights are not installed", field="init", hint=_INSTALL)
    files = {name: folder / f"{name.removeprefix(PREFIX)}.safetensors" for name in field_names()}
    cards = {name: card_of(file) for name, file in files.items()}
    for name, card in cards.items():
        if card["model"] == model:
            return name
    known = ", ".join(sorted({card["model"] for card in cards.values()}))
    raise InputError(f"the field has nothing of {model}", field="init", hint=f"it has: {known}")
