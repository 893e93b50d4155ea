"""Every vector of the operators that boxes/ and losses/ stand for; a wrong number must not pass."""

from __future__ import annotations

import pytest

from boxatlas.verify import Case, handlers, run_case

CASES = [
    "op_anchors", "op_box_coder", "op_cascade_targets", "op_detections", "op_fpn_levels", "op_nms",
    "op_proposals", "op_roi_targets", "op_rpn_targets", "op_smooth_l1",
    "op_ssd_box_coder_matching", "op_ssd_detection_output_caffe", "op_ssd_matching_caffe",
    "op_ssd_multibox_caffe", "op_ssd_multibox_loss", "focal_loss",
]  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_agrees_with_the_original(name, parity_dir):
    case = Case(parity_dir / f"{name}.json")
    result = run_case(case, handlers()[case.case])
    assert result.status == "pass", result.reason
    assert len(result.outcomes) == len(case.outputs)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("op_ssd_matching_caffe", lambda p: p.update(match="argmax_per_gt_then_threshold")),
        ("op_ssd_multibox_caffe", lambda p: p.update(neg_pos_ratio=2)),
        ("op_ssd_multibox_caffe", lambda p: p["boxes"]["levels"][2].update(step=33)),
        ("op_ssd_detection_output_caffe", lambda p: p.update(nms_top_k=300)),
    ],
)
def test_the_parameters_are_read_from_the_case(name, change, parity_dir):
    """With another parameter the numbers no longer agree: none is a constant of the handler."""
    case = Case(parity_dir / f"{name}.json")
    change(case.run["params"])
    assert run_case(case, handlers()[case.case]).status == "fail"


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("op_nms", {"iou_threshold": 0.2}),
        ("op_box_coder", {"width_offset": 0.0, "clip": 1.0, "end_offset": 0.5}),
        ("op_anchors", {"ratios": [0.4, 1.0, 2.0]}),
        ("op_proposals", {"nms_iou": 0.6}),
        ("op_detections", {"score_threshold": 0.2, "max_detections": 30}),
        ("op_rpn_targets", {"positive_iou": 0.5}),
        ("op_roi_targets", {"fg_iou": 0.6}),
        ("op_cascade_targets", {"iou_threshold": 0.65}),
    ],
)
def test_the_parameters_of_a_call_are_read_too(name, change, parity_dir):
    case = Case(parity_dir / f"{name}.json")
    for call in case.run["calls"]:
        call["params"].update(change)
    assert run_case(case, handlers()[case.case]).status == "fail"
