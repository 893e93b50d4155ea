"""Darknet's .weights and .cfg files: every header, truncated and foreign files, both ways."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from boxatlas.backbones.darknet import Conv, Darknet, fill_prefix, parts_of
from boxatlas.backbones.darknet_file import Header, read_numbers, write_numbers
from boxatlas.cli import main
from boxatlas.create import create_model
from boxatlas.errors import InputError
from boxatlas.parts.base import Detector
from boxatlas.verify import Case, handlers, run_case
from boxatlas.weights import load
from boxatlas.weights.darknet import (
    departures,
    export_darknet,
    import_darknet,
    load_file,
    load_prefix,
    state_of,
)
from boxatlas.weights.darknet_cfg import parse_cfg, read_cfg, write_cfg
from boxatlas.weights.darknet_layers import layers_of, sections_of
from boxatlas.weights.darknet_models import recognised

CLASSES = ["cat", "dog", "cow"]
SMALL: dict[str, dict[str, Any]] = {
    "yolov1": {"size": 64, "width": 0.05, "hidden": 16},
    "yolov1_tiny": {"size": 64},
    "yolov2": {"size": 64, "width": 0.05},
    "yolov2_tiny": {"size": 64, "width": 0.05},
    "yolo9000": {"size": 64, "parents": [-1, 0, 0]},
    "yolov3_tiny": {"size": 64},
}


def small(name: str, **options: Any) -> Detector:
    torch.manual_seed(0)
    model = create_model(name, classes=CLASSES, **{**SMALL[name], **options})
    with torch.no_grad():
        for buffer in model.buffers():
            if buffer.is_floating_point() and buffer.dim() == 1 and len(buffer) > 9:
                buffer.uniform_(0.5, 1.5)  # running means and variances that are not at rest
    return model.eval()


def size_in_bytes(name: str, header: int, **options: Any) -> int:
    with torch.device("meta"):
        model = create_model(name, **options)
    return header + 4 * sum(p.numel() for layer in layers_of(model) for _, p in layer.parts)


@pytest.mark.parametrize(
    ("name", "options", "header", "published"),
    [
        ("yolov1", {"variant": "released"}, 16, 789_312_988),
        ("yolov2", {"release": "later", "num_classes": 80}, 16, 203_934_260),
        ("yolov2", {"release": "later"}, 16, 202_704_260),
        ("yolov2_tiny", {}, 16, 63_471_556),
        ("yolov2_tiny", {"num_classes": 80}, 20, 44_948_600),
        ("yolo9000", {"num_classes": 9418}, 16, 195_230_020),
        ("yolov3", {"num_classes": 80}, 20, 248_007_048),
        ("yolov3", {}, 20, 246_714_648),
        ("yolov3_spp", {"num_classes": 80}, 20, 252_209_544),
        ("yolov3_tiny", {"num_classes": 80}, 20, 35_434_956),
    ],
)
def test_published_files_have_the_size_of_our_networks(
    name: str, options: dict[str, Any], header: int, published: int
):
    assert size_in_bytes(name, header, **options) == published


@pytest.mark.parametrize(
    "name", ["darknet_yolov3_tiny_416", "darknet_yolov2_tiny_voc_416", "darknet_batchnorm_eps"]
)
def test_agrees_with_darknet(name: str, parity_dir: Path):
    case = Case(parity_dir / f"{name}.json")
    result = run_case(case, handlers()[case.case])
    assert result.status == "pass", result.reason


@pytest.mark.parametrize("name", list(SMALL))
def test_what_is_exported_is_imported_as_it_was(name: str, tmp_path: Path):
    model = small(name)
    model.images_seen.fill_(12345)
    files = export_darknet(model, tmp_path / "net.weights")
    options = {k: v for k, v in SMALL[name].items() if k in ("width", "hidden", "size", "parents")}
    back = import_darknet(files[0], as_=name, classes=CLASSES, **_profile(model), **options)
    for key, value in model.state_dict().items():
        if "num_batches" not in key:
            assert torch.equal(back.state_dict()[key], value), key
    assert (tmp_path / "net.names").read_text().split() == CLASSES


def _profile(model: Detector) -> dict[str, Any]:
    config: Any = model.config
    return {"variant": "paper"} if hasattr(config, "variant") and config.top == "fc" else {}


@pytest.mark.parametrize(
    "header",
    [
        Header(0, 1, 0, 5),
        Header(0, 2, 0, 2**40),
        Header(1, 0, 3, 7),
        Header(0, 2000, 0, 6),
        Header(1001, 0, 0, 4),
    ],
)
def test_headers_of_all_versions(header: Header, tmp_path: Path):
    """seen takes 8 bytes from version 0.2 on; 1000 and more: matrices lie transposed, 4 bytes."""
    model = small("yolov1")
    parts = [
        part.t() if name.endswith("matrix") and header.transposed else part
        for layer in layers_of(model)
        for name, part in layer.parts
    ]
    write_numbers(tmp_path / "a.weights", parts, header)
    count = sum(part.numel() for part in parts)
    assert (tmp_path / "a.weights").stat().st_size == header.size + 4 * count
    assert header.size == (20 if (header.major, header.minor) in ((0, 2), (1, 0)) else 16)
    other = small("yolov1")
    for parameter in other.parameters():
        torch.nn.init.zeros_(parameter)
    assert load_file(other, tmp_path / "a.weights") == header
    for ours, theirs in zip(state_of(model).values(), state_of(other).values(), strict=True):
        assert torch.equal(ours, theirs)


def test_a_truncated_file_names_its_byte(tmp_path: Path):
    (path, *_) = export_darknet(small("yolov3_tiny"), tmp_path / "net.weights")
    data = path.read_bytes()
    short = len(data) - 4 * 100
    path.write_bytes(data[:short])
    with pytest.raises(InputError, match=f"ends at byte {short}, within layer22.weight"):
        load_file(small("yolov3_tiny"), path)
    with pytest.raises(InputError, match=f"{path}: ends at byte {short}, within layer22.weight"):
        import_darknet(path, cfg=path.with_suffix(".cfg"))


def test_other_damage_names_its_byte_too(tmp_path: Path):
    (path, *_) = export_darknet(small("yolov3_tiny"), tmp_path / "net.weights")
    data = path.read_bytes()
    cfg = path.with_suffix(".cfg")
    for content, problem in (
        (data + b"\0" * 8, f"from byte {len(data)} to {len(data) + 8}"),
        (data[:-1], f"ends at byte {len(data) - 1}, within a number"),
        (data[:11], "ends at byte 11, within the header"),
        (b"PK\3\4" + data[4:], "its version at byte 0"),
        (data[:20] + np.float32(np.nan).tobytes() + data[24:], "not finite at byte 20, in layer0"),
    ):
        path.write_bytes(content)
        with pytest.raises(InputError, match=problem):
            import_darknet(path, cfg=cfg)


def test_a_file_of_another_network_is_refused(tmp_path: Path):
    (path, *_) = export_darknet(small("yolov2_tiny"), tmp_path / "net.weights")
    with pytest.raises(InputError, match="which no yolov3_tiny does"):
        import_darknet(path, as_="yolov3_tiny")


def test_a_prefix_fills_the_backbone_and_says_what(tmp_path: Path):
    """`darknet53.conv.74` and its like end between two layers."""
    source = small("yolov3_tiny")
    backbone = [part for layer in layers_of(source)[:13] for _, part in layer.parts]
    write_numbers(tmp_path / "tiny.conv.13", backbone, Header())
    model = create_model("yolov3_tiny", num_classes=7, size=64)
    names = load_prefix(model, tmp_path / "tiny.conv.13")
    assert names
    assert all(name.startswith("backbone.") for name in names)
    for name in names:
        assert torch.equal(model.state_dict()[name], source.state_dict()[name])
    alone = Darknet("darknet_tiny", (32,))
    fill_prefix(alone, read_numbers(tmp_path / "tiny.conv.13"))
    assert torch.equal(
        alone.state_dict()["stages.0.0.conv.weight"],
        source.state_dict()["backbone.stages.0.0.conv.weight"],
    )


def test_a_backbone_without_norms_takes_those_of_the_file_in(tmp_path: Path):
    """YOLO as in its paper has none; the published classifiers do."""
    torch.manual_seed(0)
    normed = Darknet("darknet_tiny", (32,)).eval()
    for name, buffer in normed.named_buffers():
        if name.endswith(("mean", "var")):
            buffer.uniform_(0.5, 1.5)
    parts = [part for m in normed.modules() if isinstance(m, Conv) for _, part in parts_of(m, "")]
    write_numbers(tmp_path / "a.conv", parts, Header())
    plain = Darknet("darknet_tiny", (32,), norm=None).eval()
    fill_prefix(plain, read_numbers(tmp_path / "a.conv"))
    image = torch.rand(1, 3, 64, 64)
    assert torch.allclose(plain(image)[0], normed(image)[0], atol=1e-4)


# -- cfg ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("yolov1", {"variant": "released"}),
        ("yolov1", {}),
        ("yolov1_tiny", {}),
        ("yolov2", {"release": "later", "anchors": ((1.0, 2.0), (3.0, 1.5))}),
        ("yolov2", {"size": (320, 416)}),
        ("yolov2_tiny", {}),
        ("yolov2_tiny", {"num_classes": 80}),
        ("yolov3", {"ignore_iou": 0.7}),
        ("yolov3_spp", {"size": 608}),
        ("yolov3_tiny", {}),
        ("yolov3", {"width": 0.25, "backbone": "darknet19"}),
        ("yolov2", {"width": 0.5}),
        ("yolov2", {"backbone": "darknet53", "release": "later", "width": 0.25}),
    ],
)
def test_a_written_cfg_is_recognised_as_the_network_it_is_of(name: str, options: dict[str, Any]):
    options = {"num_classes": 5, **options}
    with torch.device("meta"):
        model = create_model(name, **options)
    found = recognised(parse_cfg(write_cfg(sections_of(model, model.preprocess.size))))
    assert (found.model, found.classes) == (name, options["num_classes"])
    with torch.device("meta"):
        back = create_model(found.model, num_classes=found.classes, **found.options)
    assert {k: v.shape for k, v in back.state_dict().items()} == {
        k: v.shape for k, v in model.state_dict().items()
    }
    assert back.preprocess.size == model.preprocess.size
    for key in ("anchors", "ignore_iou", "boxes"):
        ours, theirs = getattr(model.config, key, None), getattr(back.config, key, None)
        assert ours is None or ours == theirs


SWITCHES: list[tuple[str, dict[str, Any]]] = [
    *(
        ("yolov1", {"size": 64, "width": 0.05, **more})
        for more in (
            {"hidden": 16},
            {"hidden": 24, "head": "fc", "batch_norm": True, "dropout": 0.25},
            {"variant": "released"},
            {"head": "direct", "input_range": "0..1"},
            {"variant": "released", "backbone": "darknet_tiny", "boxes_per_cell": 4},
            {"head": "local", "backbone": "darknet19", "square_root": False, "noobject_scale": 1.0},
            {"head": "direct", "backbone": "darknet53", "batch_norm": True, "width": 0.17},
        )
    ),
    *(
        ("yolov1_tiny", {"size": 64, **more})
        for more in (
            {},
            {"input_range": "-1..1"},
            {"head": "fc", "hidden": 16},
            {"batch_norm": False},
            {"head": "local", "confidence_target": "one", "coord_scale": 1.0, "width": 0.1},
        )
    ),
    *(
        ("yolov2", {"size": 64, "width": 0.1, **more})
        for more in (
            {},
            {"passthrough": False},
            {"batch_norm": False},
            {"new_network": False},
            {"dimension_priors": False},
            {"release": "later", "width": 0.2},
            {"release": "later", "width": 0.37},
            {"tower": 1, "joined": 0},
            {"tower": 0, "joined": 512},
            {"passthrough": False, "tower": 0, "joined": 0, "backbone": "darknet53"},
            {"objectness_target": "one", "match": "prediction", "multi_scale": False},
            {"anchor_boxes": False, "backbone": "darknet_tiny"},
            {"backbone": "yolov1_tiny"},
        )
    ),
    *(
        ("yolov2_tiny", {"size": 64, "width": 0.1, **more})
        for more in (
            {},
            {"batch_norm": False},
            {"passthrough": True},
            {"joined": 512},
            {"anchor_boxes": False},
        )
    ),
    *(
        ("yolo9000", {"size": 64, "backbone": "darknet_tiny", "parents": [-1, 0, 0], **more})
        for more in ({}, {"passthrough": True, "tower": 1}, {"anchors": ((1.0, 1.0), (2.0, 3.0))})
    ),
    *(
        (name, {"size": 64, "width": 0.1, "backbone": "darknet_tiny", **more})
        for name in ("yolov3", "yolov3_spp", "yolov3_tiny")
        for more in (
            {},
            {"truth_iou": 0.7, "ignore_iou": 0.3, "multi_scale": False},
        )
    ),
    ("yolov3", {"size": 64, "width": 0.33, "backbone": "extraction"}),
    ("yolov3_tiny", {"size": 64, "width": 0.58, "masks": ((3, 4, 5), (1, 2, 3))}),
]
NOT_OF_A_CFG = {  # what a model's function does not depend on, or Darknet decides itself
    "variant", "release", "resize", "small_boxes", "hires_classifier", "new_network", "anchors",
    "dimension_priors", "tower", "joined", "width", "hires_detector", "anchor_set", "masks",
    "boxes_per_cell", "head", "batch_norm", "input_range", "size", "parents",
}  # fmt: skip


@pytest.mark.parametrize(("name", "options"), SWITCHES)
def test_each_switch_comes_back_from_a_cfg(name: str, options: dict[str, Any]):
    """Layers, decoding and training are the same, whatever options say so."""
    with torch.device("meta"):
        model = create_model(name, classes=CLASSES, **options)
        sections = sections_of(model, model.preprocess.size)
        found = recognised(parse_cfg(write_cfg(sections)))
        back = create_model(found.model, classes=CLASSES, **found.options)
    assert sections_of(back, back.preprocess.size) == sections
    assert isinstance(model, type(back))  # YOLO, where it is YOLOv2 without anchor boxes
    assert (back.preprocess.size, back.preprocess.mean) == (
        model.preprocess.size,
        model.preprocess.mean,
    )
    ours, theirs = model.config.model_dump(), back.config.model_dump()
    same = ours.keys() & options.keys() - NOT_OF_A_CFG
    assert {key: theirs[key] for key in same} == {key: ours[key] for key in same}


def with_(name: str, kind: str, **options: str) -> list[tuple[str, dict[str, str]]]:
    """A network's sections, the last of a kind with other options."""
    with torch.device("meta"):
        model = create_model(name, classes=CLASSES, **{**SMALL[name], "backbone": "darknet_tiny"})
        sections = sections_of(model, model.preprocess.size)
    place = max(i for i, (other, _) in enumerate(sections) if other == kind)
    sections[place] = (kind, {**sections[place][1], **options})
    return sections


@pytest.mark.parametrize(
    ("name", "kind", "key", "value"),
    [
        ("yolov2", "region", "softmax", "0"),
        ("yolov2", "region", "coords", "5"),
        ("yolov2", "region", "background", "1"),
        ("yolov2", "reorg", "reverse", "1"),
        ("yolov2", "convolutional", "flipped", "1"),
        ("yolov1", "connected", "dontload", "1"),
        ("yolov3_tiny", "net", "channels", "1"),
        ("yolov3_tiny", "upsample", "scale", ".5"),
        ("yolov3_tiny", "yolo", "scale_x_y", "1.05"),
        ("yolov3_tiny", "yolo", "num", "5"),
        ("yolov3_tiny", "yolo", "ignore_thresh", "nan"),
        ("yolov3_tiny", "route", "groups", "2"),
        ("yolov3_tiny", "yolo", "ignore_thresh", ".3"),
        ("yolov3_tiny", "yolo", "anchors", "1,2"),
        ("yolov3_tiny", "yolo", "anchors", "1,nan"),
        ("yolov3_tiny", "yolo", "classes", "1e9"),
        ("yolov1", "detection", "side", "9"),
        ("yolov1", "detection", "softmax", "1"),
        ("yolov1", "crop", "noadjust", "1"),
        ("yolov1", "detection", "coord_scale", "inf"),
    ],
)
def test_a_cfg_that_computes_something_else_is_refused_by_its_key(name, kind, key, value):
    recognised(with_(name, kind))
    with pytest.raises(InputError, match=key):
        recognised(with_(name, kind, **{key: value}))


def test_an_activation_after_a_shortcut_is_not_darknet53s():
    with torch.device("meta"):
        sections = sections_of(create_model("yolov3", num_classes=2, width=0.1), (64, 64))
    sections[5] = ("shortcut", {**sections[5][1], "activation": "leaky"})
    with pytest.raises(InputError, match=r"section 5, \[shortcut\], has activation=leaky, not"):
        recognised(sections)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[net]\nwidth 416\n", "line 2: must be key=value"),
        ("width=416\n", "line 1: comes before"),
        ("[convolutional]\nfilters=3\n", r"does not begin with \[net\]"),
        ("[net]\nheight=64\nwidth=64\n[convolutional]\nfilters=7\n", "not a detector"),
        ("[net]\nheight=64\nwidth=64\n[convolutional]\n[region]\nanchors=1,2,3\n", "anchors"),
        ("[net]\nheight=64\nwidth=64\n[yolo]\nclasses=x\nanchors=1,2\n", "classes"),
    ],
)
def test_a_wrong_cfg_is_refused_by_line_or_field(text: str, problem: str, tmp_path: Path):
    (tmp_path / "a.cfg").write_text(text)
    with pytest.raises(InputError, match=problem):
        recognised(read_cfg(tmp_path / "a.cfg"), tmp_path / "a.cfg")


def test_a_strange_network_is_refused_by_the_section_that_differs(tmp_path: Path):
    with torch.device("meta"):
        sections = sections_of(create_model("yolov3_tiny", num_classes=2), (64, 64))
    sections[4] = ("convolutional", {**sections[4][1], "size": "5"})
    with pytest.raises(InputError, match=r"section 4, \[maxpool\]|section 4, \[convolutional\]"):
        recognised(sections)


def test_a_number_that_is_none_in_a_section_is_named(tmp_path: Path):
    with torch.device("meta"):
        sections = sections_of(create_model("yolov3_tiny", num_classes=2), (64, 64))
    sections[1] = ("convolutional", {**sections[1][1], "filters": "many"})
    with pytest.raises(InputError, match="filters"):
        recognised(sections)


# -- the command ----------------------------------------------------------------------------------


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as done:
        main([str(a) for a in arguments])
    return int(done.value.code or 0)


def test_the_command_imports_with_a_cfg_and_exports(tmp_path: Path, capsys):
    model = small("yolov3_tiny")
    (path, cfg, names) = export_darknet(model, tmp_path / "net.weights")
    assert run("weights", "import", path, "--cfg", cfg, "--names", names, "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["model"], document["classes"]) == ("yolov3_tiny", CLASSES)
    back = load(document["file"])
    image = torch.rand(1, 3, 64, 64)
    for key, value in model(image).items():
        assert torch.equal(back.eval()(image)[key], value)
    again = ["weights", "export", document["file"], "--out", tmp_path / "again.weights"]
    assert run(*again) == 0
    assert (tmp_path / "again.weights").read_bytes() == path.read_bytes()
    assert run(*again) == 2  # nothing is overwritten unasked
    assert run(*again, "--force") == 0
    folder = tmp_path / "kept.weights"
    (folder / "inside").mkdir(parents=True)
    assert run(*again[:-1], folder, "--force") == 2
    assert (folder / "inside").is_dir()  # nothing but a file is ever replaced
    assert run("weights", "import", path, "--out", tmp_path / "b.safetensors") == 2
    assert "--as" in capsys.readouterr().err


def test_a_tree_is_found_beside_its_cfg(tmp_path: Path):
    model = small("yolo9000")
    files = export_darknet(model, tmp_path / "net.weights")
    assert [f.suffix for f in files] == [".weights", ".cfg", ".names", ".tree"]
    back = import_darknet(files[0], cfg=files[1], names=files[2])
    assert back.classes == tuple(CLASSES)
    assert back.describe()["options"]["parents"] == [-1, 0, 0]
    files[3].unlink()
    with pytest.raises(InputError, match="the tree is missing"):
        import_darknet(files[0], cfg=files[1])


def test_the_map_of_a_cfg_says_which_words_cocos_classes_are(tmp_path: Path):
    files = export_darknet(small("yolo9000"), tmp_path / "net.weights")
    files[1].write_text(files[1].read_text() + "map = coco.map\n")
    with pytest.raises(InputError, match="the map is missing"):
        import_darknet(files[0], cfg=files[1])
    (tmp_path / "coco.map").write_text("2\n" + "0\n" * 2 + "1\n" + "0\n" * 76)
    back: Any = import_darknet(files[0], cfg=files[1], names=files[2])
    assert back.nodes_of(["person", "car", "motorcycle", "motorbike"]) == [2, 0, 1, 1]


@pytest.mark.parametrize(
    ("name", "options", "field"),
    [
        ("yolov2", {"reorg_order": "space_to_depth"}, "reorg_order"),
        ("yolov3_tiny", {"location": "linear"}, "location"),
        ("yolov2", {"backbone": "timm/tf_efficientnet_lite0"}, "backbone"),
        ("yolov3_tiny", {"class_loss": "softmax"}, "class_loss"),
        ("yolo9000", {"class_loss": "flat"}, "class_loss"),
        ("yolov3_tiny", {"norm_eps": 1e-3}, "norm_eps"),
        ("yolov3_tiny", {"norm_place": "added_to_root"}, "norm_place"),
    ],
)
def test_what_darknet_cannot_have_is_not_exported(name, options, field, tmp_path: Path):
    with pytest.raises(InputError, match=field):
        export_darknet(small(name, **options), tmp_path / "net.weights")
    assert not list(tmp_path.iterdir())


def test_an_epsilon_of_no_batch_norm_is_exported(tmp_path: Path):
    assert export_darknet(
        small("yolov1", backbone="darknet_tiny", norm_eps=1e-3), tmp_path / "net.weights"
    )


def test_what_darknet_does_otherwise_is_said(tmp_path: Path, capsys):
    """It letterboxes whatever it detects with YOLOv2; only its YOLO stretches."""
    model = small("yolov2_tiny")
    model.save(tmp_path / "net.safetensors")
    export = ["weights", "export", tmp_path / "net.safetensors", "--out", tmp_path / "a.weights"]
    assert run(*export) == 0
    assert "Darknet letterboxes an image, this model stretches it" in capsys.readouterr().out
    assert run(*export, "--force", "--json") == 0
    assert json.loads(capsys.readouterr().out)["notes"] == departures(model)
    assert not departures(small("yolov2_tiny", resize="letterbox"))
    tiny: dict[str, Any] = {"backbone": "darknet_tiny", "resize": "letterbox"}
    assert not departures(small("yolov1_tiny"))
    assert "Darknet stretches" in departures(small("yolov1", **tiny))[0]
    assert "tree_decode" in departures(small("yolo9000", **tiny))[0]
