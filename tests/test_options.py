"""Typed options and the one-line errors that explain them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self

import pytest
from pydantic import BaseModel, model_validator

from boxatlas.errors import InputError, nearest
from boxatlas.options import Fraction, Options, Positive, habit, idea, setting, validated


class Inner(Options):
    deep: int = 1
    low: float = 0.0
    high: float = 1.0

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        if self.low > self.high:
            raise ValueError("low is at most high")
        return self


class Sample(Options):
    roi_op: Literal["pool", "align"] = idea("pool", "table 3: how a RoI is read")
    weight: float = idea(1.0, "equation 2", ge=0)
    eps: float = habit(1e-5, "of the norms")
    inner: Inner = Inner()


def test_switches_are_told_from_conventions() -> None:
    assert Sample.kinds("idea") == {"roi_op": "table 3: how a RoI is read", "weight": "equation 2"}


def test_values_are_frozen_and_typed() -> None:
    made = Sample.of(roi_op="align", weight=2)
    assert made.weight == 2.0
    with pytest.raises(InputError, match=r"^weight: is read-only \(got 3\.0\); create_model"):
        made.weight = 3.0  # type: ignore[misc]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"roi_opp": "align"}, "roi_opp: no such option; did you mean 'roi_op'?"),
        ({"inner": {"dep": 2}}, "inner.dep: no such option; did you mean 'deep'?"),
        ({"weight": -1}, "weight: input should be greater than or equal to 0 (got -1)"),
        ({"roi_op": "warp"}, "roi_op: input should be 'pool' or 'align' (got 'warp')"),
        ({"eps": "small"}, "eps: input should be a valid number"),
        ({"eps": math.inf}, "eps: input should be a finite number (got inf)"),
        ({"inner": {"low": math.nan}}, "inner.low: input should be a finite number (got nan)"),
    ],
)
def test_a_wrong_value_is_one_line(values: dict[str, object], message: str) -> None:
    with pytest.raises(InputError) as caught:
        Sample.of(**values)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_fields_that_disagree_are_named_by_the_text_alone() -> None:
    with pytest.raises(InputError) as caught:
        validated(Inner, {"low": 2}, file="mine.yaml")
    assert str(caught.value) == "mine.yaml: low is at most high"


def test_the_file_is_named() -> None:
    class Other(BaseModel):
        a: int

    with pytest.raises(InputError, match=r"^mine\.yaml: a: input should be a valid integer"):
        validated(Other, {"a": "x"}, file="mine.yaml")


def test_the_nearest_name_or_a_few() -> None:
    assert nearest("epoch", ["epochs", "batch"]) == "did you mean 'epochs'?"
    assert nearest("zzz", ["a", "b"]) == "choose from: a, b"
    assert nearest("zzz", []) == "there are none to choose from"
    assert nearest("SSD", ["dsod300", "ssd300_vgg16"]) == "did you mean 'ssd300_vgg16'?"


def test_an_error_is_always_one_line() -> None:
    error = InputError("is\nwrong", file="a.txt", field="x", value="y" * 200, hint="do this")
    assert "\n" not in str(error)
    assert str(error).startswith("a.txt: x: is wrong (got 'yyy")
    assert str(error).endswith("...); do this")


@pytest.mark.parametrize("values", [{"weight": True}, {"eps": False}])
def test_a_truth_value_is_no_number(values: dict[str, object]) -> None:
    with pytest.raises(InputError, match=r"is a number, not true or false"):
        Sample.of(values)


class Group(Options):
    gone: ClassVar[Mapping[str, Any]] = {"old": 1}

    score: Fraction = setting(0.5, "least score")
    sizes: tuple[Positive, ...] = setting((1.0, 2.0), "sides in pixels")


class Paper(Group):
    score = 0.25  # section 1
    sizes = idea((3.0,), "table 2: sides in pixels")


def test_a_paper_s_value_keeps_type_bounds_and_kind() -> None:
    """A line without a type gives the value alone; by `idea` its kind and note too."""
    assert (Paper.of().score, Paper.of().sizes, Group.of().score) == (0.25, (3.0,), 0.5)
    assert Paper.kinds("setting") == {"score": "least score"}
    assert Paper.kinds("idea") == {"sizes": "table 2: sides in pixels"}
    for wrong in ({"score": 2}, {"score": -1}, {"sizes": (1, -1)}, {"sizes": (math.nan,)}):
        with pytest.raises(InputError, match=r"^(score|sizes)"):
            Paper.of(wrong)
    with pytest.raises(ValueError, match="less than or equal to 1"):

        class Wrong(Group):
            score = 2.0


def test_an_option_that_is_gone_is_passed_over_at_what_is_done_now() -> None:
    assert Paper.of({"old": 1}) == Paper.of()
    with pytest.raises(InputError, match=r"^old: this option is gone; 1 is what is done"):
        Paper.of({"old": 2})
