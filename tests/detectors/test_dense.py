"""The head that one-stage detectors share: where its rows of a class are."""

from __future__ import annotations

import pytest
import torch

from boxatlas.parts.dense import DenseHead, Predictor


@pytest.mark.parametrize("background", [True, False])
def test_rows_of_a_class_are_those_that_its_logit_reads(background: bool) -> None:
    classes, first = 5, int(background)
    head = DenseHead([8, 8], [2, 3], classes + first, Predictor, background=background)
    state = head.state_dict()
    for name, rows in head.class_rows(prefix="").items():
        blocks = state[name].view(rows.groups, rows.offset + classes, rows.width, -1)
        blocks.zero_()
        if name.endswith("bias"):
            blocks[:, rows.offset :, 0, 0] = torch.arange(1.0, classes + 1)
    logits, _ = head([torch.randn(1, 8, 2, 2), torch.randn(1, 8, 1, 1)])
    assert logits.shape == (1, 2 * 2 * 2 + 3, classes + first)
    assert (logits[..., first:] == torch.arange(1.0, classes + 1)).all()
