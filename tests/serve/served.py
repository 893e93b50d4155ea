"""A service in this process, on a free port of the loopback."""

from __future__ import annotations

import io
import threading
import time

import httpx
import numpy as np
import uvicorn
from PIL import Image

from boxatlas.parts.base import Detector
from boxatlas.serve.app import Limits, Service, make_app
from boxatlas.serve.batching import Worker
from boxatlas.serve.running import listening


def png(pixels: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


class Running:
    """A service and its address; `stop` ends it as SIGTERM would."""

    def __init__(self, detectors: dict[str, Detector], limits: Limits, token: str | None) -> None:
        self.service = Service(list(detectors), limits, token)
        for name, one in detectors.items():
            self.service.workers[name] = Worker(name, one, limits.batch, limits.waiting)
        listener = listening("127.0.0.1", 0)
        self.address = f"http://127.0.0.1:{listener.getsockname()[1]}"
        config = uvicorn.Config(make_app(self.service), log_level="error", access_log=False)
        self._server = uvicorn.Server(config)
        run = self._server.run
        self._thread = threading.Thread(target=lambda: run(sockets=[listener]), daemon=True)
        self._thread.start()
        end = time.monotonic() + 20
        while not self._server.started and time.monotonic() < end:
            time.sleep(0.02)
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self.client = httpx.Client(base_url=self.address, headers=headers, timeout=60)

    def stop(self) -> None:
        self.client.close()
        self._server.should_exit = True
        self._thread.join(30)
