"""`boxatlas weights`: public checkpoints as detectors of ours."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from boxatlas.cli.common import ForceOption, JsonOption, emit, reserve_file

if TYPE_CHECKING:
    from boxatlas.weights.source import Checkpoint

app = typer.Typer(
    help="Fetch and import public checkpoints; list which there are.", no_args_is_help=True
)


Source = Annotated[
    str | None,
    typer.Option("--source", help="Who published it; `weights list`. .weights: darknet."),
]
Model = Annotated[
    str | None, typer.Option("--as", help="Our model that it becomes; --cfg says it too.")
]
Out = Annotated[
    Path | None,
    typer.Option("--out", help="The checkpoint to write; default: the file as .safetensors."),
]
Cfg = Annotated[Path | None, typer.Option("--cfg", help="Darknet's description of the network.")]
Names = Annotated[
    Path | None, typer.Option("--names", help="A file with a class name on each line.")
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="NAME=VALUE",
        help="An option of the model that the file does not tell. Again.",
    ),
]


@app.command("import")
def import_(
    file: Annotated[
        Path, typer.Argument(help="The published file: .pth, .safetensors, .npz, .weights.")
    ],
    source: Source = None,
    model: Model = None,
    out: Out = None,
    cfg: Cfg = None,
    names: Names = None,
    settings: Settings = None,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Make a checkpoint of ours from a published or a fine-tuned one, with its program's habits.

    \b
    Example:
      boxatlas weights import epoch_12.pth --source mmdet --as faster_rcnn_r50_fpn
      boxatlas weights import model_final.pth --source detectron2 --as retinanet_r101_fpn \\
          --names ants.names --set size=640
      boxatlas weights import ssd300_mAP_77.43_v2.pth --source amdegroot \\
          --as ssd300_vgg16 --out ssd300.safetensors
      boxatlas weights import yolov3.weights --cfg yolov3.cfg --names coco.names
    """
    out = file.with_suffix(".safetensors") if out is None else out
    reserve_file(out, force)
    from boxatlas.data.formats.darknet_data import read_names
    from boxatlas.errors import InputError
    from boxatlas.training.recipe import parsed
    from boxatlas.weights import import_model

    if source is None:
        if file.suffix != ".weights":
            raise InputError("who published it?", field="--source", hint="`weights list`")
        source = "darknet"
    if cfg is not None and source != "darknet":
        raise InputError("only Darknet's files have a cfg", field="--cfg", value=str(cfg))
    if model is None and cfg is None:
        raise InputError("which model is it?", field="--as", hint="`weights list`")
    more: dict[str, Any] = {"cfg": cfg, "names": names} if source == "darknet" else {}
    own = dict(parsed(setting) for setting in settings or ())
    options = {name.removeprefix("model."): value for name, value in own.items()}
    if taken := sorted(set(options) & {"source", "as_", "classes", *more}):
        raise InputError("is no option of a model", field="--set", value=taken[0])
    classes = None if names is None or more else read_names(names)
    detector = import_model(
        file, source=source, as_=model or "", classes=classes, **more, **options
    )
    model = detector.name
    detector.save(out, imported={"file": file.name, "source": source})
    document = {
        "file": str(out),
        "model": model,
        "source": source,
        "classes": list(detector.classes),
        "options": detector.describe()["options"],
    }
    text = f"{out}: {model} with {len(detector.classes)} classes, as {source} runs it"
    emit(document, as_json, text=text)


@app.command("export")
def export(
    checkpoint: Annotated[Path, typer.Argument(help="A checkpoint of a YOLO detector.")],
    out: Annotated[Path, typer.Option("--out", help="The file to write (.weights).")],
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Write what Darknet loads: FILE.weights, and .cfg and .names (and .tree) beside it.

    What the program does otherwise than the model (it letterboxes every image) is said.

    \b
    Example:
      boxatlas weights export runs/yolov3/best.safetensors --out cells.weights
    """
    from boxatlas.weights import load
    from boxatlas.weights.darknet import departures, export_darknet

    for suffix in (".weights", ".cfg", ".names", ".tree"):
        reserve_file(out.with_suffix(suffix), force)
    detector = load(checkpoint)
    files = [str(file) for file in export_darknet(detector, out)]
    notes = departures(detector)
    document = {"files": files, "model": detector.name, "notes": notes}
    emit(document, as_json, text="\n".join([*files, *notes]))


@app.command("fetch")
def fetch(
    name: Annotated[str, typer.Argument(help="The publisher's name of it; `weights list`.")],
    out: Annotated[
        Path | None, typer.Option("--out", help="The file; if not given, the published name.")
    ] = None,
    url: Annotated[
        str | None, typer.Option("--url", metavar="URL", help="Where it lies, if elsewhere.")
    ] = None,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Fetch a published checkpoint, going on where an earlier try stopped, and check it.

    What is fetched is the publisher's own file: `weights import` makes a detector of it.

    \b
    Example:
      boxatlas weights fetch ssd300_vgg16_coco-b556d3b4.pth
      boxatlas weights fetch yolov3.weights --out weights/yolov3.weights
    """
    from boxatlas.cli.data.download import bars
    from boxatlas.weights.available import fetch_checkpoint, find, name_of

    one = find(name)
    out = Path(name_of(one)) if out is None else out
    reserve_file(out, force)
    with bars() as advance:
        fetch_checkpoint(one, out, url=url, advance=advance(out.name))
    checked = one.checksum or "not checked: no checksum is published"
    document = {
        "file": str(out),
        "checksum": one.checksum,
        "url": url or one.url,
        "licence": one.licence,
        "holds": one.file,
    }
    inside = "" if name_of(one) == one.file.rsplit("/", 1)[-1] else f"; {one.file} lies in it"
    emit(document, as_json, text=f"{out}: {checked}{inside}; licence: {one.licence}")


@app.command("list")
def list_(as_json: JsonOption = False) -> None:
    """Public checkpoints that `weights import` reads, by the rows of the survey's comparison.

    A row without one is listed too. Sizes are as published, a checksum is as much of it as is
    published. What serves no row (other methods and sizes) comes after.

    \b
    Example:
      boxatlas weights list
      boxatlas weights list --json
    """
    from boxatlas.weights import checkpoints
    from boxatlas.weights.available import by_row

    known, survey = checkpoints(), by_row()
    document = {
        "rows": [
            {
                "method": a.row.method,
                "backbone": a.row.backbone,
                "input": a.row.input,
                "AP": a.row.ap,
                "model": a.row.model,
                "none": a.none,
                "checkpoints": [_entry(source, c) for source, c in a.found],
            }
            for a in survey
        ],
        "checkpoints": [_entry(source, c) for source, c in known],
    }
    lines = [
        f"Checkpoints for {sum(1 for a in survey if a.found)} of the survey's {len(survey)} rows"
    ]
    for number, a in enumerate(survey, 1):
        lines += ["", f"{number} {a.row.method} {a.row.backbone} {a.row.input}: {a.row.model}"]
        lines += [f"  none: {a.none}"] if a.none else []
        lines += [line for source, c in a.found for line in _lines(source, c)]
    lines += ["", "Others that can be imported"]
    served = {a.row.model for a in survey}
    for model in dict.fromkeys(c.model for _, c in known if c.model not in served):
        lines += ["", model]
        lines += [line for source, c in known if c.model == model for line in _lines(source, c)]
    emit(document, as_json, text="\n".join(lines))


def _entry(source: str, c: Checkpoint) -> dict[str, Any]:
    """A checkpoint as JSON."""
    return {
        "file": c.file,
        "source": source,
        "as": c.model,
        "trained on": c.data,
        "from": c.where,
        "url": c.url,
        "megabytes": c.megabytes,
        "checksum": c.checksum,
        "licence": c.licence,
    }


def _lines(source: str, c: Checkpoint) -> list[str]:
    """A checkpoint for people: its name unbroken, so that it can be copied, and what is known."""
    kind, _, digest = (c.checksum or "").partition(":")
    checksum = (
        f"{kind} {digest[:12]}{'...' if len(digest) > 12 else ''}" if digest else "no checksum"
    )
    size = "size not published" if c.megabytes is None else f"{c.megabytes:g} MB"
    return [
        f"  {c.file}",
        f"      {c.data}; {size}; {checksum}; licence: {c.licence}; --source {source}",
        f"      {'by hand' if c.url is None else 'weights fetch'}: {c.where}",
    ]
