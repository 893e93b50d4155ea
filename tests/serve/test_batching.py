"""Requests of many threads through one detector: none lost, none mixed up, none for ever."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

import boxatlas
from boxatlas.parts.base import Detector, Request
from boxatlas.serve.batching import BusyError, LateError, Worker
from boxatlas.structures import Detections


class Telling:
    """A stand-in for a detector: what it finds is the picture's own first value. `hold` keeps it
    from answering until it is set."""

    def __init__(self) -> None:
        self.preprocess = boxatlas.Preprocess(size=(8, 8))
        self.batches: list[int] = []
        self.hold = threading.Event()
        self.hold.set()

    def detect_pixels(self, pictures, request) -> list[Detections]:
        assert self.hold.wait(20)
        self.batches.append(len(pictures))
        if any(one[0, 0, 0] == 255 for one in pictures):
            raise ValueError("a picture that breaks the detector")
        return [
            Detections(
                torch.full((1, 4), float(one[0, 0, 0])),
                torch.tensor([request.score]),
                torch.tensor([0]),
                ("a",),
                (8, 8),
            )
            for one in pictures
        ]


def picture(value: int) -> np.ndarray:
    return np.full((8, 8, 3), value, np.uint8)


def worker(detector: object, **limits: int) -> Worker:
    return Worker("a", detector, **limits)  # type: ignore[arg-type]


def test_each_gets_its_own_answer() -> None:
    detector = Telling()
    served = worker(detector, batch=4, waiting=300)
    with ThreadPoolExecutor(8) as pool:
        given = [(k % 250, Request(score=(k % 3) / 4)) for k in range(300)]
        futures = list(pool.map(lambda one: served.submit(picture(one[0]), one[1], 30), given))
        for (value, request), future in zip(given, futures, strict=True):
            found = future.result(20).found
            assert found.boxes[0, 0] == value
            assert found.scores[0] == request.score
    served.stop()
    assert sum(detector.batches) == 300
    assert max(detector.batches) <= 4


def test_what_gathers_while_one_is_seen_is_seen_together() -> None:
    detector = Telling()
    served = worker(detector, batch=8)
    detector.hold.clear()
    futures = [served.submit(picture(k), Request(), 30) for k in range(9)]
    while served._queue.qsize() > 8:
        pass
    detector.hold.set()
    sizes = {future.result(20).batch for future in futures}
    served.stop()
    assert sum(detector.batches) == 9
    assert max(sizes) >= 7  # one may have been taken alone before the others came


def test_a_full_queue_refuses_at_once_and_the_late_are_not_seen() -> None:
    detector = Telling()
    detector.hold.clear()
    served = worker(detector, batch=1, waiting=2)
    first = served.submit(picture(1), Request(), 30)
    while served._queue.qsize():
        pass
    late = served.submit(picture(2), Request(), 0.0)
    kept = served.submit(picture(3), Request(), 30)
    with pytest.raises(BusyError):
        served.submit(picture(4), Request(), 30)
    detector.hold.set()
    assert first.result(20).found.boxes[0, 0] == 1
    assert kept.result(20).found.boxes[0, 0] == 3
    with pytest.raises(LateError):
        late.result(20)
    served.stop()
    assert detector.batches == [1, 1]


def test_an_error_reaches_who_asked_and_ends_nothing() -> None:
    served = worker(Telling(), batch=1)
    with pytest.raises(ValueError, match="breaks"):
        served.submit(picture(255), Request(), 30).result(20)
    assert served.submit(picture(5), Request(), 30).result(20).found.boxes[0, 0] == 5
    served.stop()


def test_stopping_answers_what_was_taken() -> None:
    detector = Telling()
    detector.hold.clear()
    served = worker(detector, batch=2)
    futures = [served.submit(picture(k), Request(), 30) for k in range(7)]
    ender = threading.Thread(target=served.stop)
    ender.start()
    detector.hold.set()
    ender.join(20)
    assert not ender.is_alive()
    assert [future.result(0).found.boxes[0, 0] for future in futures] == list(range(7))


def test_a_detector_of_padded_batches_sees_one_at_a_time() -> None:
    detector = Telling()
    detector.preprocess = boxatlas.Preprocess(size=(8, 8), resize="shorter")
    assert worker(detector, batch=8)._batch == 1


def test_answers_are_those_of_detect() -> None:
    detector: Detector = boxatlas.load("bundled")
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 255, (90 + k, 120, 3), dtype=np.uint8) for k in range(3)]
    request = Request(score=0.01)
    served = Worker("bundled", detector, batch=1)
    for one in pictures:
        found = served.submit(one, request, 60).result(60).found
        assert found == detector.detect(one, score=0.01)
    served.stop()
    together = Worker("bundled", detector, batch=3)
    for future, one in zip(
        [together.submit(one, request, 60) for one in pictures], pictures, strict=True
    ):
        found, alone = future.result(60).found, detector.detect(one, score=0.01)
        torch.testing.assert_close(found.boxes, alone.boxes, atol=0.01, rtol=1e-4)
        assert found.labels.tolist() == alone.labels.tolist()
    together.stop()
