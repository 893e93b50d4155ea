"""A recipe: everything that decides a training, as one flat file with every value visible.

`epochs` or `iterations` says how long; `warmup`, `milestones` and `eval_every` count in that unit.
An iteration is one step of the optimizer on `batch` images, over all processes together.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import yaml
from pydantic import Field, model_validator

from boxatlas.errors import InputError, nearest
from boxatlas.files import check_file
from boxatlas.options import RENAMED, NotNegative, Options, replaced, validated

if TYPE_CHECKING:
    from boxatlas.parts.base import Detector

_PREFIXES = ("train", "data", "eval")  # `--set train.epochs=12` is `--set epochs=12`
_OPTIONS = ("model", "options")  # `--set model.size=512`
_LENGTHS = ("epochs", "iterations")
_SELDOM = 100  # iterations that lie between evaluations, where epochs become iterations
_SUFFIXES = (".yaml", ".yml")


class Recipe(Options):
    """The values of one training. Unknown names are refused with the nearest one named."""

    model: str = Field(description="the model's name")
    options: dict[str, Any] = Field({}, description="ideas, settings and habits of the method")
    init: str = Field(
        "none",
        description="first weights: none, imagenet (backbone), bundled, field, auto (the best "
        "here), field/NAME or a checkpoint",
    )
    preprocess: dict[str, Any] = Field(
        {}, description="of the input, where it differs from the method's; init fills it in"
    )

    data: list[str] = Field([], description="folders, joined; --data takes their place")
    format: str | None = Field(
        None, description="layout of the data: voc, coco, yolo; null = found by looking"
    )
    train_split: str = Field("train", description="the split that is trained on")
    val_split: str = Field(
        "auto", description="validation split: auto (val, or else a tenth of train), none, a name"
    )
    proposals: str | None = Field(
        None, description="a proposal file; null = beside the data, or selective search"
    )
    augment: str = Field("none", description="augmentation: none, flip, ssd, yolo")
    augment_options: dict[str, Any] = Field({}, description="parameters of the augmentation")
    workers: int = Field(-1, ge=-1, description="processes that read images; -1 = by the machine")

    epochs: float | None = Field(None, gt=0, description="length: passes over the images")
    iterations: int | None = Field(None, gt=0, description="length: steps of the optimizer")
    batch: int = Field(16, ge=1, description="images a step, over all processes")
    micro_batch: int | None = Field(None, ge=1, description="most images at once in a process")

    optimizer: Literal["sgd", "adamw"] = Field("sgd", description="sgd or adamw")
    lr: float = Field(0.01, gt=0, description="base learning rate, for the whole batch")
    momentum: float = Field(0.9, ge=0, lt=1, description="momentum of sgd; beta 1 of adamw")
    nesterov: bool = Field(False, description="Nesterov's momentum in sgd")
    beta2: float = Field(0.999, ge=0, lt=1, description="beta 2 of adamw")
    weight_decay: float = Field(0.0, ge=0, description="weight decay of the optimizer")
    bias_lr: float = Field(1.0, ge=0, description="learning rate of biases, as a multiple")
    bias_decay: bool = Field(False, description="weight decay on biases")
    norm_decay: bool = Field(False, description="weight decay on batch, group and layer norms")
    lr_scale: dict[str, NotNegative] = Field({}, description="name pattern: multiple of the rate")
    clip: float | None = Field(None, gt=0, description="largest norm of the gradient; null = any")
    freeze: list[str] = Field([], description="name patterns of layers that are not trained")
    freeze_norms: list[str] = Field([], description="name patterns of norms kept as they are")

    schedule: Literal[
        "constant", "step", "cosine", "polynomial", "poly_whole", "constant_decay"
    ] = Field(
        "cosine",
        description="schedule of the learning rate: constant, step, cosine, polynomial, "
        "poly_whole, constant_decay",
    )
    warmup: float = Field(
        0.0, ge=0, description="length of the warm-up, in epochs or iterations as the training"
    )
    warmup_from: float = Field(
        0.001, ge=0, le=1, description="learning rate as the warm-up starts, as a fraction"
    )
    warmup_power: float = Field(
        1.0, gt=0, description="power of the warm-up: 1: linear; Darknet's burn-in: 4"
    )
    milestones: list[NotNegative] = Field(
        [], description="of schedule step: epochs or iterations where the rate falls"
    )
    gamma: float | list[float] = Field(
        0.1,
        description="of schedule step: fraction that the rate falls to, or one for each milestone",
    )
    power: float = Field(0.9, gt=0, description="power of schedule polynomial")
    decay: float = Field(
        0.2, gt=0, le=1, description="of schedule constant_decay: the part in which the rate falls"
    )
    final_lr: float = Field(
        0.0,
        ge=0,
        le=1,
        description="of schedules cosine, polynomial, constant_decay: the last rate, as a fraction",
    )

    ema: float | None = Field(None, gt=0, lt=1, description="decay of averaged weights; null = no")
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "fp32",
        description="number format of the network; auto: bf16 on a GPU that has it, else fp32",
    )
    metric: Literal["voc07", "voc12", "coco"] = Field(
        "voc12", description="metric that picks the best checkpoint"
    )
    eval_every: float = Field(
        1.0, gt=0, description="epochs or iterations, as the length, between evaluations"
    )
    patience: int | None = Field(
        None,
        ge=1,
        description="evaluations without a better score after which training ends; null = never",
    )
    keep: int = Field(0, ge=0, description="how many evaluations' detectors are kept, the latest")
    save_every: int = Field(0, ge=0, description="iterations between checkpoints; 0 = by time")
    save_minutes: float = Field(5.0, gt=0, description="most minutes between checkpoints")
    log_every: int = Field(20, ge=1, description="iterations between rows of metrics.csv")
    seed: int = Field(0, ge=0, description="makes the run repeatable")
    phases: dict[str, dict[str, Any]] = Field(
        {}, description="values that differ in a phase, by its name"
    )

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        if (self.epochs is None) == (self.iterations is None):
            raise ValueError("give the length as epochs or as iterations, one of them")
        if self.schedule == "step" and list(self.milestones) != sorted(self.milestones):
            raise ValueError("milestones must rise")
        gammas = self.gamma if isinstance(self.gamma, list) else [self.gamma]
        if min(gammas, default=1.0) <= 0:
            raise ValueError("gamma must be greater than 0")
        if isinstance(self.gamma, list) and len(self.gamma) != len(self.milestones):
            raise ValueError("gamma needs one value for each milestone")
        return self

    @property
    def length(self) -> float:
        """In epochs or iterations, whichever the recipe counts."""
        return self.epochs or self.iterations or 0

    def for_phase(self, name: str) -> Recipe:
        """The recipe with the values that `phases` gives for that phase."""
        changes = self.phases.get(name, {})
        return self.changed(changes, where=f"phases.{name}") if changes else self

    def changed(self, values: Mapping[str, Any], where: str | None = None) -> Recipe:
        """A copy with other values. A changed length takes the schedule's shape along.

        Milestones move in proportion unless they are given too; so do warm-up and evaluation
        where the unit changes between epochs and iterations.
        """
        lengths = [name for name in _LENGTHS if values.get(name) is not None]
        merged = {**self.model_dump(), **values}
        if len(lengths) == 1:
            (unit,) = lengths
            merged[_LENGTHS[unit == "epochs"]] = None
            merged.update(self._rescaled(unit, values))
        return validated(Recipe, merged, file=where)

    def _rescaled(self, unit: str, values: Mapping[str, Any]) -> dict[str, Any]:
        try:
            ratio = float(values[unit]) / self.length
        except (TypeError, ValueError):
            return {}  # the validation says what is wrong
        if not math.isfinite(ratio):
            return {}
        moved: dict[str, Any] = {"milestones": [round(m * ratio, 6) for m in self.milestones]}
        if getattr(self, unit) is None:
            moved["warmup"] = round(self.warmup * ratio, 6)
            every = self.eval_every * ratio
            if unit == "iterations":  # a short trial is judged once, at its end
                every = min(max(every, _SELDOM), float(values[unit]))
            moved["eval_every"] = max(every, 1.0)
        return {name: value for name, value in moved.items() if name not in values}

    def text(self) -> str:
        """The recipe as YAML, every value with what it means."""
        lines = []
        for name, field in type(self).model_fields.items():
            value = _inline(getattr(self, name))
            note = f"  # {field.description}" if field.description else ""
            lines.append(f"{name}: {value}{note}")
        return "\n".join(lines) + "\n"


class _Plain(yaml.SafeLoader):
    """YAML without references: a few lines of them unfold to gigabytes."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark
            raise yaml.MarkedYAMLError(None, None, "references (*name) are not read", mark)
        return super().compose_node(parent, index)


def read_recipe(path: str | Path | Traversable, settings: Sequence[str] = ()) -> Recipe:
    """The recipe of a file, with `key=value` settings on top.

    Raises InputError, naming the file and the key, for invalid YAML, an unknown key or a value
    out of range.
    """
    where = path if isinstance(path, Traversable) else Path(path)
    try:
        if isinstance(where, Path):
            check_file(where)
        document = yaml.load(where.read_text(encoding="utf-8"), _Plain)
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", file=str(path)) from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"not valid YAML: {_first_line(error)}", file=str(path)) from None
    if not isinstance(document, dict):
        raise InputError("a recipe is a list of `key: value`", file=str(path))
    recipe = validated(Recipe, {str(k): v for k, v in document.items()}, file=str(path))
    return with_settings(recipe, settings)


def find_recipe(what: str, settings: Sequence[str] = ()) -> Recipe:
    """The recipe of a file, of a name among ours ("paper/ssd300_vgg16_voc0712"), or of a model.

    A model's name alone gives its modern recipe, else its paper's, else the general values.
    """
    if what.endswith(_SUFFIXES):
        return read_recipe(what, settings)
    ours = bundled_recipes()
    for name in (what, f"modern/{what}", f"paper/{what}"):
        if name in ours:
            return read_recipe(ours[name], settings)
    from boxatlas.zoo import list_models

    models = list_models()
    if what not in models:
        known = [*models, *ours]
        raise InputError(
            "no such model or recipe", field="train", value=what, hint=nearest(what, known)
        )
    return with_settings(GENERAL.changed({"model": what}), settings)


def bundled_recipes() -> dict[str, Traversable]:
    """Name ("paper/ssd300_vgg16_voc0712") -> file of every recipe that comes with the package."""
    found = {}
    for kind in ("modern", "paper"):
        folder = files("boxatlas") / "recipes" / kind
        for file in sorted(folder.iterdir(), key=lambda f: f.name):
            if file.name.endswith(_SUFFIXES):
                found[f"{kind}/{file.name.rsplit('.', 1)[0]}"] = file
    return found


def with_settings(recipe: Recipe, settings: Sequence[str]) -> Recipe:
    """Apply `key=value` texts: `epochs=12`, `train.epochs=12`, `model.NAME=VALUE` for an option of
    the method, `phases.NAME.KEY=VALUE` for one phase. The value is read as YAML.

    Raises InputError for a key that is none, a value that is out of range, an option that the model
    does not have, and for an idea of its paper that does nothing in it.
    """
    values: dict[str, Any] = {}
    options: list[str] = []
    for setting in settings:
        key, value = parsed(setting)
        parts = key.split(".")
        _place(values, recipe, parts, value)
        options += parts[1:] if parts[0] in _OPTIONS else ()
    changed = recipe.changed(values, where="--set") if values else recipe
    if options:
        _try_options(changed, options)
    return changed


def parsed(setting: str) -> tuple[str, Any]:
    """The key and the value of `key=value`, the value read as YAML. Raises InputError."""
    key, equals, text = setting.partition("=")
    if not equals:
        raise InputError("must be KEY=VALUE", field="--set", value=setting)
    try:
        return key.strip(), yaml.load(text, _Plain)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InputError(
            f"not a YAML value: {_first_line(error)}", field="--set", value=setting
        ) from None


def _try_options(recipe: Recipe, names: Sequence[str]) -> None:
    """Build the recipe's detector without its tensors; ideas among `names` must do something."""
    from boxatlas.zoo import refuse_idle

    for name in names:
        if (new := RENAMED.get(name, name)) != name and new in names:
            raise InputError(f"is given twice: also by its old name {name}", field=f"model.{new}")
    options = {k: v for k, v in recipe.options.items() if k != "pretrained"}
    if {"tree", "parents"} & set(options):  # whose words the classes must be: the data knows them
        return
    model = _without_tensors(recipe.model, options)
    refuse_idle(model, {name: options[name] for name in names if name in options})


def _without_tensors(model: str, options: Mapping[str, Any]) -> Detector:
    import torch

    from boxatlas.zoo import build, class_names

    with torch.device("meta"):
        return build(model, class_names(None, None), options)


def _place(values: dict[str, Any], recipe: Recipe, parts: list[str], value: Any) -> None:
    """Put one setting where it belongs among the changed values."""
    if len(parts) == 2 and parts[0] in _PREFIXES:
        parts = parts[1:]
    if len(parts) == 2 and parts[0] in _OPTIONS:
        if not parts[1]:
            raise InputError("no name of an option", field="--set", value=".".join(parts))
        values["options"] = replaced(values.get("options", recipe.options), {parts[1]: value})
    elif len(parts) == 2 and parts[0] in ("augment", "augment_options"):
        values.setdefault("augment_options", dict(recipe.augment_options))[parts[1]] = value
    elif len(parts) == 3 and parts[0] == "phases":
        phases = values.setdefault("phases", {k: dict(v) for k, v in recipe.phases.items()})
        phases.setdefault(parts[1], {})[parts[2]] = value
    elif len(parts) == 1 and parts[0] in Recipe.model_fields:
        values[parts[0]] = value
    else:
        raise InputError(
            "no such key of a recipe",
            field="--set",
            value=".".join(parts),
            hint=_meant(recipe.model, parts[-1]),
        )


def _meant(model: str, name: str) -> str:
    """A hint for a key that no recipe has: an option of the model, or the nearest key."""
    from boxatlas.zoo import list_models

    if model in list_models() and name in type(_without_tensors(model, {}).config).model_fields:
        return f"that is an option of the model, model.{name}"
    return f"{nearest(name, Recipe.model_fields)} an option of the model is model.NAME"


def differences(ours: Recipe, theirs: Recipe, *, ignoring: Iterable[str] = ()) -> dict[str, Any]:
    """Name -> (ours, theirs) of the values that differ."""
    skipped = set(ignoring)
    a, b = (one.model_dump(mode="json") for one in (ours, theirs))  # a tuple is a list there
    return {k: (a[k], b[k]) for k in a if k not in skipped and a[k] != b[k]}


def _inline(value: Any) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, width=10_000, sort_keys=False)
    return text.removesuffix("\n").removesuffix("\n...")


def _first_line(error: Exception) -> str:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or str(error).splitlines()[0]
    return f"line {mark.line + 1}: {problem}" if mark else problem


# For a model that has no recipe of its own: careful values that train on most data.
GENERAL = Recipe.of(
    model="",
    init="imagenet",
    augment="flip",
    epochs=40,
    batch=16,
    lr=0.005,
    weight_decay=5e-4,
    warmup=1,
    clip=10.0,
    ema=0.999,
    precision="auto",
)
