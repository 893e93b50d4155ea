"""The options of the dense family: every idea does something or says why not, every number is
bounded, and a value out of bounds is one line.
"""

from __future__ import annotations

import math
import typing
from collections.abc import Iterator
from typing import Any

import pyramids
import pytest
import single_shot
import torch

from boxatlas.detectors import dsod, dssd, fssd, m2det, refinedet, retinanet, rfbnet, ssd
from boxatlas.errors import InputError
from boxatlas.options import Options
from boxatlas.parts.dense import DenseDetector

CONFIGS: dict[str, type[Options]] = {
    "ssd": ssd.Config,
    "dssd": dssd.Config,
    "fssd": fssd.Config,
    "dsod": dsod.Config,
    "rfbnet": rfbnet.Config,
    "refinedet": refinedet.Config,
    "m2det": m2det.Config,
    "retinanet": retinanet.Config,
}

# -- ideas ----------------------------------------------------------------------------------------

# Other values of ideas that are neither on or off nor one of a few.
OTHERS: dict[str, list[Any]] = {
    "negatives": [1.0],
    "loc_weight": [2.0],
    "sources": [("conv3_3", "conv4_3", "fc7"), ("conv4_3", "fc7")],
    "stem": [4],
    "bottleneck": [6],
    "growth": [3],
    "compression": [0.5],
    "negative_filter": [None, 0.5],
    "tums": [3],
    "scales": [4],
    "planes": [8],
    "alpha": [0.75, None],
    "gamma": [0.5],
    "star_beta": [0.0],
    "ohem_batch": [16],
    "ohem_nms": [0.1],
    "prior_pi": [None],
    "anchor_scales": [(1.0,)],
    "anchor_ratios": [(1.0,)],
    # Settings, of which those that idle are tried.
    "fold_norms": [True],
    "reduced_tail": [False],
    "boxes": ["coco"],
    "staged": [True],
    "decoder_width": [8],
    "module_widths": [8],
    "nms_iou": [0.9, 0.1],
    "soft_iou": [0.9],
    "per_class": [1],
    "sfam_ratio": [2],
    "head_norm": ["group"],
}

VGG = {"backbone": "vgg16"}
SIZES = tuple((2.0 * s, 3.0 * s) for s in (8, 16, 32, 64, 128))
# Small detectors: between them each idea works in one, and each reason for idleness is met.
QUICK: list[tuple[str, dict[str, Any]]] = [
    ("ssd300_vgg16", {}),
    ("ssd300_vgg16", {"stride8": False}),
    ("ssd300_vgg16", {"ratios": ((2.0,), (3.0,), (2.0,), (3.0,))}),
    ("ssd300_vgg16", {"ratio_3": False}),
    ("fssd300_vgg16", {"min_sizes": (8, 16, 32, 48), "max_sizes": (16, 32, 48, None)}),
    ("fssd300_vgg16", {}),
    ("fssd300_vgg16", {"sources": ("conv4_3",)}),
    ("rfbnet300_vgg16", {}),
    ("rfbnet300_vgg16", {"rfb": False, "rfb_s": False}),
    ("refinedet320_vgg16", {}),
    ("dsod300", {}),
    ("dsod300", {"backbone": "timm/test_efficientnet"}),
    ("dssd321_r101", {"staged": True}),
    ("dssd321_r101", {"decoder": False, "prediction_module": "a"}),
    ("m2det320_vgg16", {}),
    ("m2det320_vgg16", {"tums": 1}),
    ("m2det320_vgg16", {"soft_nms": "gaussian", "sfam": False}),
    ("m2det320_vgg16", {"soft_nms": "off"}),
    ("retinanet_r50_fpn", {}),
    ("retinanet_r50_fpn", {"cls_loss": "focal_star"}),
    ("retinanet_r50_fpn", {"head_convs": 0}),
    ("retinanet_r50_fpn", {"cls_loss": "ohem"}),
    ("retinanet_r50_fpn", {"anchor_sizes": SIZES}),
]
SLOW: list[tuple[str, dict[str, Any]]] = [
    ("ssd300_vgg16", VGG),
    ("ssd300_vgg16", {**VGG, "stride8": False, "atrous": False}),
    ("ssd300_vgg16", {"lite": True, "boxes": "lite", "ratio_3": False}),
    ("fssd300_vgg16", VGG),
    ("rfbnet300_vgg16", VGG),
    ("rfbnet300_mobilenet", {"backbone": "mobilenet_v1"}),
    ("rfbnet300_mobilenet", {"backbone": "mobilenet_v1", "size": 32, "rfb_s": False}),
    ("refinedet320_vgg16", {**VGG, "negative_filter": None}),
    ("m2det320_vgg16", VGG),
    ("dssd321_r101", {}),
    ("retinanet_r50_fpn", {"cls_loss": "ohem_1_3"}),
    ("retinanet_r50_fpn", {"cls_loss": "ce"}),
]
CASES = [
    *(pytest.param(*case, id=f"{case[0]}-{i}") for i, case in enumerate(QUICK)),
    *(
        pytest.param(*case, id=f"{case[0]}-slow-{i}", marks=pytest.mark.slow)
        for i, case in enumerate(SLOW)
    ),
]


def built(name: str, options: dict[str, Any]) -> DenseDetector:
    """The small detector, seeded."""
    made = pyramids.small if name.startswith("retinanet") else single_shot.tiny
    model = made(name, **options)
    assert isinstance(model, DenseDetector)
    return model


def bits(value: torch.Tensor) -> tuple[torch.Size, bytes]:
    return value.shape, value.detach().contiguous().numpy().tobytes()


def about(model: DenseDetector) -> dict[str, Any]:
    """All that an idea may change: tensors, stages, raw outputs, losses, detections."""
    size = model.preprocess.size
    given = (
        pyramids.batch()
        if isinstance(model, retinanet.RetinaNet)
        else single_shot.batch(min(size) if isinstance(size, tuple) else size)
    )
    model.eval()
    with torch.no_grad():
        raw = model(given.images)
        losses = model.loss(given, torch.Generator().manual_seed(0))
        found = model.postprocess(raw, given.frames, score=0.2)
    return {
        "tensors": [(k, v.shape) for k, v in model.state_dict().items()],
        "phases": model.phases(),
        "raw": {k: bits(v) for k, v in raw.items()},
        "losses": {k: bits(v) for k, v in losses.items()},
        "detections": [(bits(d.boxes), bits(d.scores), bits(d.labels)) for d in found],
    }


def others(config: Options, name: str) -> list[Any]:
    """Values of an idea other than the config's."""
    value, annotation = getattr(config, name), type(config).model_fields[name].annotation
    if isinstance(value, bool):
        return [not value]
    known = OTHERS.get(name, typing.get_args(annotation))
    return [other for other in known if other != value]


@pytest.mark.parametrize(("name", "options"), CASES)
def test_each_idea_changes_something_or_is_idle(name: str, options: dict[str, Any]) -> None:
    model = built(name, options)
    before, idle = about(model), model.config.idle()
    ideas = model.config.kinds("idea")
    assert all(reason and "\n" not in reason for reason in idle.values())
    for setting in model.config.kinds("setting"):
        if setting in idle and setting in OTHERS:
            assert not changes(model, name, options, setting, before), setting
    assert [idea for idea in ideas if changes(model, name, options, idea, before)] == [
        idea for idea in ideas if idea not in idle
    ]


def changes(
    model: DenseDetector, name: str, options: dict[str, Any], idea: str, before: dict[str, Any]
) -> bool:
    """Whether some other value of an idea changes the detector, or is refused."""
    values = others(model.config, idea)
    assert values
    for value in values:
        try:
            if about(built(name, {**options, idea: value})) != before:
                return True
        except InputError:
            return True
    return False


@pytest.mark.parametrize("name", sorted({name for name, _ in QUICK}))
def test_the_same_options_give_the_same_detector(name: str) -> None:
    """So what differs above is the idea's doing."""
    assert about(built(name, {})) == about(built(name, {}))


def test_every_idea_is_seen_at_work() -> None:
    """The cases above are enough: no idea is idle in all of those of its method."""
    unseen = {key: set(config.kinds("idea")) for key, config in CONFIGS.items()}
    for name, options in [*QUICK, *SLOW]:
        with torch.device("meta"):
            config = built(name, options).config
        key = next(k for k, c in CONFIGS.items() if type(config) is c)
        unseen[key] &= set(config.idle())
    assert not any(unseen.values())


# -- bounds ---------------------------------------------------------------------------------------


def numbers(node: Any) -> Iterator[dict[str, Any]]:
    """Each number in a JSON schema, that of tuples' members too, but for enumerated ones."""
    if isinstance(node, list):
        for member in node:
            yield from numbers(member)
    elif isinstance(node, dict):
        if node.get("type") in ("number", "integer") and not {"enum", "const"} & node.keys():
            yield node
        for key, member in node.items():
            if key in ("anyOf", "items", "prefixItems"):
                yield from numbers(member)


@pytest.mark.parametrize("key", CONFIGS)
def test_every_number_has_a_bound(key: str) -> None:
    fields = CONFIGS[key].model_json_schema()["properties"]
    unbounded = [
        name
        for name, field in fields.items()
        for number in numbers(field)
        if not {"minimum", "exclusiveMinimum"} & number.keys()
    ]
    assert not unbounded
    assert sum(1 for field in fields.values() for _ in numbers(field)) > 15


def placed(value: Any, bad: float) -> Any:
    """The value with its first number, however deep, replaced."""
    if isinstance(value, tuple):
        return (placed(value[0], bad), *value[1:])
    return bad


# What an option that is not given looks like when it is.
GIVEN: dict[str, Any] = {
    "min_sizes": (10.0, 20.0),
    "max_sizes": (10.0, None),
    "ratios": ((2.0,), (2.0, 3.0)),
    "steps": (8.0,),
    "offset": (0.5, 0.5),
    "train_sizes": (600, 800),
    "anchor_sizes": ((32.0,), (64.0,)),
    "module_widths": (256, 256),
}


def wrong_values(config: type[Options]) -> Iterator[tuple[str, Any]]:
    """(option, value): each number in turn too small, not a number, infinite."""
    for name, field in config.model_json_schema()["properties"].items():
        if any(numbers(field)):
            default = config.model_fields[name].default
            for value in {default, GIVEN.get(name, default)} - {()}:
                for bad in (-1000.0, math.nan, math.inf, -math.inf):
                    yield name, placed(value, bad)


@pytest.mark.parametrize("key", CONFIGS)
def test_a_number_out_of_bounds_is_one_line(key: str) -> None:
    tried = list(wrong_values(CONFIGS[key]))
    assert len(tried) > 60
    for name, value in tried:
        with pytest.raises(InputError) as raised:
            CONFIGS[key].of({name: value})
        assert "\n" not in str(raised.value)
        assert name in str(raised.value)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("retinanet_r50_fpn", {"cls_loss": "focal_star", "gamma": 0}, "gamma"),
        ("retinanet_r50_fpn", {"head_norm": "group", "width": 40}, "multiple of 32"),
        ("retinanet_r50_fpn", {"anchor_sizes": ((8.0,), (16.0, 24.0))}, "anchor_sizes"),
        ("retinanet_r50_fpn", {"anchor_sizes": ((8.0,),)}, "5 maps"),
        ("m2det320_vgg16", {"shared_leach": True}, "shared_leach"),
        ("m2det320_vgg16", {"soft_least": 0.1}, "gone"),
        ("dssd321_r101", {"boxes": "lite"}, "boxes"),
        ("fssd300_vgg16", {"boxes": "lite"}, "boxes"),
        ("dssd321_r101", {"module_widths": (16, 16)}, "module_widths"),
        *(
            (name, {option: (8.0,)}, f"{option}: needs one for each of the . maps")
            for name in ("ssd300_vgg16", "refinedet320_vgg16", "m2det320_vgg16", "rfbnet300_vgg16")
            for option in ("steps", "min_sizes", "max_sizes", "offset")
        ),
        ("m2det320_vgg16", {"ratios": ((2.0,),)}, "ratios: needs one for each of the 3 maps"),
        ("ssd300_vgg16", {"max_sizes": (1.0,) * 4}, "max_sizes: .* 1 and 6.4"),
        ("ssd300_vgg16", {"min_sizes": (9.0, 3.0, 20.0, 30.0)}, "min_sizes: .* 3 and 9"),
        ("ssd300_vgg16", {"variances": ()}, r"variances: needs 4 values \(got \(\)\)"),
        ("retinanet_r50_fpn", {"size": (800, 200)}, r"size: .* below .* \(got \(800, 200\)\)"),
    ],
)
def test_options_that_do_not_fit_are_one_line(
    name: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message) as raised:
        built(name, options)
    assert "\n" not in str(raised.value)


def test_what_is_gone_is_taken_at_the_value_that_is_done() -> None:
    assert m2det.Config.of({"boxes": "coco", "soft_least": 0.001}) == m2det.Config()
    assert refinedet.Config.of({"boxes": "voc"}) == refinedet.Config()
    assert retinanet.Config.of({"box_beta": 0.11}) == retinanet.Config()
