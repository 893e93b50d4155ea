"""The API: one route that detects, one that lists models, one that tells whether all is well."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from anyio import to_thread
from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException

from boxatlas._version import __version__
from boxatlas.errors import InputError, nearest
from boxatlas.images import read
from boxatlas.parts.base import Request as Wanted
from boxatlas.photos import Photo, photos
from boxatlas.serve.batching import Answer, BusyError, LateError, Worker

_PAGE = Path(__file__).with_name("page")
_FILES = {"page.css": "text/css", "page.js": "text/javascript", "found.js": "text/javascript"}
_FORM = ("file", "image")  # the field of a form that holds the picture
_LOCAL = ("127.0.0.1", "localhost", "[::1]", "::1")
_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob: data:; "
    "style-src 'self' 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
_EXAMPLE = {"200": {"description": "What was found, in COCO's layout."}}
_BODY = {
    "requestBody": {
        "required": True,
        "description": "The picture: its bytes, or a form with them in the field `file`.",
        "content": {
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "properties": {
                        "file": {"type": "string", "format": "binary"},
                        **{
                            name: {"type": "string"}
                            for name in ("model", "score", "classes", "nms_iou", "max_detections")
                        },
                    },
                }
            },
        },
    }
}


@dataclass(frozen=True)
class Limits:
    """megabytes: of a request (10**6 bytes); seconds: from its arrival to its answer; decoding: so
    many pictures are decoded at once; waiting: so many wait for a detector; batch: are seen at
    once."""

    megabytes: float = 20.0
    seconds: float = 30.0
    decoding: int = 4
    waiting: int = 64
    batch: int = 8


class Service:
    """What the routes work with. workers is filled while the detectors are loaded."""

    def __init__(
        self, names: list[str], limits: Limits, token: str | None = None, local: bool = True
    ) -> None:
        self.names, self.limits, self.token, self.local = names, limits, token, local
        self.workers: dict[str, Worker] = {}
        self.draining = False
        self.examples: list[Photo] = photos()
        self.decoding = asyncio.Semaphore(limits.decoding)

    @property
    def ready(self) -> bool:
        return len(self.workers) == len(self.names) and not self.draining

    def worker(self, name: str | None) -> Worker:
        """Raises InputError for a model that is not served."""
        name = name or self.names[0]
        if name not in self.workers:
            if name in self.names:
                raise HTTPException(503, "this model is still being loaded", {"Retry-After": "2"})
            hint = nearest(name, self.names)
            raise InputError("is not served here", field="model", value=name, hint=hint)
        return self.workers[name]

    def stop(self) -> None:
        """Answer what waits in every queue, then end their threads."""
        self.draining = True
        for worker in self.workers.values():
            worker.stop()


def make_app(service: Service, load: Callable[[], Awaitable[None]] | None = None) -> FastAPI:
    """The application. load: fills the service's workers once the server listens."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        loading = asyncio.create_task(load()) if load else None  # pyright: ignore[reportArgumentType]
        yield
        if loading is not None:
            loading.cancel()
        await to_thread.run_sync(service.stop)

    app = FastAPI(
        title="boxatlas",
        version=__version__,
        summary="Object detectors on this machine.",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
    )
    _guard(app, service)
    _say_errors(app)
    _add_page(app, service)

    _add_routes(app, service)
    return app


def _add_routes(app: FastAPI, service: Service) -> None:
    @app.get("/health")
    def health() -> Response:
        """200 once every model is loaded, 503 before, and while the service ends."""
        document = {"ready": service.ready, "models": list(service.workers)}
        return JSONResponse(document, 200 if service.ready else 503)

    @app.get("/models")
    def models() -> dict[str, Any]:
        """The detectors, the default first, each with its classes."""
        rows = [
            {
                "name": name,
                "model": worker.detector.name,
                "engine": worker.detector.engine,
                "classes": list(worker.detector.classes),
            }
            for name in service.names
            if (worker := service.workers.get(name)) is not None
        ]
        return {"models": rows}

    @app.post("/detect", openapi_extra=_BODY)
    async def detect(
        request: Request,
        model: Annotated[str | None, Query(description="One of /models; the first if none")] = None,
        score: Annotated[
            float | None, Query(description="Least score, 0 to 1; 0.3 if none")
        ] = None,
        classes: Annotated[
            list[str] | None, Query(description="Only these; again for several")
        ] = None,
        nms_iou: Annotated[float | None, Query(description="Instead of the detector's own")] = None,
        max_detections: Annotated[int | None, Query(description="At most so many")] = None,
    ) -> dict[str, Any]:
        """Detect objects in one picture (JPEG, PNG, WebP, ...).

        Answers `images`, `annotations` (each with `score`; `bbox` is x, y, width, height in the
        picture's pixels; `segmentation` an RLE where the model makes masks) and `categories`, as
        COCO lays them out, with `model`, `seconds` that its batch took, and the size of the batch.
        """
        given = {
            "model": model,
            "score": score,
            "classes": classes,
            "nms_iou": nms_iou,
            "max_detections": max_detections,
        }
        async with asyncio.timeout(service.limits.seconds):
            picture, form = await _picture(request, int(service.limits.megabytes * 1e6))
            return await _detect(service, picture, {**given, **form})


async def _detect(service: Service, picture: bytes, given: Mapping[str, Any]) -> dict[str, Any]:
    worker = service.worker(given["model"])
    wanted = Wanted.checked(
        worker.detector,
        0.3 if given["score"] is None else given["score"],
        given["classes"] or None,
        given["nms_iou"],
        given["max_detections"],
    )
    async with service.decoding:
        pixels = await to_thread.run_sync(partial(read, picture))
    answer = await asyncio.wrap_future(worker.submit(pixels, wanted, service.limits.seconds))
    return await to_thread.run_sync(partial(_document, worker, answer))


def _document(worker: Worker, answer: Answer) -> dict[str, Any]:
    """The answer in COCO's layout."""
    found = answer.found
    height, width = found.size
    rows = found.to_coco(1)
    for number, row in enumerate(rows, 1):
        row |= {"id": number, "iscrowd": 0, "area": row["bbox"][2] * row["bbox"][3]}
    return {
        "images": [{"id": 1, "width": width, "height": height}],
        "annotations": rows,
        "categories": [{"id": i, "name": n} for i, n in enumerate(found.classes, 1)],
        "model": worker.name,
        "seconds": answer.seconds,
        "batch": answer.batch,
    }


async def _picture(request: Request, most: int) -> tuple[bytes, dict[str, Any]]:
    """(the picture's bytes, what else a form gives). Raises HTTPException over the limit."""
    if request.headers.get("content-type", "").startswith("multipart/form-data"):
        stated = int(request.headers.get("content-length") or 0)
        if stated > most + 10_000:
            raise _too_large(most)
        async with request.form(max_files=1, max_fields=50, max_part_size=10_000) as form:
            file = next((form[name] for name in _FORM if name in form), None)
            if not isinstance(file, UploadFile):
                raise InputError("the form has no picture", field="file")
            picture = await file.read(most + 1)
            if len(picture) > most:
                raise _too_large(most)
            return picture, _form_values(form)
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > most:
            raise _too_large(most)
        parts.append(part)
    if not size:
        raise InputError("the request holds no picture", field="body")
    return b"".join(parts), {}


def _form_values(form: Any) -> dict[str, Any]:
    """A form's texts as the values that the address gives otherwise."""
    values: dict[str, Any] = {}
    for name, kind in (("score", float), ("nms_iou", float), ("max_detections", int)):
        if name in form:
            try:
                values[name] = kind(form[name])
            except (TypeError, ValueError):
                raise InputError("is not a number", field=name, value=form[name]) from None
    if "model" in form:
        values["model"] = str(form["model"])
    if "classes" in form:
        values["classes"] = [str(name) for name in form.getlist("classes")]
    return values


def _too_large(most: int) -> HTTPException:
    return HTTPException(413, f"a request may have {most / 1e6:g} MB")


# -- around the routes -----------------------------------------------------------------------------


def _guard(app: FastAPI, service: Service) -> None:
    """Who may ask: no page of elsewhere through a browser, and nobody without the token."""

    @app.middleware("http")
    async def guard(
        request: Request, proceed: Callable[[Request], Awaitable[Response]]
    ) -> Response:
        refused = _refused(request, service)
        response = refused if refused is not None else await proceed(request)
        response.headers.update(_HEADERS)
        return response


def _refused(request: Request, service: Service) -> Response | None:
    host = request.headers.get("host", "")
    if service.local and _name(host) not in _LOCAL:  # a name of elsewhere that leads here
        return _error(403, f"the host {host!r} is not this machine")
    origin = request.headers.get("origin")
    if origin is not None and origin.partition("://")[2] != host:
        return _error(403, f"requests of pages from {origin!r} are not answered")
    if service.draining and request.url.path != "/health":
        return _error(503, "the service is ending", {"Retry-After": "5"})
    if service.token and request.url.path in ("/detect", "/models", "/openapi.json"):
        kind, _, given = request.headers.get("authorization", "").partition(" ")
        right = hmac.compare_digest(given.encode(), service.token.encode())
        if kind.lower() != "bearer" or not right:
            return _error(401, "needs the token", {"WWW-Authenticate": "Bearer"})
    return None


def _name(host: str) -> str:
    """A host without its port."""
    return host if host.endswith("]") else host.rpartition(":")[0] or host


def _error(status: int, text: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    return JSONResponse({"error": text}, status, dict(headers or {}))


def _say_errors(app: FastAPI) -> None:
    """Every failure is JSON with one line, `error`."""

    @app.exception_handler(InputError)
    async def refused(_: Request, error: InputError) -> Response:
        return _error(422 if error.field else 400, str(error))

    @app.exception_handler(HTTPException)
    async def failed(_: Request, error: HTTPException) -> Response:
        return _error(error.status_code, str(error.detail), error.headers)

    @app.exception_handler(RequestValidationError)
    async def odd(_: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        said = f"{first['loc'][-1]}: {first['msg'].lower()} (got {first.get('input')!r})"
        return _error(422, said[:400])

    @app.exception_handler(MultiPartException)
    async def no_form(_: Request, error: MultiPartException) -> Response:
        return _error(400, f"the form cannot be read: {error.message}")

    @app.exception_handler(BusyError)
    async def busy(_: Request, __: Exception) -> Response:
        return _error(503, "too many requests wait already", {"Retry-After": "1"})

    @app.exception_handler(LateError)
    @app.exception_handler(TimeoutError)
    async def late(_: Request, __: Exception) -> Response:
        return _error(504, "took too long", {"Retry-After": "1"})


def _add_page(app: FastAPI, service: Service) -> None:
    """The page, what it is made of, the pictures that it offers, and the API's viewer."""

    def file(name: str, kind: str) -> Callable[[], Response]:
        return lambda: FileResponse(_PAGE / name, media_type=kind)

    app.get("/", include_in_schema=False)(file("index.html", "text/html"))
    app.get("/docs", include_in_schema=False)(file("docs.html", "text/html"))
    app.get("/docs.js", include_in_schema=False)(file("docs.js", "text/javascript"))
    for name, kind in _FILES.items():
        app.get(f"/{name}", include_in_schema=False)(file(name, kind))

    @app.get("/examples", include_in_schema=False)
    def examples() -> list[dict[str, str]]:
        return [{"title": one.title, "terms": one.terms} for one in service.examples]

    @app.get("/examples/{number}", include_in_schema=False)
    def example(number: int) -> Response:
        if not 0 <= number < len(service.examples):
            raise HTTPException(404, "no such example")
        return FileResponse(service.examples[number].path)
