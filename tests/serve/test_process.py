"""`boxatlas serve` as a process: it says where it is, drains, and takes a load."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest
from served import png

COMMAND = [sys.executable, "-m", "boxatlas", "serve", "--json"]


class Process:
    """A running service; `address` once it is ready."""

    def __init__(self, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [*COMMAND, "--port", "0", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        self.said = json.loads(self.process.stdout.readline())
        self.address = self.said["address"]

    def end(self, kind: int = signal.SIGTERM) -> int:
        self.process.send_signal(kind)
        return self.process.wait(60)


@pytest.fixture
def process() -> Iterator[Process]:
    one = Process("bundled")
    yield one
    if one.process.poll() is None:
        one.process.kill()
    one.process.wait()


def test_it_says_where_it_is_and_ends_by_sigterm_with_all_answered(process: Process, photo) -> None:
    assert process.said["models"] == ["bundled"]
    assert process.said["pid"] == process.process.pid
    with httpx.Client(base_url=process.address, timeout=60) as client:
        assert client.get("/health").status_code == 200
        with ThreadPoolExecutor(6) as pool:
            futures = [pool.submit(client.post, "/detect", content=photo) for _ in range(6)]
            time.sleep(0.3)
            assert process.end() == 0
            codes = [future.result().status_code for future in futures if not future.exception()]
    assert codes
    assert set(codes) <= {200, 503}


def test_ctrl_c_ends_it_too(process: Process) -> None:
    assert process.end(signal.SIGINT) == 0


def test_a_taken_port_and_a_missing_checkpoint_are_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        ended = subprocess.run(
            [*COMMAND, "bundled", "--port", port], capture_output=True, text=True, timeout=120
        )
    assert ended.returncode == 2
    assert "--port: cannot be listened on" in ended.stderr
    ended = subprocess.run(
        [*COMMAND, "nowhere.safetensors"], capture_output=True, text=True, timeout=120
    )
    assert ended.returncode == 2
    assert ended.stderr.strip() == "boxatlas: error: nowhere.safetensors: no such file"


def resident(pid: int) -> float:
    """Megabytes."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_five_thousand_requests_none_lost_none_mixed_up(detector) -> None:
    """Eight clients; each picture has its own size, which its answer tells; one of ten is bad."""
    rng = np.random.default_rng(0)
    sizes = [(40 + k, 90 - k) for k in range(40)]
    pictures = [png(rng.integers(0, 255, (*one, 3), dtype=np.uint8)) for one in sizes]
    process = Process("bundled", "--queue", "64", "--timeout", "120")
    counts = {"right": 0, "bad": 0, "busy": 0}
    lock = threading.Lock()
    try:
        client = httpx.Client(base_url=process.address, timeout=150)

        def ask(number: int) -> None:
            bad = number % 10 == 3
            body = b"no picture" if bad else pictures[number % 40]
            answer = client.post("/detect", content=body)
            document = answer.json()
            if bad:
                kind = "bad"
                assert answer.status_code == 400
            else:
                kind = "right"
                assert answer.status_code == 200, document
                height, width = sizes[number % 40]
                assert document["images"] == [{"id": 1, "width": width, "height": height}]
            with lock:
                counts[kind] += 1

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(ask, range(500)))
            before = resident(process.process.pid)
            list(pool.map(ask, range(500, 5000)))
        after = resident(process.process.pid)
        assert counts == {"right": 4500, "bad": 500, "busy": 0}
        assert after < before + 60
        assert process.end() == 0
    finally:
        if process.process.poll() is None:
            process.process.kill()
            process.process.wait()
