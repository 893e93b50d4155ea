"""boxatlas serve: detectors behind a page and an API."""

from __future__ import annotations

import importlib
import json
import os
import sys
from typing import Annotated

import typer

from boxatlas.cli.common import DeviceOption, EngineOption, JsonOption, open_detector, pick_device

_TOKEN = "BOXATLAS_TOKEN"


def command(
    checkpoints: Annotated[
        list[str] | None,
        typer.Argument(metavar="CKPT...", help="bundled and the field's that are here, if none."),
    ] = None,
    host: Annotated[str, typer.Option("--host", help="Address; 0.0.0.0 is all.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0: a free one.")] = 8000,
    token: Annotated[
        str | None,
        typer.Option("--token", envvar=_TOKEN, help="Asked of every request to the API."),
    ] = None,
    batch: Annotated[int, typer.Option("--batch-size", min=1, help="Pictures seen at once.")] = 8,
    queue: Annotated[int, typer.Option("--queue", min=1, help="Requests that may wait.")] = 64,
    megabytes: Annotated[
        float, typer.Option("--max-mb", min=0.001, help="Most megabytes of a request.")
    ] = 20.0,
    seconds: Annotated[
        float, typer.Option("--timeout", min=0.1, help="Most seconds of a request.")
    ] = 30.0,
    device: DeviceOption = "auto",
    engine: EngineOption = None,
    as_json: JsonOption = False,
) -> None:
    """Serve detectors: a page to try them on photos, side by side, and an API for programs.

    Only this machine is answered unless --host says otherwise. POST /detect takes a picture and
    answers in COCO's layout; /docs shows the API. SIGTERM or Ctrl-C ends it once every request that
    was taken is answered. --json prints one line when all is loaded.

    \b
    boxatlas serve
    boxatlas serve runs/ssd runs/yolov3 --port 9000
    curl -s --data-binary @photo.jpg 'http://127.0.0.1:8000/detect?score=0.5'
    boxatlas serve bundled --host 0.0.0.0 --token "$(openssl rand -hex 16)"
    """
    names = _names(checkpoints)
    chosen = pick_device(device)
    from boxatlas.serve.app import Limits
    from boxatlas.serve.running import listening, run

    listener = listening(host, port)
    shown = f"[{host}]" if ":" in host else host
    address = f"http://{shown}:{listener.getsockname()[1]}"
    print(f"loading {', '.join(names)}", file=sys.stderr)
    run(
        names,
        lambda name: open_detector(name, chosen, engine),
        listener,
        limits=Limits(megabytes, seconds, waiting=queue, batch=batch),
        token=token,
        ready=lambda: _say_ready(address, names, as_json),
    )


def _names(given: list[str] | None) -> list[str]:
    """The checkpoints to serve. Raises InputError for what is not there, before anything starts."""
    from boxatlas.errors import InputError
    from boxatlas.weights import field_names, file_of, is_bundled

    for package in ("fastapi", "uvicorn", "python_multipart"):
        try:
            importlib.import_module(package)
        except ImportError:
            raise InputError(
                "is not installed", field=package, hint="pip install 'boxatlas[serve]'"
            ) from None
    names = given or [*(["bundled"] if is_bundled("bundled") else []), *field_names()]
    if not names:
        raise InputError("there is nothing to serve", field="CKPT")
    if len(set(names)) < len(names):
        raise InputError("names a checkpoint twice", field="CKPT")
    for name in names:
        file_of(name)
    return names


def _say_ready(address: str, names: list[str], as_json: bool) -> None:
    document = {"address": address, "models": names, "pid": os.getpid()}
    plain = f"{address}  ({', '.join(names)}); Ctrl-C ends it"
    print(json.dumps(document) if as_json else plain, flush=True)
