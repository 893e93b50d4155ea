"""Links from the documents to lines of the code, by symbol: `src/boxatlas/boxes/coders.py#encode`.

Public: Place, found, links. A link names a file and, behind #, a function, class, method
(`DeltaCoder.encode`) or a name that is assigned at the top of the file, so that moving lines breaks
nothing and renaming breaks a test.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
_LINK = re.compile(r"\]\((?:\.\./)*((?:src|benchmarks|tests)/[\w/.-]+\.py)(?:#([\w.]+))?\)")


@dataclass(frozen=True)
class Place:
    """Lines first to last, counted from 1, of a file below the project's root."""

    file: str
    first: int
    last: int

    @property
    def text(self) -> str:
        """The lines, without the indentation that they share."""
        from textwrap import dedent

        lines = _lines(self.file)[self.first - 1 : self.last]
        return dedent("\n".join(lines))


def links(page: str) -> list[tuple[str, str]]:
    """(file, symbol or "") of every link of a page to the code."""
    return [(m[1], m[2] or "") for m in _LINK.finditer(page)]


def found(file: str, symbol: str) -> Place:
    """Where a symbol is. Raises ValueError where there is no such file or symbol."""
    if not (ROOT / file).is_file():
        raise ValueError(f"{file}: there is no such file")
    if not symbol:
        return Place(file, 1, len(_lines(file)))
    nodes: list[ast.stmt] = ast.parse("\n".join(_lines(file))).body
    node: ast.stmt | None = None
    for name in symbol.split("."):
        node = next((n for n in nodes if name in _names(n)), None)
        if node is None:
            raise ValueError(f"{file}: there is no {symbol}")
        nodes = getattr(node, "body", [])
    assert node is not None
    first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", ()))])
    return Place(file, first, node.end_lineno or node.lineno)


def _names(node: ast.stmt) -> list[str]:
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return [node.name]
    if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
        return [node.target.id]
    if isinstance(node, ast.Assign):
        return [t.id for t in node.targets if isinstance(t, ast.Name)]
    return []


@lru_cache(maxsize=256)
def _lines(file: str) -> list[str]:
    return (ROOT / file).read_text(encoding="utf-8").splitlines()
