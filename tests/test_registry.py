"""Models by name: what can be asked of them, and what every one of them must do."""

from __future__ import annotations

import pytest

import boxatlas
from boxatlas import registry
from boxatlas.errors import InputError
from boxatlas.options import Options


def test_names_follow_the_pattern() -> None:
    assert "ssd300_vgg16" in boxatlas.list_models()
    assert boxatlas.list_models("ssd*") == sorted(boxatlas.list_models("ssd*"))
    assert all(name.startswith("ssdlite") for name in boxatlas.list_models("ssdlite*"))
    assert boxatlas.list_models("nothing*") == []


def test_every_model_says_where_it_comes_from() -> None:
    for name in boxatlas.list_models():
        info = boxatlas.model_info(name)
        assert info.name == name
        assert info.family in ("one-stage", "two-stage"), name
        assert 2013 <= info.year <= 2019, name
        assert info.title, name
        assert info.summary.endswith("."), name
        assert info.arxiv[:2].isdigit(), name


def test_a_misspelt_model_names_the_nearest() -> None:
    with pytest.raises(InputError, match="did you mean 'ssd300_vgg16'"):
        boxatlas.create_model("ssd300_vgg")
    with pytest.raises(InputError, match="did you mean 'negatives'"):
        boxatlas.create_model("ssdlite320_efficientnet_lite0", negative=2)
    with pytest.raises(InputError, match="greater than or equal to 0"):
        boxatlas.create_model("ssdlite320_efficientnet_lite0", negatives=-1)


def test_classes_are_named_or_counted() -> None:
    def classes(**values: object) -> tuple[str, ...]:
        return boxatlas.create_model("ssdlite320_efficientnet_lite0", size=96, **values).classes  # type: ignore[arg-type]

    assert classes(classes=["cat", "dog"]) == ("cat", "dog")
    assert classes(num_classes=3) == ("class0", "class1", "class2")
    assert classes() == registry.VOC_CLASSES
    with pytest.raises(InputError, match="2 class names but num_classes=3"):
        classes(classes=["cat", "dog"], num_classes=3)
    with pytest.raises(InputError, match=r"classes: must be names, at least one \(got 'cat'\)"):
        classes(classes="cat")
    with pytest.raises(InputError, match=r"classes: 2 classes have this name \(got 'a'\)"):
        classes(classes=["a", "b", "a"])
    with pytest.raises(InputError, match="needs a class"):
        classes(num_classes=0)


@pytest.mark.parametrize("size", [0, -5, (64, 0)])
def test_a_size_that_no_image_has_is_refused(size: object) -> None:
    for name in (
        "ssdlite320_efficientnet_lite0",
        "retinanet320_efficientnet_lite0_fpn",
        "yolov2_efficientnet_lite0",
    ):
        with pytest.raises(InputError, match=r"^size\b.*: .*\(got "):
            boxatlas.create_model(name, size=size)


def test_an_input_may_be_so_small_that_its_last_map_is_one_cell() -> None:
    small = boxatlas.create_model("ssdlite320_efficientnet_lite0", size=32)
    assert small.preprocess.size == (32, 32)


def test_a_name_is_registered_once() -> None:
    with pytest.raises(ValueError, match="two models are called ssd300_vgg16"):

        @registry.Method("", "", "", 2015, "one-stage").model("", "")
        def ssd300_vgg16(classes: object) -> None:
            """Taken."""


def test_a_model_records_how_it_was_made() -> None:
    model = boxatlas.create_model("ssdlite320_efficientnet_lite0", num_classes=1, size=96)
    assert (model.name, model.options) == ("ssdlite320_efficientnet_lite0", {"size": 96})
    assert isinstance(model.config, Options)
