"""uoip/SSD-variants' DSOD300: a narrow bottleneck, one cell last, plain predictors.

It has no public checkpoint; whoever trained one with it can go on here. Within a cell its default
boxes are the second square first and then by rising ratio; the halves of a map lie the other way.
"""

from __future__ import annotations

from boxatlas.weights.source import Checkpoint, Imported, State, class_names, ssd_sizes, tensor_of

CHECKPOINTS: tuple[Checkpoint, ...] = ()

PROFILE = {
    "cell_order": "ratio",
    "last_map": 1,
    "head_norm": False,
    "learned_first": True,
    "blocks_first": False,
    "norm_place": "clamp_sum_of_squares",
}
MODELS = ("dsod300",)
# Our unit of the backbone -> theirs; a block is Block12.0, .2 or Block34.0, .2.
_BLOCKS = ("Block12.0", "Block12.2", "Block34.0", "Block34.2")
_TRANSITIONS = ("Block12.1", "Block12.3", "Block34.1")
_UNIT = {"bn": "0", "conv": "2"}
_PARTS = {"squeeze": "conv1_1", "learn": "conv1_2", "reuse": "conv2"}


def recognise(state: State, model: str) -> Imported:
    """Bottleneck and growth from the first dense layer."""
    count, boxes = ssd_sizes(state, "Conf.0.weight", "Loc.0.weight")
    options = {
        **PROFILE,
        "boxes": "voc" if count <= 20 else "coco",
        "boxes_on_first_map": boxes,
        "stem": tensor_of(state, "Stem.0.0.weight").shape[0],
        "bottleneck": tensor_of(state, "Block12.0.layers.0.conv1.2.weight").shape[0],
        "growth": tensor_of(state, "Block12.0.layers.0.conv2.2.weight").shape[0],
    }
    return Imported(options, class_names(count), _name, reshape=True)


def _name(own: str) -> str:
    part, rest = own.split(".", 1)
    if part == "head":
        kind, rest = rest.split(".", 1)
        return f"{'Conf' if kind == 'cls' else 'Loc'}.{rest}"
    if own.startswith("neck.norms."):
        return f"L2Norm.{rest.removeprefix('norms.').removesuffix('weight')}scale"
    unit, kind, leaf = rest.rsplit(".", 2)
    words = unit.split(".")
    if words[0] == "stem":
        return f"Stem.{words[1]}.{'0' if kind == 'conv' else '1'}.{leaf}"
    place = f"{_UNIT[kind]}.{leaf}"
    if words[0] == "blocks":
        inner = "conv1" if words[3] == "squeeze" else "conv2"
        return f"{_BLOCKS[int(words[1])]}.layers.{words[2]}.{inner}.{place}"
    if words[0] == "transitions":
        return f"{_TRANSITIONS[int(words[1])]}.conv.{place}"
    if words[0] == "steps":
        return f"Extra.{words[1]}.{_PARTS[words[2]]}.{place}"
    return f"{'Block34.3.conv' if words[0] == 'last' else 'conv2'}.{place}"
