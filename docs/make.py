"""Build the site: `python -m docs.make` (or `make docs`) writes site/, offline.

Documents are expanded (see `expand`) in a temporary folder, the code that they link to becomes
pages beside them, and mkdocs makes the site of it.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml
from docs.expand import PROJECT_PAGES, Page, code_page, code_text, expanded
from docs.sources import ROOT

from boxatlas.progress import track

SITE, CONFIG = ROOT / "site", ROOT / "docs" / "mkdocs.yml"
_MARK = "search/search_index.json"  # what a folder that this program wrote holds


def documents() -> dict[str, Path]:
    """Every page of the site by its path there, but for the code's: where it is written."""
    docs = ROOT / "docs"
    pages = {
        str(path.relative_to(docs)).replace("README.md", "index.md"): path
        for path in sorted(docs.rglob("*.md"))
    }
    return pages | {
        page: ROOT / name for name, page in PROJECT_PAGES.items() if page.startswith("project/")
    }


def staged(pages: dict[str, Path], stage: Path) -> None:
    """Write every page and the code that the pages link to."""
    files: set[str] = set()
    for name, path in track(list(pages.items()), "drawing"):
        page = Page(str(path.relative_to(ROOT)), name)
        text = path.read_text(encoding="utf-8")
        if path.suffix != ".md":
            text = f"# Licence\n\n```text\n{text}\n```\n"
        try:
            text = expanded(text, page)
        except ValueError as error:
            raise SystemExit(f"docs: {page.source}: {error}") from error
        _write(stage / name, text)
        files |= page.code
        for picture, png in page.pictures.items():
            (stage / picture).parent.mkdir(parents=True, exist_ok=True)
            (stage / picture).write_bytes(png)
    for file in sorted(files):
        _write(stage / code_page(file), code_text(file))
    shutil.copy(ROOT / "docs" / "extra.css", stage / "extra.css")


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def navigation(given: list[Any], pages: dict[str, Path]) -> list[Any]:
    """The order of `mkdocs.yml` without pages that are not there, and those it does not name."""
    named: set[str] = set()

    def kept(rows: list[Any]) -> list[Any]:
        out: list[Any] = []
        for row in rows:
            if isinstance(row, dict):
                (title, inner), *_ = row.items()
                if isinstance(inner, list):
                    out.append({title: kept(inner)})
                elif inner in pages:
                    named.add(inner)
                    out.append(row)
            elif row in pages:
                named.add(row)
                out.append(row)
        return out

    rows = kept(given)
    rest = [page for page in pages if page not in named]
    return [*rows, {"More": rest}] if rest else rows


def configured(pages: dict[str, Path], stage: Path, site: Path) -> Path:
    """mkdocs' own file for this build."""
    values = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))
    values |= {"docs_dir": str(stage), "site_dir": str(site)}
    values["nav"] = navigation(values["nav"], pages)
    path = stage.parent / "mkdocs.yml"
    _write(path, yaml.safe_dump(values, sort_keys=False, allow_unicode=True))
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--site", type=Path, default=SITE, help="the folder to write, or replace")
    site: Path = parser.parse_args().site.absolute()
    try:
        from mkdocs.__main__ import cli
    except ImportError:
        raise SystemExit("docs: mkdocs-material is not installed; `make setup` brings it") from None
    if site.is_file() or (site.is_dir() and any(site.iterdir()) and not (site / _MARK).is_file()):
        raise SystemExit(f"docs: {site} holds something else than a site; give another --site")
    pages = documents()
    with TemporaryDirectory(prefix="boxatlas-docs-") as folder:
        stage = Path(folder) / "docs"
        staged(pages, stage)
        config = configured(pages, stage, site)
        words = ["build", "--strict", "--quiet", "--config-file", str(config)]
        if code := cli(words, standalone_mode=False):
            sys.exit(code)
    print(f"{site}: {len(pages)} documents; python -m http.server --directory {site}")


if __name__ == "__main__":
    main()
