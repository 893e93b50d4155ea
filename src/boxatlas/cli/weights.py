"""`boxatlas weights`: public checkpoints as detectors of ours."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from boxatlas.cli.common import ForceOption, JsonOption, emit, fresh

app = typer.Typer(help="Import public checkpoints; list which there are.", no_args_is_help=True)


@app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(help="The published file: .pth, .safetensors, .npz.")],
    source: Annotated[str, typer.Option("--source", help="Who published it; `weights list`.")],
    model: Annotated[str, typer.Option("--as", help="Our model that it becomes.")],
    out: Annotated[Path, typer.Option("--out", help="The checkpoint to write (.safetensors).")],
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Make a checkpoint of ours from a published one, with its program's conventions.

    \b
    Example:
      boxatlas weights import ssd300_mAP_77.43_v2.pth --source amdegroot \\
          --as ssd300_vgg16 --out ssd300.safetensors
    """
    if not force:
        fresh(out, force)  # what is there stays until the new one is whole
    from boxatlas.weights import import_model

    detector = import_model(file, source=source, as_=model)
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
