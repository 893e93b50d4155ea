"""The files of the field are those whose numbers are published."""

from __future__ import annotations

from pathlib import Path

import pytest

from boxatlas import load
from boxatlas.data import read
from boxatlas.evaluation import evaluate, predict
from boxatlas.field import results
from boxatlas.field.sureness import FIRST
from boxatlas.weights.field import field_card, field_names

ROOT = Path(__file__).parents[2]
VOC = ROOT.parent / "shared" / "data" / "voc20"


def published() -> list[str]:
    """Names of files that are here and were judged, best first."""
    known = results.read_results(ROOT / "field" / "results")
    here = [n for n in (name.removeprefix("field/") for name in field_names()) if n in known]
    return sorted(here, key=lambda n: -results.latest(known[n])["coco"]["AP"])


def test_cards_are_of_files_that_were_judged() -> None:
    known = results.read_results(ROOT / "field" / "results")
    for name in published():
        card = field_card(f"field/{name}")
        assert card["sha256"] in {p["sha256"] for p in known[name]["judged"]}, name


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.parametrize("place", [0, -1])
def test_a_published_file_has_the_numbers_that_are_published(place: int) -> None:
    """The best and the last, on the first hundred test images."""
    names = published()
    if not names or not VOC.is_dir():
        pytest.skip("needs the field's files and voc20")
    card = field_card(f"field/{names[place]}")
    pairs = results.read_document(ROOT / "field" / "results", "pairs.json")
    if card["sha256"] not in pairs.get("intervals", {}):
        pytest.skip("boxatlas field pairs was not run since")
    table = read(VOC, "test")[:FIRST]
    measured = evaluate(predict(load(f"field/{names[place]}"), table), table, "voc07")
    stored = pairs["intervals"][card["sha256"]]["first"]
    assert measured["coco"]["AP"] == pytest.approx(stored["AP"], abs=1e-3)
    assert measured["voc07"] == pytest.approx(stored["voc07"], abs=3e-3)
