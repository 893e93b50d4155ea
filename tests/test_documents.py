"""Documents: every link leads somewhere, every document is in the index, commands exist."""

from __future__ import annotations

import pkgutil
import re
from pathlib import Path

from boxatlas.cli import __path__ as verbs

ROOT = Path(__file__).parents[1]
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]


def test_every_link_leads_somewhere() -> None:
    broken = [
        f"{page.relative_to(ROOT)}: {target}"
        for page in PAGES
        for target in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8"))
        if "://" not in target and not (page.parent / target).exists()
    ]
    assert not broken


def test_every_document_is_in_the_index() -> None:
    index = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    missing = {p.name for p in (ROOT / "docs").glob("*.md") if f"({p.name})" not in index}
    assert missing == {"README.md"}


def test_every_command_of_the_documents_exists() -> None:
    known = {m.name.rstrip("_") for m in pkgutil.iter_modules(verbs)}
    wrong = [
        f"{page.relative_to(ROOT)}: boxatlas {verb}"
        for page in PAGES
        for verb in re.findall(r"^    boxatlas ([a-z]+)", page.read_text(encoding="utf-8"), re.M)
        if verb not in known
    ]
    assert not wrong
