"""A document as the site shows it: figures drawn, lines of code shown, formulas, tables of options.

What a document may hold, invisible where it is read as plain Markdown:

    <!-- figure: anchors ssd300_vgg16 level=1 | What it shows. -->
    <!-- options: ssd300_vgg16 -->
    <!-- options: yolo9000 num_classes=3 parents=[-1,0,0] -->
    <!-- published: ssd -->

and, visible there too: formulas between $ or $$, and "In the code:" with links to symbols, whose
lines the site shows.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import re
from dataclasses import dataclass, field
from html import escape
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from docs.figures import figure
from docs.formulas import replaced
from docs.sources import ROOT, found

import boxatlas
from boxatlas.cli.explain import options_of
from boxatlas.cli.models import describe
from boxatlas.zoo import list_models, model_info

_FIGURE = re.compile(r"^<!-- figure: ([^|\n]+?)(?: \| (.+?))? -->$", re.M | re.S)
_OPTIONS = re.compile(r"^<!-- options: (\S+)((?: \w+=\S+)*) -->$", re.M)
_PUBLISHED = re.compile(r"^<!-- published: (\S+) -->$", re.M)
_SHOWN = re.compile(r"^In the code: (.+?)$(?=\n\n|\n*\Z)", re.M | re.S)
_ANCHOR = re.compile(
    r"\[`?([^\]`]+)`?\]\((?:\.\./)*((?:src|benchmarks|tests)/[\w/.-]+\.py)#([\w.]+)\)"
)
_LINK = re.compile(r"\[((?:[^\[\]]|\[[^\]]*\])*)\]\((?!\w+:)([^)#\s]+)(#[^)\s]+)?\)")
# Files that are shown as they are, and how they are coloured.
_SHOWN_FILES = {".py": "python", ".yaml": "yaml", ".toml": "toml", ".txt": "text", ".json": "json"}
MOST_LINES = 70  # of one symbol that a page shows


@dataclass
class Page:
    """A document on its way to the site.

    source: where it is, below the project's root; path: where the site has it. What it needs beside
    itself is gathered: code, files that it links to; pictures, by their path in the site.
    """

    source: str
    path: str
    code: set[str] = field(default_factory=set)
    pictures: dict[str, bytes] = field(default_factory=dict)

    def up(self) -> str:
        """From the page's address, which is a folder, to the site's root."""
        depth = len(PurePosixPath(self.path).parts) - (PurePosixPath(self.path).name == "index.md")
        return "../" * depth


def expanded(markdown: str, page: Page) -> str:
    """The page as mkdocs reads it. Raises ValueError for what is not known."""
    text = _FIGURE.sub(lambda m: drawn(m[1], " ".join((m[2] or "").split()), page), markdown)
    text = _OPTIONS.sub(lambda m: options_table(m[1], m[2]), text)
    text = _PUBLISHED.sub(lambda m: published_table(m[1]), text)
    text = _SHOWN.sub(lambda m: m[0] + "\n\n" + shown_lines(m[1]), text)
    text = replaced(text)
    return _LINK.sub(lambda m: _linked(m[1], _target(m[2], m[3] or "", page)), text)


def _linked(words: str, target: str | None) -> str:
    return words if target is None else f"[{words}]({target})"


def drawn(words: str, caption: str, page: Page) -> str:
    """A figure as HTML with its caption."""
    made = figure(words)
    if isinstance(made, str):
        inner = made.replace("\n", " ")
    else:
        inner = ""
        for png, said in made:
            name = f"figures/{hashlib.sha256(png).hexdigest()[:16]}.png"
            page.pictures[name] = png
            inner += (
                f'<img alt="{escape(said)}" src="{page.up()}{name}"/><span>{escape(said)}</span>'
            )
    below = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return f'<figure class="drawn" data-figure="{escape(words)}">{inner}{below}</figure>'


def options_table(model: str, given: str = "") -> str:
    """The ideas of a model as its own options have them: name, value, other values, note.

    given: what it is built with, "num_classes=3 parents=[-1,0,0]", where some ideas need it.
    """
    own = dict(word.split("=", 1) for word in given.split())
    with torch.device("meta"):
        detector = boxatlas.create_model(model, **{k: json.loads(v) for k, v in own.items()})
    rows = options_of(detector, False)["ideas"]
    if not rows:
        return "This method has no idea that can be switched off."
    lines = ["| idea | the paper's | others | where, and what it does |", "|---|---|---|---|"]
    for one in rows:
        others = [v for v in one["values"] if v != one["default"]]
        words = ", ".join(_said(v) for v in others) or "any"
        lines.append(
            f"| `{one['name']}` | {_said(one['default'])} | {words} | {one['note'] or ''} |"
        )
    return "\n".join(lines)


def _said(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, list):
        return ", ".join(_said(v) for v in value)
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def models_of(method: str) -> list[str]:
    """The models that a method's file registers."""
    module = importlib.import_module(f"boxatlas.detectors.{method}").__name__
    return [name for name in list_models() if model_info(name).build.__module__ == module]


def published_table(method: str) -> str:
    """What was published of each model of a method."""
    lines = ["| model | data | | value | where |", "|---|---|---|---|---|"]
    for name in models_of(method):
        for one in describe(name)["published"]:
            rate = f"; {one['fps']:g} images/s" if one["fps"] else ""
            rate += f" on {one['hardware']}" if rate and one["hardware"] else ""
            lines.append(
                f"| `{name}` | {one['data']} | {one['metric']} | {one['value']:g} "
                f"| {one['source']}{rate} |"
            )
    return "\n".join(lines) if len(lines) > 2 else "Nothing was published of these models."


def shown_lines(words: str) -> str:
    """The lines of the symbols that a text links to, folded."""
    blocks = []
    for _, file, symbol in _ANCHOR.findall(words):
        place = found(file, symbol)
        lines = place.text.splitlines()
        cut = f"\n# ... {len(lines) - MOST_LINES} lines more" if len(lines) > MOST_LINES else ""
        title = f"{symbol}: {file}, line {place.first}"
        code = "\n".join(lines[:MOST_LINES]) + cut
        fence = f'```python linenums="{place.first}"\n{code}\n```'
        blocks.append(f'??? quote "{title}"\n\n' + _indented(fence))
    return "\n\n".join(blocks)


def _indented(text: str) -> str:
    return "\n".join(f"    {line}" if line else "" for line in text.splitlines())


def code_page(file: str) -> str:
    """Where the site has a file of the code: "code/boxatlas/boxes/coders.md"."""
    return f"code/{file.removeprefix('src/').removesuffix('.py')}.md"


def code_text(file: str) -> str:
    """The page of a file of the code, which the search leaves out."""
    code = (ROOT / file).read_text(encoding="utf-8")
    fence = f'````{_SHOWN_FILES[Path(file).suffix]} linenums="1"\n{code}\n````\n'
    return f"---\nsearch:\n  exclude: true\nhide: [toc]\n---\n# {file}\n\n{fence}"


def _target(target: str, anchor: str, page: Page) -> str | None:
    """A link of the repository as a link of the site; None for what the site does not show.

    Raises ValueError for what is not there at all.
    """
    full = _resolved(PurePosixPath(page.source).parent / target)
    if full.startswith("docs/"):
        inner = full.removeprefix("docs/")
        if full == "docs/methods":
            return _relative("methods/ssd.md", page.path)
        if Path(full).suffix in (".png", ".svg", ".jpg", ".webp") and (ROOT / full).is_file():
            page.pictures[inner] = (ROOT / full).read_bytes()
            return _relative(inner, page.path)
        if Path(full).suffix != ".md" and (ROOT / full).exists():
            return None
        return _relative("index.md" if inner == "README.md" else inner, page.path) + anchor
    if Path(full).suffix in _SHOWN_FILES and (ROOT / full).is_file():
        page.code.add(full)
        line = f"#__codelineno-0-{found(full, anchor[1:]).first}" if anchor else ""
        return _relative(code_page(full), page.path) + line
    if full in PROJECT_PAGES:
        return _relative(PROJECT_PAGES[full], page.path) + anchor
    if (ROOT / full).exists():
        return None
    raise ValueError(f"{page.source}: the site has nothing for the link {target}")


# Documents beside docs/ that the site has too.
PROJECT_PAGES = {
    "README.md": "index.md",
    "CHANGELOG.md": "project/changes.md",
    "CONTRIBUTING.md": "project/contributing.md",
    "SECURITY.md": "project/security.md",
    "LICENSE": "project/licence.md",
}


def _resolved(path: PurePosixPath) -> str:
    parts: list[str] = []
    for part in path.parts:
        if part == "..":
            parts.pop()
        elif part != ".":
            parts.append(part)
    return "/".join(parts)


def _relative(target: str, page: str) -> str:
    here, there = PurePosixPath(page).parent.parts, PurePosixPath(target).parts
    same = 0
    while same < len(here) and same < len(there) - 1 and here[same] == there[same]:
        same += 1
    return "/".join([*[".."] * (len(here) - same), *there[same:]])
