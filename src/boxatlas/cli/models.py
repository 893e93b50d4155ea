"""boxatlas models: the detectors that can be built."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from boxatlas.cli.common import JsonOption, emit


def command(
    pattern: Annotated[str, typer.Argument(help="Names that match, as in a shell.")] = "*",
    trained: Annotated[
        bool, typer.Option("--trained", help="Detectors that come trained: bundled, the field's.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """List the detectors: paper, backbone, input size, how large, what was published.

    Parameters and multiply-adds are those of the listed number of classes (20 unless the method is
    made for more) and one 640 x 480 image. Published numbers are each paper's own, on its own data
    and hardware: `boxatlas explain MODEL` says which.

    \b
    boxatlas models
    boxatlas models 'ssd*'
    boxatlas models --trained
    boxatlas models --json
    """
    if trained:
        rows = _trained(pattern)
        emit({"models": rows}, as_json, rows=rows, title=f"{len(rows)} trained detectors")
        return
    from boxatlas.errors import InputError, nearest
    from boxatlas.zoo import list_models

    names = list_models(pattern)
    if not names:
        stem = pattern.strip("*?")
        raise InputError("no model matches", value=pattern, hint=nearest(stem, list_models()))
    documents = [describe(name) for name in names]
    emit(
        {"models": documents},
        as_json,
        rows=[_row(d) for d in documents],
        title=f"{len(names)} models",
    )


def _trained(pattern: str) -> list[dict[str, Any]]:
    """Names that `load` takes without a file, with what their cards say."""
    import fnmatch

    from boxatlas.errors import InputError, nearest
    from boxatlas.weights import bundled_card, field_card, field_names, is_bundled, is_field

    names = [*(["bundled"] if is_bundled("bundled") else []), *field_names()]
    found = fnmatch.filter(names, pattern.lower())
    if not found:
        raise InputError("no trained detector matches", value=pattern, hint=nearest(pattern, names))
    rows = []
    for name in found:
        card = field_card(name) if is_field(name) else bundled_card()
        rows.append(
            {
                "name": name,
                "model": card["model"],
                "classes": len(card["classes"]),
                "mAP@0.5": card["evaluation"]["mAP"],
                "COCO AP": card["evaluation"]["coco"]["AP"],
                "on": " + ".join(card["evaluation"]["data"]),
                "Mparam": card["parameters"] / 1e6,
                "MB": card["bytes"] / 1e6,
            }
        )
    return rows


def describe(name: str) -> dict[str, Any]:
    """All that is known of a model without building it (its size, too, where that is listed)."""
    from dataclasses import asdict

    from boxatlas.evaluation.sizes import known_size
    from boxatlas.zoo import model_info

    info, size = model_info(name), known_size(name)
    return {
        "name": name,
        "method": info.method,
        "summary": info.summary,
        "paper": info.title,
        "arxiv": info.arxiv,
        "year": info.year,
        "family": info.family,
        "backbone": info.backbone,
        "input": info.input,
        "classes": info.classes,
        "parameters": None if size is None else size.parameters,
        "multiply_adds": None if size is None else size.multiply_adds,
        "published": [asdict(one) for one in info.published],
    }


def _row(model: dict[str, Any]) -> dict[str, Any]:
    from boxatlas.evaluation.survey import headline
    from boxatlas.zoo import model_info

    fps, coco, voc = headline(model_info(model["name"]))
    return {
        "name": model["name"],
        "arXiv": model["arxiv"] or "-",
        "year": str(model["year"]),
        "family": model["family"],
        "backbone": model["backbone"],
        "input": model["input"],
        "classes": model["classes"],
        "Mparam": _in(model["parameters"], 1e6),
        "GMAC": _in(model["multiply_adds"], 1e9),
        "VOC07": voc,
        "COCO": coco,
        "FPS": fps,
    }


def _in(value: int | None, unit: float) -> float | None:
    return None if value is None else value / unit
