"""The single-shot family beside its authors' programs, through the importers."""

from __future__ import annotations

import pytest

from boxatlas.verify import Case, handlers, run_case

NETWORKS = [
    "fssd300_vgg16_pytorchssd",
    "rfbnet300e_vgg16",
    "refinedet320_vgg16_caffe",
    "dsod300_caffe",
    "dsod300_uoip",
    "dssd321_resnet101_caffe",
    "m2det320_vgg16_sfam_qijiezhao",
]
LOSSES = ["op_refinedet_multibox_caffe", "op_refinedet_loss_luuuyi"]


def status(case: Case) -> str:
    return run_case(case, handlers()[case.case]).status


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_agrees_with_the_original(name, parity_dir):
    case = Case(parity_dir / f"{name}.json")
    result = run_case(case, handlers()[case.case])
    assert result.status == "pass", result.reason
    assert len(result.outcomes) == len(case.outputs)


@pytest.mark.slow
def test_the_head_norms_epsilon_counts(parity_dir):
    """DSOD's predictors normalise with another epsilon than its backbone: it is not lost."""
    case = Case(parity_dir / "dsod300_caffe.json")
    (heads, _), rest = case.run["params"]["batchnorm_eps"]
    case.run["params"]["batchnorm_eps"] = [
        [heads, 0.1],
        rest,
    ]  # large beside the vector's tolerance
    assert status(case) == "fail"


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_agrees_with_the_original(name, parity_dir):
    case = Case(parity_dir / f"{name}.json")
    result = run_case(case, handlers()[case.case])
    assert result.status == "pass", result.reason
    assert len(result.outcomes) == len(case.outputs)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        (LOSSES[0], {"filter_negatives": False}),
        (LOSSES[0], {"filter_positives": True}),
        (LOSSES[0], {"objectness": 0.2}),
        (LOSSES[0], {"match": "argmax_per_gt_then_threshold"}),
        (LOSSES[1], {"filter_negatives": True}),
        (LOSSES[1], {"encode_log_epsilon": 0.1}),
    ],
)
def test_the_parameters_are_read_from_the_case(name, change, parity_dir):
    case = Case(parity_dir / f"{name}.json")
    case.run["params"].update(change)
    assert status(case) == "fail"


def test_a_switch_that_is_not_known_is_refused(parity_dir):
    case = Case(parity_dir / "rfbnet300e_vgg16.json")
    case.run["switches"]["colour"] = "green"
    assert status(case) == "unsupported"
