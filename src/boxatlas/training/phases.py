"""The stages of a method's training: what is trained in one, and what it starts from.

A method lists its phases as data (`Detector.phases`). The weights at each phase's end are kept in
the run folder, so that a later one may start from them or take their proposals; a killed run
resumes within a phase.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from boxatlas.errors import InputError, nearest
from boxatlas.files import make_folder, write_tensors
from boxatlas.parts.base import Detector, Phase
from boxatlas.progress import track
from boxatlas.proposing import stored
from boxatlas.structures import Batch
from boxatlas.training.distributed import World, wait
from boxatlas.training.optim import NORMS, check_patterns, matches
from boxatlas.training.recipe import Recipe

_START = "start"  # the weights as training began


class EpochBatches(Protocol):
    """Batches of an epoch, the same in every run; `start` skips that many unread.
    workers: processes that read for it."""

    workers: int

    def __len__(self) -> int: ...
    def epoch(self, epoch: int, start: int = 0) -> Iterable[Batch]: ...


class MakeLoader(Protocol):
    """Batches of the training images; not `training`: in order and not augmented (for `fit`).

    phase_proposals: those of an earlier phase, in place of the recipe's.
    """

    def __call__(
        self, recipe: Recipe, batch_size: int, phase_proposals: Any = None, training: bool = True
    ) -> EpochBatches: ...


@dataclass
class Job:
    """One training, ready to run: everything that the loop needs.

    table: the training images; evaluate: detector -> metrics with "mAP", or None; about: what is
    recorded in each checkpoint beside the recipe.
    """

    recipe: Recipe
    model: Detector
    folder: Path
    loader: MakeLoader
    evaluate: Callable[[Detector], dict[str, Any]] | None = None
    table: Any = None
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    world: World = field(default_factory=World)
    about: dict[str, Any] = field(default_factory=dict)


def check(phases: Sequence[Phase], recipe: Recipe) -> None:
    """Raise InputError where the recipe names a phase that the method does not have."""
    names = [phase.name for phase in phases]
    for name in recipe.phases:
        if name not in names:
            raise InputError(
                "the method has no such phase",
                field="phases",
                value=name,
                hint=nearest(name, names),
            )
        recipe.for_phase(name)


def learn_only(model: nn.Module, phase: Phase, recipe: Recipe) -> list[nn.Module]:
    """Train exactly the phase's parameters; return the norms that stay in eval mode.

    A norm stays as it is where `freeze_norms` names it or where none of its values is trained.
    """
    names = [name for name, _ in model.named_parameters()]
    norms = {name: m for name, m in model.named_modules() if isinstance(m, NORMS)}
    check_patterns("learn", phase.learn, names)
    check_patterns("freeze", recipe.freeze, names)
    check_patterns("freeze_norms", recipe.freeze_norms, list(norms) or names)

    def trained(name: str) -> bool:
        return matches(name, phase.learn) and not matches(name, recipe.freeze)

    for name, parameter in model.named_parameters():
        parameter.requires_grad_(trained(name))
    kept = []
    for name, module in norms.items():
        values = list(module.parameters(recurse=False))
        frozen = not any(p.requires_grad for p in values) if values else not trained(name)
        if frozen or matches(name, recipe.freeze_norms):
            module.requires_grad_(False)
            kept.append(module)
    return kept


class Terms(nn.Module):
    """The detector's loss as a forward, for DDP: the terms of a phase."""

    def __init__(self, detector: Detector, terms: tuple[str, ...] | None) -> None:
        super().__init__()
        self.detector, self.terms = detector, terms

    def forward(self, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        if self.terms is None:
            return self.detector.loss(batch, generator)
        losses = self.detector.loss_terms(batch, self.terms, generator)
        return {name: losses[name] for name in self.terms}


def begin(job: Job, phases: Sequence[Phase], index: int) -> None:
    """Load what a phase starts from: the first weights, or those at an earlier phase's end."""
    if len(phases) == 1:
        return
    first = _file(job, _START)
    if index == 0 and job.world.first:
        write_tensors(first, job.model.state_dict())
    wait(job.world)
    source = phases[index].init_from
    job.model.load_state_dict(load_file(_file(job, source) if source else first))


def finish(job: Job, phases: Sequence[Phase], index: int, model: Detector) -> None:
    """Keep the weights at the end of a phase for later ones."""
    if len(phases) > 1 and job.world.first:
        write_tensors(_file(job, phases[index].name), model.state_dict())
    wait(job.world)


def proposals(job: Job, phase: Phase) -> Any:
    """The proposals that an earlier phase's detector makes for the training images, or None.

    They are kept in the phase's folder, and found there again after a stop.
    """
    if phase.proposals_from is None:
        return None
    maker = copy.deepcopy(job.model)
    maker.load_state_dict(load_file(_file(job, phase.proposals_from)))
    folder = _folder(job, f"{phase.proposals_from}_proposals")
    made = None
    if job.world.first:  # the others find the work done
        made = stored(maker, job.table.paths, folder, track)
    wait(job.world)
    return made if job.world.first else stored(maker, job.table.paths, folder, track)


def fit(job: Job, phase: Phase, recipe: Recipe) -> None:
    """A phase without gradient descent: `phase.fit(loader, folder, track)`.

    The loader's epoch 0 is every training image in order; the folder holds the method's cache,
    which a resumed run uses. The fit changes the model's own tensors.
    """
    assert phase.fit is not None
    loader = job.loader(recipe, recipe.micro_batch or recipe.batch, proposals(job, phase), False)
    job.model.eval()
    if job.world.first:
        with torch.no_grad():
            phase.fit(loader, _folder(job, f"{phase.name}_cache"), track)
    wait(job.world)


def _folder(job: Job, name: str) -> Path:
    return make_folder(job.folder / "phases" / name)


def _file(job: Job, name: str | None) -> Path:
    return job.folder / "phases" / f"{name}.safetensors"
