"""boxatlas bench: how fast detectors are on this machine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from boxatlas.cli.common import (
    DeviceOption,
    EngineOption,
    FormatOption,
    JsonOption,
    SeedOption,
    emit,
    open_detector,
    pick_device,
)

if TYPE_CHECKING:
    import torch

    from boxatlas.parts.base import Detector

NEEDS_ARGUMENTS = True
TOGETHER = 8  # detectors held in memory and timed in turns


def command(
    what: Annotated[
        list[str], typer.Argument(metavar="MODEL|CKPT...", help="Models, patterns, checkpoints.")
    ],
    data: Annotated[
        list[Path] | None,
        typer.Option("--data", help="Real images to time on; made ones if not given."),
    ] = None,
    split: Annotated[str | None, typer.Option("--split", help="Of the data.")] = None,
    batch: Annotated[
        list[int] | None,
        typer.Option("--batch", min=1, help="Throughput at this batch size too; again. 8 if none."),
    ] = None,
    seconds: Annotated[
        float,
        typer.Option(
            "--seconds", min=0, max=3600, help="Timed for about so long, each batch size."
        ),
    ] = 5.0,
    threads: Annotated[
        int | None,
        typer.Option("--threads", min=1, help="CPU threads; torch's choice if none."),
    ] = None,
    format: FormatOption = None,
    device: DeviceOption = "auto",
    engine: EngineOption = None,
    seed: SeedOption = 0,
    as_json: JsonOption = False,
) -> None:
    """Time detectors: latency and FPS at batch 1, throughput, parameters, multiply-adds, memory.

    FPS is what papers print: network, box decoding and suppression for one image. Reading and
    resizing stand beside it. A model without weights is timed with random ones; its score threshold
    is then set so that suppression has the usual work. Detectors are timed in turns, up to
    eight at a time; half of the images lie between the two rates of "between".

    \b
    boxatlas bench ssd300_vgg16 yolov3
    boxatlas bench 'ssd*' --batch 1 --seconds 2
    boxatlas bench runs/ssd --data photos --batch 8 --batch 32 --json
    """
    import torch

    from boxatlas.evaluation.speed import made_images
    from boxatlas.progress import track

    if threads is not None:
        torch.set_num_threads(threads)
    sources: list[Any] = list(made_images())
    if data:
        from boxatlas.data import read

        sources = list(read(data, split, format).paths[:64])
    documents, names, chosen = [], expand(what), pick_device(device)
    groups = [names[i : i + TOGETHER] for i in range(0, len(names), TOGETHER)]
    for group in track(groups, "benchmarking"):
        documents += _measured(group, chosen, seed, sources, seconds, batch or [8], engine)
    rows = [_row(name, one) for name, one in zip(names, documents, strict=True)]
    text = "{device}, {threads} threads, torch ".format(**documents[0]) + torch.__version__
    text += "; images of the data" if data else "; made images of 640 x 480"
    emit({"benchmarks": documents, "torch": torch.__version__}, as_json, rows=rows, text=text)


def _measured(
    names: list[str],
    device: torch.device,
    seed: int,
    sources: list[Any],
    seconds: float,
    batches: list[int],
    engine: str | None,
) -> list[dict[str, Any]]:
    """What is told of each, timed in turns."""
    from boxatlas.evaluation.speed import measure_together

    opened: list[tuple[Detector, bool]] = []

    def one_by_one() -> Iterator[tuple[Detector, bool]]:
        for name in names:
            opened.append(open_or_make(name, device, seed, engine))
            yield opened[-1]

    speeds = measure_together(one_by_one(), sources, seconds=seconds, batches=batches)
    return [
        {
            "model": detector.name,
            "checkpoint": None if untrained else name,
            "engine": detector.engine,
            **size_fields(detector),
            **speed.document(),
        }
        for name, (detector, untrained), speed in zip(names, opened, speeds, strict=True)
    ]


def size_fields(detector: Detector) -> dict[str, Any]:
    """parameters and multiply_adds, None where they are not known."""
    from boxatlas.evaluation.sizes import size_of
    from boxatlas.export.deployed import Deployed

    if isinstance(detector, Deployed):  # whose graph is not walked
        return {"parameters": detector.parameter_count, "multiply_adds": None}
    size = size_of(detector)
    return {"parameters": size.parameters, "multiply_adds": size.multiply_adds}


def expand(names: list[str]) -> list[str]:
    """Patterns of models replaced by the models; other names as they are."""
    import glob

    from boxatlas.errors import InputError
    from boxatlas.zoo import list_models

    out: dict[str, None] = {}
    for name in names:
        if glob.has_magic(name) and not Path(name).exists():
            found = list_models(name)
            if not found:
                raise InputError("no model matches", value=name)
            out.update(dict.fromkeys(found))
        else:
            out[name] = None
    return list(out)


def open_or_make(
    name: str, device: torch.device, seed: int = 0, engine: str | None = None
) -> tuple[Detector, bool]:
    """(the detector, whether its weights are random): a model without weights is made anew."""
    import torch

    from boxatlas.create import create_model
    from boxatlas.errors import InputError
    from boxatlas.weights import bundled
    from boxatlas.zoo import list_models

    if name in list_models():
        try:
            bundled(name)
        except InputError:
            if engine not in (None, "torch"):
                raise InputError(
                    "random weights are run by torch alone", field="--engine", value=engine
                ) from None
            torch.manual_seed(seed)
            return create_model(name).to(device), True
    return open_detector(name, device, engine), False


def _row(name: str, d: dict[str, Any]) -> dict[str, Any]:
    parts = d["parts_ms"]
    row = {
        "model": name,
        "input": f"{d['input'][0]}x{d['input'][1]}",
        "FPS": d["fps"],
        "between": "{:.3g}-{:.3g}".format(*d["fps_between"]),
        "ms": d["latency_ms"],
        "p95": d["latency_p95_ms"],
        "network": parts["network"],
        "decode+NMS": parts["postprocess"],
        "resize": parts["preprocess"],
        "read": parts["read"],
    }
    for size, rate in d["throughput"].items():
        if size > 1:
            row[f"img/s at {size}"] = rate
    return {
        **row,
        "Mparam": d["parameters"] / 1e6,
        "GMAC": None if d["multiply_adds"] is None else d["multiply_adds"] / 1e9,
        "MB": d["peak_memory_mb"],
    }
