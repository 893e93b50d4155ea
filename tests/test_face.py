"""What `import boxatlas` offers, each thing without a further import."""

from __future__ import annotations

import subprocess
import sys
import types

import pytest

import boxatlas

# Each name as a user would write it -> what it must be.
OFFERED = {
    "create_model": types.FunctionType,
    "load": types.FunctionType,
    "import_model": types.FunctionType,
    "list_models": types.FunctionType,
    "model_info": types.FunctionType,
    "train": types.FunctionType,
    "evaluate": types.FunctionType,
    "predict": types.FunctionType,
    "Detector": type,
    "Detections": type,
    "Batch": type,
    "Targets": type,
    "Frame": type,
    "Preprocess": type,
    "InputError": type,
    "data.Table": type,
    "data.read": types.FunctionType,
    "data.make_loader": types.FunctionType,
    "training.find_recipe": types.FunctionType,
    "training.train": types.FunctionType,
    "evaluation.evaluate": types.FunctionType,
    "scenes.write": types.FunctionType,
    "detectors.ssd": types.ModuleType,
    "weights.load_into": types.FunctionType,
    "boxes": types.ModuleType,
    "ops.SelectiveSearch": type,
}


# One of each module: the first that is asked for must not lean on what another imported.
@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["train", "predict", "scenes.write", "Preprocess", "import_model", "data.Table"]
)
def test_each_name_is_there_in_a_new_process(name: str) -> None:
    code = f"import boxatlas; boxatlas.{name}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", OFFERED)
def test_each_name_is_what_it_says(name: str) -> None:
    value: object = boxatlas
    for part in name.split("."):
        value = getattr(value, part)
    assert isinstance(value, OFFERED[name])


def test_the_list_of_names_is_what_a_user_wants_to_see() -> None:
    names = dir(boxatlas)
    assert {name.split(".")[0] for name in OFFERED} | {"__version__"} == set(names)
    assert names == sorted(names)
    for name in names:
        assert getattr(boxatlas, name) is not None
        assert name == "__version__" or not name.startswith("_")


def test_a_name_that_is_not_there_is_said_so() -> None:
    with pytest.raises(AttributeError, match="no attribute 'detect'"):
        _ = boxatlas.detect  # type: ignore[attr-defined]


def test_import_alone_brings_no_torch() -> None:
    code = (
        "import sys, boxatlas; dir(boxatlas); boxatlas.InputError; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
