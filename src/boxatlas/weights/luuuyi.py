"""luuuyi/RefineDet.PyTorch. Its filter takes unlikely positives, not negatives; it encodes with
1e-5 inside the logarithm, clamps anchors, and its final cut to 500 boxes does nothing.
"""

from __future__ import annotations

from boxatlas.weights.source import VGG_INDEX, Checkpoint, Imported, State, class_names, tensor_of

CHECKPOINTS = tuple(  # as its training script names what it ends with
    Checkpoint(
        f"RefineDet{size}_VOC_final.pth",
        f"refinedet{size}_vgg16",
        "VOC 07+12",
        "luuuyi/RefineDet.PyTorch",
    )
    for size in (320, 512)
)

PROFILE = {
    "clip_boxes": "each",
    "match": "argmax",
    "difficult": "drop",
    "ceil_pools": (3,),
    "norm_place": "added_to_root",
    "filter_positives": True,
    "log_epsilon": 1e-5,
    "candidates": 1000,
    "max_detections": 100_000,
}
MODELS = ("refinedet320_vgg16", "refinedet512_vgg16")


def recognise(state: State, model: str) -> Imported:
    """The count of classes from the second step's predictors."""
    outputs = tensor_of(state, "odm_conf.0.weight").shape[0]
    anchors = tensor_of(state, "odm_loc.0.weight").shape[0] // 4
    return Imported({**PROFILE}, class_names(outputs // anchors - 1), _name)


def _name(own: str) -> str:
    part, rest = own.split(".", 1)
    if part == "backbone":
        layer, leaf = rest.split(".")
        return f"vgg.{VGG_INDEX[layer]}.{leaf}"
    if part == "neck":
        kind, index, leaf = rest.split(".")
        if kind == "norms":
            return f"conv{4 + int(index)}_3_L2Norm.{leaf}"
        return f"extras.{int(index) // 2}.{leaf}"
    if part == "transfer":
        _, level, kind, _, leaf = rest.split(".")
        place = int(level)
        layers = {
            "first": f"tcb0.{3 * place}",
            "second": f"tcb0.{3 * place + 2}",
            "up": f"tcb1.{place}",
            "last": f"tcb2.{3 * place + 1}",
        }
        return f"{layers[kind]}.{leaf}"
    kind, rest = rest.split(".", 1)
    return f"{'arm' if part == 'arm' else 'odm'}_{'conf' if kind == 'cls' else 'loc'}.{rest}"
