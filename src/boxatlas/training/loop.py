"""The training loop: one process or several, one phase after another, stopped and resumed at will.

Read `run` for the order of things, `Descent.step` for one iteration. What an iteration does depends
only on the weights, the optimizer's state and the iteration's number: data order, augmentation and
every random draw are seeded by it. So a run that was killed ends as one that was not.
"""

from __future__ import annotations

import hashlib
import math
import shlex
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from itertools import islice
from typing import Any

import torch
from torch.amp.grad_scaler import GradScaler
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grad_norm_

from boxatlas.errors import InputError
from boxatlas.parts.base import Detector, Phase
from boxatlas.progress import console
from boxatlas.structures import Batch
from boxatlas.training import phases as staging
from boxatlas.training.checkpoint import (
    STATE,
    STEADY,
    Position,
    load_state,
    read_header,
    save_state,
)
from boxatlas.training.detectors import save_detector, save_latest, scalars
from boxatlas.training.distributed import any_of
from boxatlas.training.ema import Ema
from boxatlas.training.guard import (
    WITHOUT_WORKERS,
    FiniteLoss,
    Patience,
    Stop,
    check_shared_memory,
    of_workers,
)
from boxatlas.training.log import Log, Meter, memory_mb
from boxatlas.training.optim import (
    decay_start,
    divided,
    make_optimizer,
    schedule,
    set_rate,
    steps_in,
)
from boxatlas.training.phases import Job
from boxatlas.training.recipe import Recipe

_PATIENCE = 600  # seconds that a batch may take to come
_AGREE_EVERY = 10  # iterations after which several processes tell one another of Ctrl-C


def run(job: Job) -> Position:
    """Train through every phase from where the run folder stands. Returns the last position.

    Raises InputError where the loss is not finite or a checkpoint cannot be written, and
    KeyboardInterrupt, after saving, on Ctrl-C.
    """
    stages = job.model.phases()
    staging.check(stages, job.recipe)
    header = read_header(job.folder)
    position: Position = header["position"] if header else Position()
    log = Log(job.folder, job.world.first)
    if header and header["threads"] != torch.get_num_threads():
        log.say(
            f"{header['threads']} threads before, {torch.get_num_threads()} now: "
            "the numbers will differ in their last bits"
        )
    log.open(position.phase, position.step)
    try:
        with Stop().listening() as stop:
            for index in range(position.phase, len(stages)):
                position = run_phase(job, stages, index, position, log, stop)
    finally:
        log.close()
    if job.world.first and header and position.phase == header["position"].phase == len(stages):
        _load_product(job, len(stages))  # it had ended before
        again = f"boxatlas train --resume --out {shlex.quote(str(job.folder))} --set epochs=MORE"
        console().print(f"this run is finished; a longer one: {again}", markup=False)
    return position


def _load_product(job: Job, stages: int) -> None:
    """The detector that a run which had ended made, into the job's model."""
    averaged = stages == 1 and job.recipe.ema
    ema = Ema(job.model, job.recipe.ema) if averaged and job.recipe.ema else None
    load_state(job.folder, job.model, ema=ema)
    if ema is not None:
        job.model.load_state_dict(ema.model.state_dict())


def run_phase(
    job: Job, stages: Sequence[Phase], index: int, position: Position, log: Log, stop: Stop
) -> Position:
    """One phase, from its start or from the saved state; returns the start of the next."""
    phase = stages[index]
    recipe = job.recipe.for_phase(phase.name)
    resumed, descent = position.step > 0, None
    if not resumed:
        staging.begin(job, stages, index)
    if len(stages) > 1:
        log.say(f"phase {index + 1} of {len(stages)}: {phase.name}")
    if phase.fit is not None:
        stop.at_once = True  # the method keeps its own work, and resumes it
        try:
            if stop.asked:
                raise KeyboardInterrupt
            staging.fit(job, phase, recipe)
            product = job.model
            position.metrics = job.evaluate(product) if job.evaluate else {}
        finally:
            stop.at_once = False
        score = scalars(position.metrics).get("mAP")
        judged = "" if score is None else f", {recipe.metric} mAP {score:.4f}"
        log.say(f"{phase.name}: fitted{judged}")
    else:
        descent = Descent(job, phase, recipe, position, log, stop)
        if resumed:
            descent.load()
            log.say(f"going on from iteration {position.step} of {descent.total}")
        try:
            descent.run()
        except KeyboardInterrupt:
            log.end()
            log.say(
                f"stopped at iteration {position.step} of {descent.total}; go on with: "
                f"boxatlas train --resume --out {shlex.quote(str(job.folder))}"
            )
            raise
        product = descent.product
    staging.finish(job, stages, index, product)
    over = index + 1 == len(stages)
    best = position.best if over else None
    after = replace(position, phase=index + 1, step=0, evaluated=0, best=best, stale=0)
    if job.world.first:
        save_detector(job, product, "last.safetensors", position)
        if over and position.best is None:  # never evaluated: the last is best
            save_detector(job, product, "best.safetensors", position)
        if descent is not None and len(stages) == 1:  # all of it, so that it can be lengthened
            descent.keep(after, ended=asdict(position))
        else:
            save_state(job.folder, after, product, **_about(job))
    return after


class Descent:
    """Gradient descent through one phase."""

    def __init__(
        self, job: Job, phase: Phase, recipe: Recipe, position: Position, log: Log, stop: Stop
    ) -> None:
        self.job, self.recipe, self.position, self.log, self.stop = job, recipe, position, log, stop
        self.model = job.model.to(job.device)
        if job.device.type in ("cpu", "cuda"):
            self.model = self.model.to(memory_format=torch.channels_last)
        self.kept_norms = staging.learn_only(self.model, phase, recipe)
        size, self.parts = divided(recipe, job.world.size)
        self.loader = job.loader(recipe, size, staging.proposals(job, phase))
        self.epoch_steps = math.ceil(len(self.loader) / self.parts)
        if position.step and position.epoch_steps != self.epoch_steps:
            raise InputError(
                f"{self.epoch_steps} iterations an epoch, {position.epoch_steps} before",
                file=job.folder,
                hint="resume with the same data and processes",
            )
        position.epoch_steps = self.epoch_steps
        self.total = max(steps_in(recipe.length, recipe, self.epoch_steps), 1)
        self.eval_steps = max(steps_in(recipe.eval_every, recipe, self.epoch_steps), 1)
        self.rate = schedule(recipe, self.epoch_steps)
        falls = recipe.schedule == "constant_decay"
        self.steady = decay_start(recipe, self.epoch_steps) if falls else None
        self.optimizer = make_optimizer(self.model, recipe)
        self.ema = Ema(self.model, recipe.ema) if recipe.ema else None
        self.precision = precision(recipe, job.device)
        self.scaler = GradScaler(job.device.type, enabled=self.precision is torch.float16)
        self.generator = torch.Generator(job.device)
        self.network = staging.Terms(self.model, phase.losses)
        if job.world.size > 1:
            # Which parameters take part may differ: an image without objects, a loss left out.
            self.network = DistributedDataParallel(self.network, find_unused_parameters=True)
        self.finite = FiniteLoss(job.folder)
        self.meter = Meter()
        height, width = self.model.preprocess.size
        check_shared_memory(self.loader.workers, size * 3 * height * width * 4)
        self._saved = self._began = time.monotonic()
        self._seconds = position.seconds

    @property
    def product(self) -> Detector:
        """The detector to evaluate and keep: the averaged one where there is an average."""
        return self.ema.model if self.ema else self.model

    @property
    def stale(self) -> bool:
        """Whether the recipe's patience is over."""
        patience = self.recipe.patience
        return patience is not None and self.position.stale >= patience

    def load(self) -> None:
        load_state(self.job.folder, self.model, self.optimizer, self.ema, self.scaler)

    def run(self) -> None:
        """Iterate to the end: each iteration, then what is due after it."""
        position = self.position
        self.log.start(self.job.recipe.model, self.total, position.step)
        self._mode()
        if position.step:
            self._after(resumed=True)  # an evaluation may have been cut off
        while position.step < self.total and not self.stale:
            epoch, done = divmod(position.step, self.epoch_steps)
            batches = iter(self.loader.epoch(epoch, start=done * self.parts))
            while group := self._group(batches):
                self.step(group)
                self._after()
                if position.step >= self.total or self.stale:
                    break
        position.seconds = self._elapsed()
        self.log.end()

    def _group(self, batches: Iterator[Batch]) -> list[Batch]:
        """The batches of one step; the state is saved before the error of one that fails."""
        alone = self.job.world.size == 1
        self.stop.at_once = alone  # the weights stand still; several processes stop together
        patience = Patience(_PATIENCE) if alone and self.loader.workers else None
        try:
            with patience or nullcontext():
                return list(islice(batches, self.parts))
        except (InputError, KeyboardInterrupt):
            self._keep()
            if patience is not None and patience.over:
                raise InputError(
                    f"no batch came in {_PATIENCE} s",
                    field="workers",
                    value=self.loader.workers,
                    hint=WITHOUT_WORKERS,
                ) from None
            raise
        except (RuntimeError, OSError) as error:
            known = of_workers(error)
            if known is None:
                raise
            self._keep()
            raise known from None
        finally:
            self.stop.at_once = False

    def _keep(self) -> None:
        if self.position.step:
            self.save()

    def step(self, group: Sequence[Batch]) -> None:
        """One iteration: the gradient of a whole batch, in parts, and one step of the optimizer."""
        set_rate(self.optimizer, self.rate(self.position.step))
        for part, batch in enumerate(group):
            self._seed(part)
            last = part + 1 == len(group)
            ddp = self.network if isinstance(self.network, DistributedDataParallel) else None
            with nullcontext() if last or ddp is None else ddp.no_sync():
                losses = self._losses(batch)
                self.finite.watch(losses, batch, self.position.step)
                total = torch.stack(list(losses.values())).sum() / len(group)
                self.scaler.scale(total).backward()
            self.meter.add(losses, 1 / len(group))
            self.model.images_seen += len(batch) * self.job.world.size
        if self.recipe.clip is not None:
            self.scaler.unscale_(self.optimizer)
            clip_grad_norm_(self.model.parameters(), self.recipe.clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        if self.ema:
            self.ema.update()
        self.position.step += 1
        self.position.trained += 1
        self.meter.step(sum(len(b) for b in group) * self.job.world.size)

    def _losses(self, batch: Batch) -> dict[str, torch.Tensor]:
        try:
            with self._autocast():
                return self.network(self._moved(batch), self.generator)
        except ValueError as error:
            if len(batch) > 1 or "more than 1 value per channel" not in str(error):
                raise
            field = "micro_batch" if self.recipe.batch > 1 and self.parts > 1 else "batch"
            raise InputError(
                "one image is too few for the batch norm of a map of one cell",
                field=field,
                value=1,
                hint="train on two or more at once, or use a larger input",
            ) from None

    def _after(self, resumed: bool = False) -> None:
        """What is due between two iterations: a row of the log, evaluation, a checkpoint."""
        step, recipe = self.position.step, self.recipe
        self.log.moved(step)
        if not resumed and (step % recipe.log_every == 0 or step == self.total):
            reading = self.meter.read() | {"lr": self.rate(step - 1)}
            self.position.losses = {k: v for k, v in reading.items() if k in self.meter.names}
            self._row(reading)
        if step == self.steady:
            self.save(STEADY)
        due = step % self.eval_steps == 0 or step == self.total
        if due and self.job.evaluate is not None and self.position.evaluated < step:
            self.evaluate()
            self.save()
        elif not resumed and (
            (recipe.save_every and step % recipe.save_every == 0)
            or time.monotonic() - self._saved > recipe.save_minutes * 60
        ):
            self.save()
        if (self.job.world.size == 1 or step % _AGREE_EVERY == 0) and any_of(
            self.stop.asked, self.job.world, self.job.device
        ):
            self.save()
            raise KeyboardInterrupt

    def evaluate(self) -> None:
        """Measure the product, keep it if it is the best so far."""
        assert self.job.evaluate is not None
        self.finite.drain()
        self.stop.at_once = True  # the weights stand still
        try:
            if self.stop.asked:
                raise KeyboardInterrupt
            with self.log.aside():
                metrics = self.job.evaluate(self.product)
        except (KeyboardInterrupt, InputError):
            self.save()
            raise
        except (RuntimeError, OSError) as error:
            known = of_workers(error)
            if known is None:
                raise
            self.save()
            raise known from None
        finally:
            self.stop.at_once = False
        self._mode()
        self.position.evaluated = self.position.step
        if self.job.world.first:
            self._judge(metrics)
        self.meter.restart()

    def save(self, name: str = STATE) -> None:
        """Write the state to resume from, and the last detector."""
        self.finite.drain()
        if self.job.world.first:
            self.position.seconds = self._elapsed()
            self.keep(self.position, name=name)
            save_detector(self.job, self.product, "last.safetensors", self.position)
        self._saved = time.monotonic()

    def keep(self, position: Position, *, name: str = STATE, ended: Any = None) -> None:
        """Write all that training goes on from. ended: the position of a run that is over."""
        save_state(
            self.job.folder,
            position,
            self.model,
            self.optimizer,
            self.ema,
            self.scaler,
            name=name,
            ended=ended,
            **_about(self.job),
        )

    def _judge(self, metrics: dict[str, Any]) -> None:
        numbers = scalars(metrics)
        score = numbers.get("mAP")
        best = self.position.best
        self.position.metrics = metrics
        self._row(numbers)
        # The latest of equals; and where there is no AP, which judges nothing, the latest.
        better = best is None if score is None else best is None or score >= best
        if score is not None:
            self.position.stale = 0 if best is None or score > best else self.position.stale + 1
        if self.recipe.keep:
            save_latest(self.job, self.product, self.position, self.recipe.keep)
        if better:
            self.position.best = score
            save_detector(self.job, self.product, "best.safetensors", self.position)
        epoch = self.position.step / self.epoch_steps
        judged = "no AP: nothing to judge by" if score is None else f"mAP {score:.4f}"
        place = f"epoch {epoch:g}, iteration {self.position.step}"
        self.log.say(f"{place}: {self.recipe.metric} {judged}{' (best so far)' if better else ''}")
        if self.stale and self.position.step < self.total:
            self.log.say(f"no better score in {self.position.stale} evaluations: training ends")

    def _row(self, values: dict[str, Any]) -> None:
        step, seconds = self.position.step, self._elapsed()
        self.log.row(
            {
                "phase": self.position.phase,
                "iteration": step,
                "epoch": step / self.epoch_steps,
                "seconds": seconds,
                "memory_mb": memory_mb(self.job.device),
                **values,
            }
        )

    def _elapsed(self) -> float:
        return self._seconds + time.monotonic() - self._began

    def _mode(self) -> None:
        """Training mode, but for the norms that are kept as they are."""
        self.model.train()
        for norm in self.kept_norms:
            norm.eval()

    def _seed(self, part: int) -> None:
        """Seed every draw of this part of this iteration, dropout's as the loss's."""
        place = self.position
        here = (self.recipe.seed, place.phase, place.step, part, self.job.world.rank)
        seed = int.from_bytes(hashlib.blake2b(repr(here).encode(), digest_size=7).digest(), "big")
        torch.manual_seed(seed)
        self.generator.manual_seed(seed)

    def _moved(self, batch: Batch) -> Batch:
        batch = batch.to(self.job.device)
        batch.images = batch.images.contiguous(memory_format=torch.channels_last)
        return batch

    def _autocast(self) -> Any:
        if self.precision is None:
            return nullcontext()
        return torch.autocast(self.job.device.type, self.precision)


def precision(recipe: Recipe, device: torch.device) -> torch.dtype | None:
    """The type of autocast, or None for float32 throughout."""
    if recipe.precision == "auto":
        good = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if good else None
    if recipe.precision == "fp16" and device.type != "cuda":
        raise InputError("fp16 needs a GPU", field="precision", hint="use bf16, fp32 or auto")
    return {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[recipe.precision]


def _about(job: Job) -> dict[str, Any]:
    return {
        "recipe": job.recipe.model_dump(mode="json"),
        "threads": torch.get_num_threads(),
        "processes": job.world.size,
        "classes": list(job.model.classes),
    }
