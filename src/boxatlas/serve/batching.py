"""Requests of many clients through one detector: gathered, seen together, answered one by one."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from boxatlas.parts.base import Detector, Request
from boxatlas.structures import Detections


class BusyError(Exception):
    """The queue is full: the request was not taken."""


class LateError(Exception):
    """The request's time was over before its turn came."""


@dataclass
class Answer:
    """What was found in a picture, the seconds that its batch took, and the size of that."""

    found: Detections
    seconds: float
    batch: int


@dataclass
class _Job:
    pixels: NDArray[np.uint8]
    request: Request
    until: float  # of time.monotonic
    future: Future[Answer] = field(default_factory=Future)


class Worker:
    """A detector and the thread that runs it.

    batch: at most so many pictures are seen at once; waiting: at most so many wait, beyond that
    `submit` raises BusyError. Pictures that ask for the same thing are seen together; while one
    batch is seen the next gathers, so that nobody waits for company.
    """

    def __init__(self, name: str, detector: Detector, batch: int = 8, waiting: int = 64) -> None:
        self.name, self.detector = name, detector
        self._batch = batch if detector.preprocess.same_size else 1
        self._queue: queue.Queue[_Job | None] = queue.Queue(waiting)
        self._thread = threading.Thread(target=self._run, name=f"detector {name}", daemon=True)
        self._thread.start()

    def submit(self, pixels: NDArray[np.uint8], request: Request, seconds: float) -> Future[Answer]:
        """The answer to come; BusyError is raised at once, LateError comes from the future."""
        job = _Job(pixels, request, time.monotonic() + seconds)
        try:
            self._queue.put_nowait(job)
        except queue.Full:
            raise BusyError from None
        return job.future

    def stop(self) -> None:
        """Answer what waits, then end."""
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        left: list[_Job] = []
        open_ = True
        while open_ or left:
            if not left and (first := self._queue.get()) is not None:
                left.append(first)
            elif not left:
                open_ = False
            while open_ and len(left) < self._batch:
                try:
                    job = self._queue.get_nowait()
                except queue.Empty:
                    break
                open_ = job is not None
                left += [job] if job is not None else []
            alike = [job for job in left if job.request == left[0].request][: self._batch]
            left = [job for job in left if all(job is not one for one in alike)]
            self._answer(alike)

    def _answer(self, jobs: Sequence[_Job]) -> None:
        now = time.monotonic()
        for job in jobs:
            if job.until < now:
                job.future.set_exception(LateError())
        ready = [
            job for job in jobs if job.until >= now and job.future.set_running_or_notify_cancel()
        ]
        if not ready:
            return
        try:
            found = self.detector.detect_pixels([job.pixels for job in ready], ready[0].request)
        except Exception as error:  # of one picture or of all: nobody waits for ever
            for job in ready:
                job.future.set_exception(error)
            return
        seconds = time.monotonic() - now
        for job, one in zip(ready, found, strict=True):
            job.future.set_result(Answer(one, seconds, len(ready)))
