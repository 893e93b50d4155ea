"""`boxatlas weights`: public checkpoints as detectors of ours."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from boxatlas.cli.common import ForceOption, JsonOption, emit, fresh

app = typer.Typer(help="Import public checkpoints; list which there are.", no_args_is_help=True)


@app.command("import")
def import_(
    file: Annotated[
        Path, typer.Argument(help="The published file: .pth, .safetensors, .npz, .weights.")
    ],
    source: Annotated[
        str | None,
        typer.Option("--source", help="Who published it; `weights list`. .weights: darknet."),
    ] = None,
    model: Annotated[
        str | None, typer.Option("--as", help="Our model that it becomes; --cfg says it too.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="The checkpoint to write; default: the file as .safetensors."),
    ] = None,
    cfg: Annotated[
        Path | None, typer.Option("--cfg", help="Darknet's description of the network.")
    ] = None,
    names: Annotated[
        Path | None, typer.Option("--names", help="A file with a class name on each line.")
    ] = None,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Make a checkpoint of ours from a published one, with its program's conventions.

    \b
    Example:
      boxatlas weights import ssd300_mAP_77.43_v2.pth --source amdegroot \\
          --as ssd300_vgg16 --out ssd300.safetensors
      boxatlas weights import yolov3.weights --cfg yolov3.cfg --names coco.names
    """
    out = file.with_suffix(".safetensors") if out is None else out
    if not force:
        fresh(out, force)  # what is there stays until the new one is whole
    from boxatlas.data.formats.darknet import read_names
    from boxatlas.errors import InputError
    from boxatlas.weights import import_model

    if source is None:
        if file.suffix != ".weights":
            raise InputError("who published it?", field="--source", hint="`weights list`")
        source = "darknet"
    if cfg is not None and source != "darknet":
        raise InputError("only Darknet's files have a cfg", field="--cfg", value=str(cfg))
    if model is None and cfg is None:
        raise InputError("which model is it?", field="--as", hint="`weights list`")
    more = {"cfg": cfg, "names": names} if source == "darknet" else {}
    classes = None if names is None or more else read_names(names)
    detector = import_model(file, source=source, as_=model or "", classes=classes, **more)
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

    \b
    Example:
      boxatlas weights export runs/yolov3/best.safetensors --out cells.weights
    """
    from boxatlas.weights import load
    from boxatlas.weights.darknet import export_darknet

    if not force:
        for suffix in (".weights", ".cfg", ".names", ".tree"):
            fresh(out.with_suffix(suffix), force)
    detector = load(checkpoint)
    files = [str(file) for file in export_darknet(detector, out)]
    emit({"files": files, "model": detector.name}, as_json, text="\n".join(files))


@app.command("list")
def list_(as_json: JsonOption = False) -> None:
    """The published checkpoints that `weights import` reads.

    \b
    Example:
      boxatlas weights list
    """
    from boxatlas.weights import checkpoints

    rows = [
        {"file": c.file, "source": source, "as": c.model, "trained on": c.data, "from": c.where}
        for source, c in checkpoints()
    ]
    emit({"checkpoints": rows}, as_json, rows=rows, title="Checkpoints that can be imported")
