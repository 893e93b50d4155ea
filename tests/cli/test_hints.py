"""Words of other programs lead to ours, and none astray."""

from __future__ import annotations

import pytest


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("train m --epochs 5", "--set epochs=VALUE"),
        ("train m --lr 0.1", "--set lr=VALUE"),
        ("train m --batch 4", "--set batch=VALUE"),
        ("train m --imgsz 416", "--set model.size=VALUE"),
        ("train ssd300_vgg16 --set size=416", "that is an option of the model, model.size"),
        ("train m --resme", "'--resume'"),
        ("detect a.jpg --conf 0.5", "--score"),
        ("detect a.jpg --weights x.pth", "--model"),
        ("predict a.jpg", "boxatlas detect"),
        ("infer a.jpg", "boxatlas detect"),
        ("help", "--help"),
        ("detect a.jpg --model yolov3", "weights list"),
    ],
)
def test_where_a_wrong_word_leads(say, tmp_path, monkeypatch, arguments: str, said: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.jpg").touch()
    code, _, err = say(*arguments.split())
    assert code == 2
    assert said in err.splitlines()[-1]
