"""The page in a real browser, by what a person does."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Iterator

import numpy as np
import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
playwright = pytest.importorskip("playwright.sync_api")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
WAIT = 60_000  # ms: the machine may be busy


@pytest.fixture(scope="module")
def browser() -> Iterator[object]:
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield opened
        opened.close()


class Page:
    """A page with what it asked the server for, and what went wrong in it."""

    def __init__(self, browser, address: str, **how: object) -> None:
        self.page = browser.new_context(accept_downloads=True, **how).new_page()
        self.asked: list[str] = []
        self.wrong: list[str] = []
        self.page.on("request", lambda one: self.asked.append(one.url))
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.goto(address)
        playwright.expect(self.page.locator("#models input")).to_have_count(2, timeout=WAIT)

    def shows(self, cards: int) -> None:
        playwright.expect(self.page.locator("article .count")).to_have_count(cards, timeout=WAIT)

    def choose(self, photo: bytes) -> None:
        file = {"name": "a.jpg", "mimeType": "image/jpeg", "buffer": photo}
        self.page.set_input_files("#file", file)

    def least(self, score: float) -> None:
        self.page.locator("#score").fill(str(score))

    def drawn(self, model: str) -> list[tuple[str, list[float]]]:
        """(label, x y width height) of every box over a detector's picture."""
        card = self.page.locator(f'article[data-model="{model}"]')
        texts = card.locator("svg text").all_text_contents()
        corners = card.locator("svg rect").evaluate_all(
            "all => all.map(r => ['x', 'y', 'width', 'height'].map(k => Number(r.getAttribute(k))))"
        )
        return list(zip(texts, corners, strict=True))

    def detections(self) -> int:
        return sum("/detect" in url for url in self.asked)

    def fine(self) -> None:
        """Nothing went wrong, and nobody else was asked."""
        assert not self.wrong
        start = self.page.url.split("/", 3)[:3]
        assert all(
            u.startswith(("blob:", "data:")) or u.split("/", 3)[:3] == start for u in self.asked
        )
        self.page.context.close()


def expected(detector, photo: bytes, score: float) -> list[str]:
    found = detector.detect(photo, score=0.05).filter(score=score)
    return sorted(f"{n} {s:.2f}" for n, s in zip(found.names, found.scores.tolist(), strict=True))


def test_a_chosen_photo_is_detected_and_filtered_without_asking_again(
    browser, running, detector, photo
) -> None:
    page = Page(browser, running.address)
    page.choose(photo)
    page.shows(2)
    for score in (0.3, 0.08):
        page.least(score)
        drawn = page.drawn("bundled")
        assert sorted(label for label, _ in drawn) == expected(detector, photo, score)
        assert drawn
    found = detector.detect(photo, score=0.08)
    best = page.drawn("bundled")[-1][1]  # the surest lies on top
    x1, y1, x2, y2 = found.boxes[0].tolist()
    np.testing.assert_allclose(best, [x1, y1, x2 - x1, y2 - y1], atol=0.02)
    assert page.page.locator("#least").inner_text() == "0.08"
    assert page.detections() == 2  # one for each detector
    names = page.page.locator("#classes label").all_inner_texts()
    assert sorted(names) == sorted(set(found.names))
    page.page.get_by_label("person", exact=True).uncheck()
    assert not [label for label, _ in page.drawn("bundled") if label.startswith("person")]
    assert "person" in page.page.locator("#classes label").all_inner_texts()
    assert page.detections() == 2
    page.fine()


def test_pasted_and_dropped_photos(browser, running, photo, drawing) -> None:
    page = Page(browser, running.address)
    for kind, data in (("paste", photo), ("drop", drawing)):
        before = page.detections()
        page.page.evaluate(
            """([kind, text]) => {
                const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
                const held = new DataTransfer();
                held.items.add(new File([bytes], "a.png", { type: "image/png" }));
                const event = kind === "paste"
                    ? new ClipboardEvent("paste", { clipboardData: held, bubbles: true })
                    : new DragEvent("drop", { dataTransfer: held, bubbles: true });
                document.body.dispatchEvent(event);
            }""",
            [kind, base64.b64encode(data).decode()],
        )
        page.shows(2)
        assert page.detections() == before + 2
    page.fine()


def test_examples_are_a_click_away(browser, running) -> None:
    page = Page(browser, running.address)
    page.page.locator("#examples button").first.click(timeout=WAIT)
    page.shows(2)
    assert page.drawn("bundled")
    page.fine()


def test_what_one_saw_alone_is_said(browser, make_running, detector, photo) -> None:
    """The second knows no persons: those of the first are its own."""
    import copy

    from boxatlas.serve.app import Limits

    blind = copy.deepcopy(detector)
    blind.classes = tuple("nobody" if name == "person" else name for name in detector.classes)
    service = make_running({"bundled": detector, "blind": blind}, Limits(), None)
    page = Page(browser, service.address)
    page.choose(photo)
    page.shows(2)
    card = page.page.locator('article[data-model="bundled"]')
    alone = card.locator("footer li").all_inner_texts()
    assert alone == [label for label in expected(detector, photo, 0.3) if "person" in label]
    assert alone
    assert card.locator("svg g.alone").count() == len(alone)
    page.fine()


def test_json_and_picture_to_take_away(browser, running, detector, photo) -> None:
    import io

    from PIL import Image

    page = Page(browser, running.address)
    page.choose(photo)
    page.shows(2)
    card = page.page.locator('article[data-model="bundled"]')
    with page.page.expect_download() as kept:
        card.get_by_role("button", name="JSON").click()
    document = json.loads(kept.value.path().read_text())
    assert kept.value.suggested_filename == "bundled.json"
    assert len(document["annotations"]) == len(expected(detector, photo, 0.3))
    with page.page.expect_download() as kept:
        card.get_by_role("button", name="Picture").click()
    picture = Image.open(io.BytesIO(kept.value.path().read_bytes()))
    assert picture.size == Image.open(io.BytesIO(photo)).size
    page.fine()


def test_by_keyboard_alone(browser, running) -> None:
    page = Page(browser, running.address)
    playwright.expect(page.page.locator("#examples button").first).to_be_visible(timeout=WAIT)
    with page.page.expect_file_chooser() as chooser:
        for _ in range(20):
            page.page.keyboard.press("Tab")
            if page.page.evaluate("document.activeElement.id") == "drop":
                break
        page.page.keyboard.press("Enter")
    assert chooser.value
    for _ in range(20):
        page.page.keyboard.press("Tab")
        if page.page.evaluate("document.activeElement.parentElement.id") == "examples":
            break
    page.page.keyboard.press("Enter")
    page.shows(2)
    page.page.locator("#score").focus()
    before = page.page.locator("#least").inner_text()
    page.page.keyboard.press("ArrowRight")
    assert float(page.page.locator("#least").inner_text()) == pytest.approx(float(before) + 0.01)
    page.fine()


def test_a_phone_and_the_dark(browser, running, photo) -> None:
    phone = Page(
        browser, running.address, viewport={"width": 390, "height": 844}, color_scheme="dark"
    )
    phone.choose(photo)
    phone.shows(2)
    assert phone.page.evaluate("document.documentElement.scrollWidth") <= 390
    dark = phone.page.evaluate("getComputedStyle(document.body).backgroundColor")
    light = Page(browser, running.address)
    assert light.page.evaluate("getComputedStyle(document.body).backgroundColor") != dark
    light.fine()
    phone.fine()


def test_what_is_no_picture_is_said(browser, running) -> None:
    page = Page(browser, running.address)
    page.page.set_input_files(
        "#file", {"name": "a.jpg", "mimeType": "image/jpeg", "buffer": b"no picture"}
    )
    said = page.page.locator("#said")
    playwright.expect(said).to_contain_text("not an image that can be read", timeout=WAIT)
    page.fine()


def test_the_api_can_be_read(browser, running) -> None:
    page = Page(browser, running.address)
    page.page.get_by_role("link", name="API").click()
    heads = page.page.locator("h2")
    playwright.expect(heads).to_have_count(3, timeout=WAIT)
    assert set(heads.all_inner_texts()) == {"GET /health", "GET /models", "POST /detect"}
    page.fine()


def test_run_lengths_in_the_browser_are_pycocotools(browser, running) -> None:
    mask_utils = pytest.importorskip("pycocotools.mask")
    rng = np.random.default_rng(0)
    masks = [rng.random((37, 53)) < p for p in (0.0, 0.02, 0.5, 1.0)]
    masks.append(np.zeros((700, 900), bool))
    masks[-1][100:600, 200:801] = True
    rles = [mask_utils.encode(np.asfortranarray(mask.astype(np.uint8))) for mask in masks]
    given = [{"size": one["size"], "counts": one["counts"].decode()} for one in rles]
    page = Page(browser, running.address)
    got = page.page.evaluate(
        "async (all) => { const m = await import('/found.js');"
        " return all.map((one) => Array.from(m.unpacked(one)).join('')); }",
        given,
    )
    for mask, text in zip(masks, got, strict=True):
        assert text == "".join(map(str, mask.astype(int).T.ravel()))
    page.fine()
