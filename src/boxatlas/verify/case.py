"""One case: what its two files say, read when asked for.

Public: Case, UnsupportedError, expect, translated.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from boxatlas.archives import read_npz
from boxatlas.errors import InputError, nearest
from boxatlas.parts.base import Detector
from boxatlas.verify import fill
from boxatlas.weights import import_model


class UnsupportedError(Exception):
    """Raised by a handler that has no implementation for what the case asks for."""


def expect(params: Mapping[str, Any], **known: Any) -> None:
    """Raise UnsupportedError where a parameter that is given has none of the known values."""
    for name, values in known.items():
        if name in params and params[name] not in values:
            raise UnsupportedError(f"{name} {params[name]!r}")


class Case:
    """A pair of files; every value is a float32 (or integer) tensor made or read when asked for.

    name: the files' stem; run: the JSON's `run` block; document: the whole JSON. Raises InputError
    naming the file where a pair is broken.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.name = path, path.stem
        try:
            self.document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
            raise InputError(f"is not a case that can be read: {error}", file=path) from None
        run = self.document.get("run") if isinstance(self.document, dict) else None
        if not isinstance(run, dict) or not isinstance(run.get("case"), str):
            raise InputError("has no `run` block with a `case`", file=path)
        if not isinstance(run.get("outputs"), list):
            raise InputError("has no list of outputs", file=path, field="run.outputs")
        self.run: dict[str, Any] = run
        if not self._file.is_file():
            problem = f"the other half of {path.name} is missing"
            hint = "a case is a .json and a .npz of the same name"
            raise InputError(problem, file=self._file, hint=hint)
        self._arrays = read_npz(self._file)

    @property
    def _file(self) -> Path:
        return self.path.with_suffix(".npz")

    @property
    def case(self) -> str:
        """The reference network or operator; what a handler is chosen by."""
        return self.run["case"]

    @property
    def params(self) -> dict[str, Any]:
        """Every scalar or list that the reference was given."""
        return self.run.get("params") or {}

    @property
    def switches(self) -> dict[str, Any]:
        """What changes the network or its boxes."""
        return self.run.get("switches") or {}

    @cached_property
    def calls(self) -> dict[str, dict[str, Any]]:
        """The calls of the reference by name, where a case has several."""
        return {call["name"]: call for call in self.run.get("calls") or ()}

    @cached_property
    def outputs(self) -> list[dict[str, Any]]:
        """The outputs to compare, each with its own params, switches, input and profile."""
        merged = []
        for entry in self.run["outputs"]:
            own = dict(entry)
            own["params"] = _merge(self.params, entry.get("params") or {})
            own["switches"] = _merge(self.switches, entry.get("switches") or {})
            own["input"] = entry.get("input", self.run.get("input"))
            own["profile"] = entry.get("profile", self.run.get("profile"))
            merged.append(own)
        return merged

    def array(self, key: str) -> np.ndarray:
        """An array of the npz, as stored."""
        if key not in self._arrays:
            hint = nearest(key, self._arrays)
            raise InputError("no such array", file=self._file, value=key, hint=hint)
        return self._arrays[key]

    def input(self, rule: Mapping[str, Any] | str | None = None) -> Tensor:
        """The network input of the case, or of an output's own `input` (a rule, or a name)."""
        if isinstance(rule, str):
            return self.value(rule)
        chosen = self.run.get("input") if rule is None else rule
        if chosen is None:
            raise InputError("the case has no input rule", file=self.path, field="run.input")
        return torch.from_numpy(fill.generate(chosen))

    def generated(self, name: str) -> Tensor:
        """An input made from a seed."""
        return torch.from_numpy(fill.generate(self._rule("generated_inputs", name)))

    def stored(self, name: str) -> Any:
        """An input that lies in the npz, as a tensor of its own shape; or an entry of the JSON."""
        rule = self._rule("stored_inputs", name)
        if "json" in rule:
            return self.document[rule["json"]]
        value = torch.from_numpy(np.array(self.array(rule["key"])))
        return value.reshape(rule["shape"]) if "shape" in rule else value

    def _rule(self, block: str, name: str) -> Mapping[str, Any]:
        rules = self.run.get(block) or {}
        if name not in rules:
            field = f"run.{block}"
            raise InputError(
                "no such input", file=self.path, field=field, value=name, hint=nearest(name, rules)
            )
        return rules[name]

    def value(self, name: str) -> Any:
        """A named input: generated, stored, an output stored whole, or zeros_like:NAME."""
        if name.startswith("zeros_like:"):
            return torch.zeros_like(self.value(name.removeprefix("zeros_like:")))
        if name in (self.run.get("generated_inputs") or {}):
            return self.generated(name)
        if name in (self.run.get("stored_inputs") or {}):
            return self.stored(name)
        for entry in self.run["outputs"]:
            if entry["name"] == name and "key" in entry:
                return torch.from_numpy(np.array(self.array(entry["key"]))).reshape(entry["shape"])
        return self.stored(name)  # which says what there is

    def arguments(self, call: Mapping[str, Any]) -> dict[str, Any]:
        """The inputs of a call: argument -> value, or a list of values."""
        return {
            argument: [self.value(n) for n in name] if isinstance(name, list) else self.value(name)
            for argument, name in call["inputs"].items()
        }

    def shapes(self) -> dict[str, Sequence[int]]:
        """Name -> shape of the reference's tensors, in its order (`arrays` or `state_dict`)."""
        listed = self.document.get("state_dict", self.document.get("arrays"))
        if listed is None:
            raise InputError("lists no tensors", file=self.path, field="state_dict")
        return dict(listed)

    def model(self, **options: Any) -> Detector:
        """The case's detector as the importer makes it, with these options, in eval mode."""
        names = [f"class{i}" for i in range(int(self.run["foreground_classes"]))]
        source, model = self.run["profile"], self.run["model"]
        return import_model(
            self.weights(), source=source, as_=model, classes=names, **options
        ).eval()

    def weights(self, shapes: Mapping[str, Sequence[int]] | None = None) -> dict[str, Tensor]:
        """The reference's tensors by name, filled by the case's rule."""
        made = fill.weights(self.run["weights"], self.shapes() if shapes is None else shapes)
        return {name: torch.from_numpy(value) for name, value in made.items()}


def translated(
    switches: Mapping[str, Any],
    same: Mapping[str, str],
    values: Mapping[str, tuple[str, Mapping[Any, Any]]],
) -> dict[str, Any]:
    """Switches as options of ours. same: name -> ours; values: name -> (ours, theirs -> our value).

    Raises UnsupportedError for a value that is not listed.
    """
    options = {ours: switches[name] for name, ours in same.items() if name in switches}
    for name, (ours, known) in values.items():
        if name in switches:
            if switches[name] not in known:
                raise UnsupportedError(f"{name} {switches[name]!r}")
            options[ours] = known[switches[name]]
    return options


def _merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`over` on top of `base`, mappings within merged alike."""
    out = dict(base)
    for key, value in over.items():
        both = isinstance(value, Mapping) and isinstance(out.get(key), Mapping)
        out[key] = _merge(out[key], value) if both else value
    return out
