"""The API as a client meets it: what is found, what is refused and how."""

from __future__ import annotations

import re

import httpx
import numpy as np
import pytest
import torch

from boxatlas.parts.base import Detector
from boxatlas.serve.app import Limits

NAMESPACE = "http://www.w3.org/2000/svg"  # a name, which nobody fetches


def boxes(document: dict) -> np.ndarray:
    """x1, y1, x2, y2 of an answer's annotations."""
    rows = np.array([one["bbox"] for one in document["annotations"]], np.float64).reshape(-1, 4)
    return np.concatenate([rows[:, :2], rows[:, :2] + rows[:, 2:]], 1)


def test_an_answer_is_what_detect_finds_in_cocos_layout(running, detector, photo) -> None:
    document = running.client.post("/detect", content=photo).json()
    found = detector.detect(photo)
    assert len(found)
    height, width = found.size
    assert document["images"] == [{"id": 1, "width": width, "height": height}]
    np.testing.assert_allclose(boxes(document), found.boxes.numpy(), atol=0.01)
    names = {one["id"]: one["name"] for one in document["categories"]}
    assert [names[one["category_id"]] for one in document["annotations"]] == found.names
    np.testing.assert_allclose(
        [one["score"] for one in document["annotations"]], found.scores.numpy(), atol=1e-4
    )
    assert "person" in found.names
    for one in document["annotations"]:
        assert one["area"] == pytest.approx(one["bbox"][2] * one["bbox"][3])
    assert document["model"] == "bundled"
    assert document["seconds"] > 0


def test_address_and_form_ask_for_the_same(running, detector: Detector, photo) -> None:
    asked = {"score": 0.05, "classes": ["person", "chair"], "max_detections": 3, "nms_iou": 0.3}
    by_address = running.client.post("/detect", content=photo, params=asked).json()
    form = {k: [str(x) for x in v] if isinstance(v, list) else str(v) for k, v in asked.items()}
    by_form = running.client.post("/detect", files={"file": photo}, data=form).json()
    found = detector.detect(photo, **asked)  # type: ignore[arg-type]
    assert len(found) == 3
    for document in (by_address, by_form):
        np.testing.assert_allclose(boxes(document), found.boxes.numpy(), atol=0.01)


def test_models_and_health(running, detector: Detector) -> None:
    models = running.client.get("/models").json()["models"]
    assert [one["name"] for one in models] == ["bundled", "other"]
    assert models[0]["classes"] == list(detector.classes)
    health = running.client.get("/health")
    assert health.status_code == 200
    assert health.json() == {"ready": True, "models": ["bundled", "other"]}


@pytest.mark.parametrize(
    ("params", "status", "said"),
    [
        ({"score": "7"}, 422, "score: is a number of 0 to 1 (got 7.0)"),
        ({"score": "nan"}, 422, "score: "),
        ({"score": "x"}, 422, "score: input should be a valid number"),
        (
            {"model": "bundle"},
            422,
            "model: is not served here (got 'bundle'); did you mean 'bundled'",
        ),
        ({"classes": "prson"}, 422, "did you mean 'person'"),
        ({"max_detections": "0"}, 422, "max_detections: is a whole number of at least 1"),
        ({"nms_iou": "-1"}, 422, "nms_iou: is a number of 0 to 1"),
    ],
)
def test_a_wrong_value_is_named(running, photo, params, status, said) -> None:
    answer = running.client.post("/detect", content=photo, params=params)
    assert answer.status_code == status
    assert said in answer.json()["error"]
    if "score" in params or "max_detections" in params:
        form = running.client.post("/detect", files={"file": photo}, data=params)
        assert form.status_code == status
        assert next(iter(params)) in form.json()["error"]


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        (b"", 422, "holds no picture"),
        (b"no picture at all", 400, "not an image that can be read"),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 50, 400, "image"),
        (b"\0" * 2_000_001, 413, "2 MB"),
    ],
)
def test_a_bad_picture_is_refused(running, body, status, said) -> None:
    answer = running.client.post("/detect", content=body)
    assert answer.status_code == status
    assert said in answer.json()["error"]
    answer = running.client.post("/detect", files={"file": body})
    assert answer.status_code in (400, 413, 422)


def test_too_many_pixels(running, monkeypatch, photo) -> None:
    monkeypatch.setenv("BOXATLAS_MAX_PIXELS", "1000")
    answer = running.client.post("/detect", content=photo)
    assert answer.status_code == 400
    assert "over the limit of 1,000 pixels" in answer.json()["error"]


def test_a_form_without_a_picture(running) -> None:
    answer = running.client.post("/detect", files={"other": b"x"})
    assert answer.status_code == 422
    assert "file: the form has no picture" in answer.json()["error"]
    headers = {"content-type": "multipart/form-data; boundary=x"}
    answer = running.client.post("/detect", content=b"--y\r\n", headers=headers)
    assert 400 <= answer.status_code < 500
    assert answer.json()["error"]


def test_pages_of_elsewhere_get_nothing(running, photo) -> None:
    other = running.client.post("/detect", content=photo, headers={"Origin": "http://evil.test"})
    assert other.status_code == 403
    named = running.client.get("/models", headers={"Host": "evil.test"})
    assert named.status_code == 403
    own = running.client.post("/detect", content=photo, headers={"Origin": running.address})
    assert own.status_code == 200
    assert "default-src 'self'" in own.headers["content-security-policy"]


def test_the_api_describes_itself_and_shows_it_without_asking_elsewhere(running) -> None:
    document = running.client.get("/openapi.json").json()
    route = document["paths"]["/detect"]["post"]
    names = {one["name"] for one in route["parameters"]}
    assert names == {"model", "score", "classes", "nms_iou", "max_detections"}
    assert set(route["requestBody"]["content"]) == {
        "application/octet-stream",
        "multipart/form-data",
    }
    for path in ("/", "/docs", "/page.js", "/found.js", "/docs.js", "/page.css"):
        text = running.client.get(path).text
        assert set(re.findall(r"""https?://[^\s"'`)]+""", text)) <= {NAMESPACE}, path
        assert not re.search(r"""(src|href)=["']?//""", text), path


def test_examples_are_pictures_with_their_terms(running) -> None:
    examples = running.client.get("/examples").json()
    assert all(one["title"] and one["terms"] for one in examples)
    assert running.client.get("/examples/0").headers["content-type"].startswith("image/")
    assert running.client.get("/examples/99").status_code == 404
    assert running.client.get("/page.css/../app.py").status_code == 404


def test_a_token_is_asked_for(detector: Detector, photo, make_running) -> None:
    service = make_running({"bundled": detector}, Limits(), "secret")
    assert service.client.post("/detect", content=photo).status_code == 200
    with httpx.Client(base_url=service.address) as stranger:
        for headers in ({}, {"Authorization": "Bearer secreT"}, {"Authorization": "Basic secret"}):
            answer = stranger.post("/detect", content=photo, headers=headers)
            assert answer.status_code == 401
            assert stranger.get("/models", headers=headers).status_code == 401
        assert stranger.get("/health").status_code == 200
        assert stranger.get("/").status_code == 200


def test_a_full_queue_is_503_and_a_slow_answer_504(detector: Detector, photo, make_running) -> None:
    from concurrent.futures import ThreadPoolExecutor

    service = make_running({"bundled": detector}, Limits(seconds=60.0, waiting=1, batch=1), None)
    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda _: service.client.post("/detect", content=photo), range(24)))
    codes = [answer.status_code for answer in answers]
    assert set(codes) <= {200, 503}
    assert codes.count(503) > 0
    assert codes.count(200) > 0
    refused = next(answer for answer in answers if answer.status_code == 503)
    assert refused.headers["retry-after"]
    slow = make_running({"bundled": detector}, Limits(seconds=0.001), None)
    assert slow.client.post("/detect", content=photo).status_code == 504


def test_masks_travel(make_running, photo) -> None:
    """A detector with masks answers with run lengths that pycocotools decodes."""
    import boxatlas

    mask_utils = pytest.importorskip("pycocotools.mask")
    torch.manual_seed(0)
    detector = boxatlas.create_model("mask_rcnn320_efficientnet_lite0_fpn", num_classes=2, size=96)
    service = make_running({"masks": detector.eval()}, Limits(), None)
    answer = service.client.post("/detect", content=photo, params={"score": 0, "max_detections": 4})
    document = answer.json()
    found = detector.detect(photo, score=0, max_detections=4)
    assert len(document["annotations"]) == len(found) > 0
    assert found.masks is not None
    for one, mask in zip(document["annotations"], found.masks, strict=True):
        assert (mask_utils.decode(one["segmentation"]).astype(bool) == mask.numpy()).all()
