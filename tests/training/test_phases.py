"""Training in stages: what learns in each, what it starts from, what is made for it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from test_resume import same, stop_after
from tiny import RECIPE, Tiny, job, stored

from boxatlas.errors import InputError
from boxatlas.parts.base import Phase
from boxatlas.training import phases
from boxatlas.training.checkpoint import STATE
from boxatlas.training.loop import run

# As Faster R-CNN's alternating training: the second starts anew and is given the first's
# proposals, the third learns one part of the second; then a fit, as R-CNN's SVMs.
STAGES = [
    Phase("proposals", learn=("stem", "body", "box"), losses=("loc",)),
    Phase("heads", losses=("cls",), learn=("stem", "body", "head"), proposals_from="proposals"),
    Phase("shared", learn=("box",), losses=("loc",), init_from="heads"),
]
SHORT = RECIPE.changed({"iterations": 6, "eval_every": 3, "save_every": 1, "log_every": 1})


@pytest.fixture(autouse=True)
def _tiny_proposals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(phases, "stored", stored)


def staged() -> Tiny:
    torch.manual_seed(0)
    model = Tiny()
    model.stages = [*STAGES, Phase("svm", fit=model.fit_mean, init_from="shared")]
    return model


def test_each_stage_learns_its_part_from_its_start(tmp_path: Path) -> None:
    one = job(
        tmp_path, SHORT.changed({"phases": {"shared": {"iterations": 4, "lr": 0.01}}}), staged()
    )
    position = run(one)
    assert (position.phase, position.trained) == (4, 6 + 6 + 4)
    start, first, heads, shared, svm = (
        load_file(tmp_path / "phases" / f"{n}.safetensors")
        for n in ("start", "proposals", "heads", "shared", "svm")
    )

    def moved(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> set[str]:
        names = {n for n in a if not torch.equal(a[n], b[n]) and n != "images_seen"}
        return {n.split(".")[0] for n in names}

    assert moved(start, first) == {"stem", "body", "box"}
    assert moved(start, heads) == {"stem", "body", "head"}  # it began anew
    assert moved(heads, shared) == {"box"}  # the frozen norm's statistics stay too
    assert moved(shared, svm) == {"fitted"}
    assert svm["fitted"][0] == 6 * 4  # every image once
    given = one.made[1].proposals  # type: ignore[attr-defined]
    assert given["from"] == pytest.approx(float(first["head.bias"].sum()), rel=1e-4)
    assert [m.learning for m in one.made] == [True, True, True, False]  # type: ignore[attr-defined]


@pytest.mark.parametrize("at", [0, 3, 6, 8, 12, 14])
def test_a_stop_in_or_between_stages_changes_nothing(tmp_path: Path, at: int) -> None:
    run(job(tmp_path / "whole", SHORT, staged()))
    first = job(tmp_path / "stopped", SHORT, staged())
    stop_after(first, at)
    with pytest.raises(KeyboardInterrupt):
        run(first)
    run(job(tmp_path / "stopped", SHORT, staged()))
    for file in (STATE, "best.safetensors", "last.safetensors"):
        same(tmp_path / "whole" / file, tmp_path / "stopped" / file)


def test_a_stage_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no such phase.*did you mean 'heads'"):
        run(job(tmp_path, SHORT.changed({"phases": {"head": {"lr": 1.0}}}), staged()))
