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
_BASE = {"boxes", "ops", "losses", "structures", "frame", "images", "drawing", "wordtree"}
# These know no detection.
_TOOLS = {"errors", "options", "files", "archives", "progress", "selection", "_version"}
_NETWORKS = _BASE | _TOOLS | {"backbones", "necks"}
ALLOWED = {
    **dict.fromkeys(_BASE, _BASE | _TOOLS),
    **dict.fromkeys(_TOOLS, _TOOLS | _BASE),
    "backbones": _NETWORKS,
    "necks": _NETWORKS,
    "parts": _NETWORKS | {"parts"},
    "registry": _TOOLS,  # a table: it knows no method
    "detectors": _NETWORKS | {"parts", "registry", "detectors"},
    "zoo": _TOOLS | {"registry", "detectors", "parts"},  # builds without weights
    "create": _TOOLS | {"zoo", "weights", "parts", "export"},  # builds, then loads
}
# A method imports no other, but the one whose paper it extends.
EXTENDS = {
    ("yolo9000", "yolov2"),
    ("yolov2", "yolov1"),
    ("mask_rcnn", "fpn"),
    ("cascade_rcnn", "mask_rcnn"),
}


def imports(file: Path) -> set[tuple[str, bool]]:
    """(module below boxatlas, whether it is imported when the file is) for each import.

    Those under TYPE_CHECKING do not count; those inside functions do.
    """
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
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if exists(name) else node.module for name in inner]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        found |= {
            (name.removeprefix("boxatlas."), node.col_offset == 0)
            for name in names
            if name.startswith("boxatlas.")
        }
    return found


def exists(module: str) -> bool:
    """Whether a module of the package has this name."""
    path = SOURCE.parent.joinpath(*module.split("."))
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


def files() -> list[tuple[str, str, Path]]:
    """(part, file shown, path) of every file."""
    rows = []
    for file in sorted(SOURCE.rglob("*.py")):
        inner = file.relative_to(SOURCE)
        rows.append((inner.parts[0].removesuffix(".py"), inner.as_posix(), file))
    return rows


def test_each_part_imports_only_what_it_may() -> None:
    """Imports inside functions too: a wall has no back door."""
    wrong = [
        f"{shown} imports {name}"
        for part, shown, file in files()
        if part in ALLOWED
        for name, _ in sorted(imports(file))
        if name.split(".")[0] not in ALLOWED[part]
    ]
    assert not wrong, "\n".join(wrong)


def test_a_method_imports_only_the_one_whose_paper_it_extends() -> None:
    wrong = [
        f"{shown} imports {name}"
        for part, shown, file in files()
        if part == "detectors" and file.stem != "__init__"
        for name, _ in sorted(imports(file))
        if name.startswith("detectors.") and (file.stem, name.split(".")[1]) not in EXTENDS
    ]
    assert not wrong, "\n".join(wrong)


def circles() -> list[list[str]]:
    """Modules that import each other, directly or around a corner: Tarjan's components."""
    names = {
        shown.removesuffix(".py").removesuffix("/__init__").replace("/", "."): file
        for _, shown, file in files()
    }
    edges = {
        name: {target for target, _ in imports(file) if target in names and target != name}
        for name, file in names.items()
    }
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(name: str) -> None:
        index[name] = low[name] = len(index)
        stack.append(name)
        for target in edges[name]:
            if target not in index:
                visit(target)
                low[name] = min(low[name], low[target])
            elif target in stack:
                low[name] = min(low[name], index[target])
        if low[name] == index[name]:
            ring = stack[stack.index(name) :]
            del stack[stack.index(name) :]
            if len(ring) > 1:
                found.append(sorted(ring))

    for name in edges:
        if name not in index:
            visit(name)
    return found


def test_no_files_import_each_other_in_a_circle() -> None:
    assert not circles(), "\n".join(" <-> ".join(ring) for ring in circles())


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


def test_functions_and_files_are_short() -> None:
    """A screen each: 60 lines below a function's first, 500 of a file."""
    long = []
    for file in sorted(SOURCE.rglob("*.py")):
        text = file.read_text(encoding="utf-8")
        if text.count("\n") > 500:
            long.append(f"{file.relative_to(SOURCE)}: {text.count(chr(10))} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno
                if lines > 60:
                    long.append(f"{file.relative_to(SOURCE)}:{node.lineno} {node.name}: {lines}")
    assert not long, "\n".join(long)


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


# Foreign bytes meet these parsers in one place each, behind its guards.
GUARDED = {
    "np.load": set(),  # archives.py reads npz and npy by their headers
    "loadmat": {"data/mat_file.py"},  # in a process of its own
    "torch.load": {"weights/reading.py", "backbones/timm_features.py"},  # weights_only
    "pickle.load": set(),
    "pickle.loads": set(),
}


def test_foreign_arrays_are_parsed_behind_the_guards() -> None:
    calls: dict[str, set[str]] = {name: set() for name in GUARDED}
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                name = ast.unparse(node.func)
                if name in calls:
                    calls[name].add(path.relative_to(SOURCE).as_posix())
    assert calls == GUARDED
