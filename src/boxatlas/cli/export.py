"""boxatlas export: a detector as a file for other runtimes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from boxatlas.cli.common import ForceOption, JsonOption, emit, open_detector, reserve_file

NEEDS_ARGUMENTS = True


_FORMS = {"onnx": ".onnx", "torch": ".pt2"}  # what is written, and how its file is called


def command(
    checkpoint: Annotated[
        str,
        typer.Argument(metavar="CKPT", help='A checkpoint, a run\'s folder, or "bundled".'),
    ],
    out: Annotated[Path, typer.Option("--out", help="The file to write, FILE.onnx or FILE.pt2.")],
    to: Annotated[
        str, typer.Option("--to", help="What to write: onnx, or torch (a torch.export program).")
    ] = "onnx",
    with_nms: Annotated[
        bool,
        typer.Option("--with-nms", help="Decoding and suppression inside: it gives detections."),
    ] = False,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Write a detector's network as an ONNX file, once it is seen to find the same.

    The graph takes what preprocessing gives and returns the raw outputs, or, with --with-nms (and
    always where there are masks), boxes, scores and labels. Classes, preprocessing and thresholds
    are in its metadata, so that every verb takes an ONNX file like a checkpoint. Before it is
    written, its detections on real photos are compared with PyTorch's; a file that differs is not
    left.

    \b
    boxatlas export bundled --to onnx --out light.onnx
    boxatlas export runs/ssd --with-nms --out ssd.onnx
    boxatlas export runs/ssd --to torch --out ssd.pt2
    boxatlas detect --model light.onnx photo.jpg
    """
    import torch

    from boxatlas.errors import InputError, nearest
    from boxatlas.export import Deployed, export_onnx, export_program

    if to not in _FORMS:
        raise InputError("no such form", field="--to", value=to, hint=nearest(to, _FORMS))
    if out.suffix != _FORMS[to]:
        raise InputError(f"must end in {_FORMS[to]}", field="--out", value=str(out))
    reserve_file(out, force)
    detector = open_detector(checkpoint, torch.device("cpu"))
    if isinstance(detector, Deployed):
        raise InputError("is exported already", file=checkpoint)
    write = export_onnx if to == "onnx" else export_program
    done = write(detector, out, with_nms=with_nms)
    seen = done.agreement
    masks = f", masks within {seen.mask:.2%} of their pixels" if "masks" in done.outputs else ""
    emit(
        done.document(),
        as_json,
        text=(
            f"{out}: {done.size / 1e6:.1f} MB; takes {', '.join(done.inputs)}; "
            f"gives {', '.join(done.outputs)}\n"
            f"same as PyTorch on {seen.photos} photos: {seen.detections} detections, scores within "
            f"{seen.score:.1e}, boxes within {seen.box:.1e} pixels{masks}, {seen.ties} near-ties"
        ),
    )
