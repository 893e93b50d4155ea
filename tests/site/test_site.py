"""The site: links to lines, formulas, what pages hold, and the whole, built without the network."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from docs import make, sources
from docs.expand import Page, expanded, models_of, options_table, published_table
from docs.formulas import mathml, replaced
from docs.make import documents, navigation
from docs.sources import ROOT, found, links

PAGES = documents()
METHODS = sorted(p.stem for p in (ROOT / "src/boxatlas/detectors").glob("[a-z]*.py"))
SECTIONS = (
    "The problem it solved",
    "The idea",
    "Formulas, and the lines that are them",
    "Switches",
    "Published, measured, verified",
    "Traps",
    "Try it",
)


def text_of(method: str) -> str:
    return (ROOT / "docs" / "methods" / f"{method}.md").read_text(encoding="utf-8")


# -- links to lines -------------------------------------------------------------------------------


@pytest.mark.parametrize("page", sorted(PAGES))
def test_links_to_the_code_lead_to_what_they_name(page: str) -> None:
    for file, symbol in links(PAGES[page].read_text(encoding="utf-8")):
        place = found(file, symbol)
        lines = (ROOT / file).read_text(encoding="utf-8").splitlines()
        if symbol:  # the lines are the definition of that name, whole
            part = ast.parse(place.text).body
            assert len(part) == 1, (file, symbol)
            assert symbol.split(".")[-1] in lines[place.first - 1 : place.last][0] or isinstance(
                part[0], ast.FunctionDef | ast.ClassDef
            )


def test_a_symbol_that_moved_is_found_and_one_that_is_gone_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "ROOT", tmp_path)
    sources._lines.cache_clear()
    file = tmp_path / "src" / "a.py"
    file.parent.mkdir()
    file.write_text("X = 1\n\n\nclass A:\n    @property\n    def f(self):\n        return X\n")
    assert (found("src/a.py", "A.f").first, found("src/a.py", "A.f").last) == (5, 7)
    assert found("src/a.py", "X").text == "X = 1"
    sources._lines.cache_clear()
    file.write_text("# one line more\n" + file.read_text().replace("def f", "def g"))
    assert found("src/a.py", "A.g").first == 6
    with pytest.raises(ValueError, match=r"there is no A\.f"):
        found("src/a.py", "A.f")
    with pytest.raises(ValueError, match="no such file"):
        found("src/b.py", "")
    sources._lines.cache_clear()


# -- formulas -------------------------------------------------------------------------------------


def test_a_formula_is_mathml() -> None:
    made = mathml(r"\frac{a_1}{2} \le \sqrt{x^2}", block=True)
    assert (
        "<mfrac><mrow><msub><mi>a</mi><mn>1</mn></msub></mrow><mrow><mn>2</mn></mrow></mfrac>"
        in made
    )
    assert "<mo>≤</mo><msqrt><mrow><msup><mi>x</mi><mn>2</mn></msup></mrow></msqrt>" in made
    assert 'display="block"' in made
    assert "<munder><mo>∑</mo>" in mathml(r"\sum_i x", block=False)
    assert "<mtext>if so</mtext>" in mathml(r"\text{if so}", block=False)
    assert mathml(r"a < b", block=False).count("&lt;") == 2  # in the text and in its words


@pytest.mark.parametrize(
    "tex", [r"\unknown{x}", r"\frac{a}", r"{a", r"\begin{matrix} a \end{matrix}"]
)
def test_a_formula_that_is_not_known_is_refused(tex: str) -> None:
    with pytest.raises(ValueError, match=re.escape(repr(tex)) + "|is not known|ends too early"):
        mathml(tex, block=True)


def test_code_is_no_formula() -> None:
    page = "cost $x$\n\n    echo $HOME $USER\n\n`$y$` and\n\n```\n$a$\n```\n"
    made = replaced(page)
    assert made.count("<math") == 1
    assert "echo $HOME $USER" in made
    assert "`$y$`" in made
    assert "\n$a$\n" in made


# -- the methods' pages ---------------------------------------------------------------------------


def test_every_method_has_a_page() -> None:
    assert {"__init__"} == {p.stem for p in (ROOT / "src/boxatlas/detectors").glob("_*.py")}
    assert len(METHODS) == 19
    assert {f"methods/{m}.md" for m in METHODS} <= set(PAGES)


@pytest.mark.parametrize("method", METHODS)
def test_a_methods_page_has_the_shape_of_all(method: str) -> None:
    text = text_of(method)
    heads = [h for h in re.findall(r"^## (.+)$", text, re.M) if h in SECTIONS]
    assert tuple(heads) == SECTIONS
    assert f"<!-- figure: structure {method} |" in text
    assert re.search(r"<!-- options: \w+.* -->", text)
    assert f"<!-- published: {method} -->" in text
    part = text.split("## Formulas, and the lines that are them")[1].split("\n## Switches")[0]
    assert "$$" in part
    assert "In the code: [" in part
    tried = re.search(r"## Try it\n\n((?:    .+\n)+)", text)
    assert tried is not None
    assert len(tried[1].splitlines()) == 3
    assert all(line.startswith("    boxatlas ") for line in tried[1].splitlines())


@pytest.mark.parametrize("method", METHODS)
def test_a_table_of_ideas_is_of_the_methods_own_model(method: str) -> None:
    model = re.search(r"<!-- options: (\w+).* -->", text_of(method))
    assert model is not None
    assert model[1] in models_of(method)


def test_tables_say_what_the_code_says() -> None:
    table = options_table("ssd300_vgg16")
    assert "| `negatives` | 3 | any | SSD, section 2.2: hard negatives for each positive |" in table
    assert "| `atrous` | on | off |" in table
    tree = options_table("yolo9000", " num_classes=3 parents=[-1,0,0]")
    assert "| `class_loss` | hierarchical | flat | section 4" in tree
    assert "| `ssd300_vgg16` | VOC07 test (07+12) | mAP@0.5 | 77.2 |" in published_table("ssd")


def test_a_page_is_expanded() -> None:
    page = Page("docs/methods/x.md", "methods/x.md")
    coder = "../../src/boxatlas/boxes/coders.py"
    given = (
        f"In the code: [`encode`]({coder}#DeltaCoder.encode)\n\n"
        "[t](../training.md#recipes) [c](../../CONTRIBUTING.md)\n\n<!-- figure: log1p | Why. -->\n"
    )
    made = expanded(given, page)
    place = found("src/boxatlas/boxes/coders.py", "DeltaCoder.encode")
    assert f"../code/boxatlas/boxes/coders.md#__codelineno-0-{place.first}" in made
    assert f'```python linenums="{place.first}"' in made
    assert "shift = (centre - anchor_centre) / anchor_size" in made
    assert "[t](../training.md#recipes)" in made
    assert "[c](../project/contributing.md)" in made
    assert "<figcaption>Why.</figcaption>" in made
    assert page.code == {"src/boxatlas/boxes/coders.py"}
    assert expanded("see [the `f[0]`](../../tests/inputs)", page) == "see the `f[0]`"
    with pytest.raises(ValueError, match="nothing for the link"):
        expanded("[x](../../nothing.md)", page)
    with pytest.raises(ValueError, match="no figure is called"):
        expanded("<!-- figure: nonsense -->", page)


def test_navigation_leaves_out_what_is_not_there_and_adds_what_it_does_not_name() -> None:
    pages = {"index.md": ROOT, "a.md": ROOT, "b.md": ROOT}
    rows = navigation([{"Start": "index.md"}, {"Part": ["a.md", "gone.md"]}], pages)
    assert rows == [{"Start": "index.md"}, {"Part": ["a.md"]}, {"More": ["b.md"]}]


# -- the whole ------------------------------------------------------------------------------------


class Outside(HTMLParser):
    """Addresses that a browser would fetch by itself: not links, which a reader follows."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = {"src", "srcset", "data", "poster"} | (
            {"href"} if tag in ("link", "image") else set()
        )
        for name, value in attrs:
            if name in names and value and re.match(r"(https?:)?//", value):
                self.fetched.append(f"{tag} {value}")


def outside(html: str) -> list[str]:
    parser = Outside()
    parser.feed(html)
    styles = re.findall(r"(?:url\(|@import )[\"']?((?:https?:)?//[^\"')\s]+)", html)
    return parser.fetched + styles


def test_outside_addresses_are_seen() -> None:
    page = (
        '<script src="//a.b/c.js"></script><link href="https://f.g/h.css"><a href="https://ok.k">'
    )
    page += "<style>@import 'https://i.j/k.css'; a{b:url(//l.m/n.png)}</style><img src='x.png'>"
    assert len(outside(page)) == 4


def test_a_folder_that_is_no_site_is_not_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    monkeypatch.setattr(sys, "argv", ["docs.make", "--site", str(tmp_path)])
    with pytest.raises(SystemExit, match="holds something else than a site"):
        make.main()
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The whole, built without a way to the network."""
    folder = tmp_path_factory.mktemp("built")
    site = folder / "site"
    command = [sys.executable, "-m", "docs.make", "--site", str(site)]
    nowhere = {"http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9"}
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}", **nowhere}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return site


@pytest.mark.slow
def test_the_site_is_built_and_fetches_nothing(site: Path) -> None:
    """mkdocs --strict: a link or an anchor that leads nowhere fails."""
    for method in METHODS:
        html = (site / "methods" / method / "index.html").read_text(encoding="utf-8")
        assert "<svg" in html
        assert "<math" in html
        assert "<!-- figure" not in html
        assert "<!-- options" not in html
    fetched = {
        f"{path.relative_to(site)}: {address}"
        for path in [*site.rglob("*.html"), *site.rglob("*.css")]
        for address in outside(path.read_text(encoding="utf-8"))
    }
    assert not fetched


@pytest.mark.slow
def test_a_browser_asks_no_other_host_and_a_phone_shows_whole_pages(site: Path) -> None:
    """On 390 pixels nothing but what scrolls by itself is wider than the page."""
    play = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("needs chromium")
    asked: list[str] = []
    with served(site) as address, play.sync_playwright() as started:
        browser = started.chromium.launch(
            executable_path=chromium,
            args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"],
        )
        page = browser.new_page(viewport={"width": 390, "height": 844})
        page.on("request", lambda request: asked.append(request.url))
        for path in ("", "methods/ssd/", "methods/faster_rcnn/", "ideas/matching/", "data/"):
            page.goto(address + path)
            assert page.evaluate("document.documentElement.scrollWidth") <= 390, path
            figures = page.locator(".drawn > svg, .drawn > img").all()
            assert all(
                390 >= (one.bounding_box() or {"width": 0})["width"] > 250 for one in figures
            )
        browser.close()
    assert len(asked) > 5
    assert not [url for url in asked if not url.startswith((address, "data:", "blob:"))]


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The folder on this machine's own address."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/"
    finally:
        server.shutdown()
        server.server_close()
