"""What may import what, as docs/architecture.md says, and how long the face takes to answer."""

from __future__ import annotations

import ast
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

import boxatlas

SOURCE = Path(boxatlas.__file__).parent

# Part -> the parts it may import; what is not listed here may import anything but `cli`.
_BASE = {"boxes", "ops", "losses", "structures", "images", "wordtree"}
_TOOLS = {"errors", "options", "files", "progress", "_version"}  # know no detection
ALLOWED = {
    **dict.fromkeys(_BASE, _BASE | _TOOLS),
    **dict.fromkeys(_TOOLS, _TOOLS | _BASE),
    "inference": _TOOLS | _BASE | {"backbones"},
    "backbones": _BASE | _TOOLS | {"backbones", "necks", "inference"},
    "necks": _BASE | _TOOLS | {"backbones", "necks", "inference"},
}
FORBIDDEN = {"detectors": {"data", "training", "evaluation", "weights", "cli"}}


def imports(file: Path) -> set[tuple[str, bool]]:
    """(module below boxatlas, whether it is imported when the file is) for each import."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    typing_only: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING":
            typing_only.update(child for part in node.body for child in ast.walk(part))
    found = set()
    for node in ast.walk(tree):
        if node in typing_only:
            continue
        names: list[str] = []
        if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            if node.module == "boxatlas":
                names = [f"boxatlas.{alias.name}" for alias in node.names]
            else:
                names = [node.module]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        found |= {
            (name.removeprefix("boxatlas."), node.col_offset == 0)
            for name in names
            if name.startswith("boxatlas.")
        }
    return found


def files() -> list[tuple[str, str, Path]]:
    """(part, file shown, path) of every file."""
    rows = []
    for file in sorted(SOURCE.rglob("*.py")):
        inner = file.relative_to(SOURCE)
        rows.append((inner.parts[0].removesuffix(".py"), inner.as_posix(), file))
    return rows


def test_lower_parts_import_only_downward() -> None:
    wrong = [
        f"{shown} imports {name}"
        for part, shown, file in files()
        if part in ALLOWED
        for name, at_top in imports(file)
        if at_top and name.split(".")[0] not in ALLOWED[part]
    ]
    assert not wrong


def test_methods_know_nothing_of_data_training_evaluation_or_weights() -> None:
    wrong = [
        f"{shown} imports {name}"
        for part, shown, file in files()
        if part in FORBIDDEN
        for name, _ in imports(file)
        if name.split(".")[0] in FORBIDDEN[part]
    ]
    assert not wrong


def test_nothing_imports_the_command_line() -> None:
    wrong = [
        f"{shown} imports {name}"
        for part, shown, file in files()
        if part not in ("cli", "__main__")
        for name, _ in imports(file)
        if name.split(".")[0] == "cli"
    ]
    assert not wrong


def test_the_walls_would_notice() -> None:
    """The rules above are about files and imports that are really found."""
    parts = {part for part, _, _ in files()}
    assert {"boxes", "ops", "losses", "backbones", "necks", "detectors", "cli"} <= parts
    ssd = imports(SOURCE / "detectors" / "ssd.py")
    assert ("necks.extra_maps", True) in ssd


def child(code: str) -> tuple[float, str]:
    """(CPU seconds, output) of a Python process that runs `code`."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, done.stdout


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"], ["--version"]])
def test_help_answers_at_once_without_torch(arguments: list[str]) -> None:
    code = (
        "import sys\nfrom boxatlas.cli import main\n"
        f"try:\n    main({arguments!r})\nexcept SystemExit:\n    pass\n"
        "loaded = {'torch', 'numpy', 'timm', 'PIL'} & set(sys.modules)\n"
        "sys.exit(' '.join(loaded) or 0)"
    )
    # A machine under load is slow at everything: what typer's own import costs says by how much.
    base = min(child("import typer")[0] for _ in range(3))
    assert min(child(code)[0] for _ in range(3)) < 0.5 * max(1.0, base / 0.09)


def test_importing_boxatlas_adds_little_to_torch() -> None:
    """All the methods too, which are imported when a name that needs them is first used."""
    code = (
        "import time\nstart = time.process_time()\nimport torch, torchvision\n"
        "ready = time.process_time()\nimport boxatlas\n"
        "boxatlas.create_model, boxatlas.load, boxatlas.list_models()\n"
        "print(ready - start, time.process_time() - ready)"
    )
    base, added = (float(v) for v in child(code)[1].split())
    # A machine under load is slow at everything: torch's own import (2 s) says by how much.
    assert added < 0.3 * max(1.0, base / 2)
