"""boxatlas models, explain and bench."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from boxatlas.zoo import list_models, model_info


def test_models_are_the_registered_ones(say) -> None:
    code, out, _ = say("models", "--json")
    models = json.loads(out)["models"]
    assert code == 0
    assert [m["name"] for m in models] == list_models()
    for model in models:
        info = model_info(model["name"])
        assert model["arxiv"] == info.arxiv
        assert model["year"] == info.year
        assert [p["value"] for p in model["published"]] == [p.value for p in info.published]
    code, out, _ = say("models", "ssd300*")
    assert "ssd300_vgg16" in out
    assert "1512.02325" in out


def test_listed_sizes_are_those_of_the_networks() -> None:
    from boxatlas.create import create_model
    from boxatlas.evaluation.sizes import known_size, size_of

    for name in ("ssdlite320_efficientnet_lite0", "ssdlite320_mobilenet_v3_large"):
        assert known_size(name) == size_of(create_model(name))


@pytest.mark.slow
def test_every_listed_size_is_that_of_the_network() -> None:
    from boxatlas.create import create_model
    from boxatlas.evaluation.sizes import known_size, size_of

    for name in list_models():
        model = create_model(name, num_classes=model_info(name).classes)
        assert known_size(name) == size_of(model), name


def test_published_sizes() -> None:
    """SSD300 has 26.3 M parameters and 31.4 G multiply-adds with 20 classes."""
    from boxatlas.evaluation.sizes import known_size

    size = known_size("ssd300_vgg16")
    assert size is not None
    assert size.parameters == pytest.approx(26.3e6, rel=0.01)
    assert size.multiply_adds == pytest.approx(31.4e9, rel=0.01)


def test_yolo9000s_size_is_that_of_its_tree(say) -> None:
    """Darknet's file holds 48.8 M numbers, 14,400 of them running statistics."""
    code, out, _ = say("models", "yolo9000", "--json")
    (model,) = json.loads(out)["models"]
    assert code == 0
    assert (model["classes"], model["parameters"]) == (9418, 48_807_501 - 14_400)
    code, out, _ = say("models", "yolov2", "--json")
    assert json.loads(out)["models"][0]["classes"] == 20


def test_a_card_holds_ideas_and_settings_with_their_notes(say) -> None:
    code, out, _ = say("explain", "ssdlite320_efficientnet_lite0", "--json")
    card = json.loads(out)
    assert code == 0
    assert card["arxiv"] == "1512.02325"
    ideas = {idea["name"]: idea for idea in card["ideas"]}
    assert ideas["negatives"]["default"] == 3
    assert "section 2.2" in ideas["negatives"]["note"]
    assert ideas["boxes_on_first_map"]["values"] == [4, 6]
    assert "habits" not in card
    card = json.loads(say("explain", "ssdlite320_efficientnet_lite0", "--all", "--json")[1])
    names = [option["name"] for kind in ("ideas", "settings", "habits") for option in card[kind]]
    assert len(names) == len(set(names))
    assert card["habits"]
    assert "modern/ssdlite320_efficientnet_lite0" in card["recipes"]
    assert card["parameters"] > 1e6
    code, text, _ = say("explain", "ssdlite320_efficientnet_lite0")
    assert "Ideas" in text
    assert "Habits" not in text
    assert "Habits" in say("explain", "ssdlite320_efficientnet_lite0", "--all")[1]
    assert "section 2.2" in text
    for wrong, right in (("ssd3000", "ssd300_vgg16"), ("bundle", "bundled")):
        code, _, err = say("explain", wrong)
        assert code == 2
        assert "did you mean" in err
        assert f"'{right}'" in err


def test_bench_of_a_model_and_a_checkpoint(say, checkpoint: Path, made_scenes: Path) -> None:
    code, out, err = say(
        "bench",
        checkpoint,
        "--data",
        made_scenes,
        "--split",
        "val",
        "--seconds",
        0,
        "--batch",
        2,
        "--json",
        "--device",
        "cpu",
    )
    assert code == 0, err
    (one,) = json.loads(out)["benchmarks"]
    assert one["model"] == "ssdlite320_efficientnet_lite0"
    assert one["input"] == [96, 96]
    assert set(one["throughput"]) == {"1", "2"}
    assert one["fps"] == pytest.approx(1000 / one["latency_ms"])
    assert one["score"] is None
    assert one["multiply_adds"] > 1e6
    code, _, err = say("bench", "no*such")
    assert code == 2
    assert "no model matches" in err
