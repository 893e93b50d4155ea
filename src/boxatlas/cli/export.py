"""boxatlas export: a detector as a file for other runtimes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from boxatlas.cli.common import ForceOption, JsonOption, emit, open_detector, reserve_file

NEEDS_ARGUMENTS = True


def command(
    checkpoint: Annotated[
        str,
        typer.Argument(metavar="CKPT", help='A checkpoint, a run\'s folder, or "bundled".'),
    ],
    out: Annotated[Path, typer.Option("--out", help="The file to write, FILE.onnx.")],
    to: Annotated[str, typer.Option("--to", help="What to write: onnx.")] = "onnx",
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Write a detector's network as an ONNX file, once it is seen to find the same.

    The graph takes what preprocessing gives and returns the raw outputs; classes, preprocessing
    and thresholds are in its metadata, so that every verb takes the file like a checkpoint. Before
    it is written, ONNX Runtime's detections on real photos are compared with PyTorch's; a file
    that differs is not left.

    \b
    boxatlas export bundled --to onnx --out light.onnx
    boxatlas export runs/ssd --to onnx --out ssd.onnx
    boxatlas detect --model light.onnx photo.jpg
    """
    import torch

    from boxatlas.errors import InputError, nearest
    from boxatlas.export import Deployed, export_onnx

    if to != "onnx":
        raise InputError("no such form", field="--to", value=to, hint=nearest(to, ["onnx"]))
    if out.suffix != ".onnx":
        raise InputError("must end in .onnx", field="--out", value=str(out))
    reserve_file(out, force)
    detector = open_detector(checkpoint, torch.device("cpu"))
    if isinstance(detector, Deployed):
        raise InputError("is exported already", file=checkpoint)
    done = export_onnx(detector, out)
    seen = done.agreement
    emit(
        done.document(),
        as_json,
        text=(
            f"{out}: {done.size / 1e6:.1f} MB; takes {', '.join(done.inputs)}; "
            f"gives {', '.join(done.outputs)}\n"
            f"same as PyTorch on {seen.photos} photos: {seen.detections} detections, scores within "
            f"{seen.score:.1e}, boxes within {seen.box:.1e} pixels, {seen.ties} near-ties"
        ),
    )
