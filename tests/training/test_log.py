"""metrics.csv through stops: later rows forgotten, half lines dropped, columns added."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch

from boxatlas.training.log import Meter, MetricsTable


def read(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_rows_after_the_position_and_half_rows_are_forgotten(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    table = MetricsTable(path)
    for step in (10, 20, 30):
        table.add({"phase": 0, "iteration": step, "loss": 1 / step})
    with open(path, "a") as file:
        file.write("0,4")  # killed while writing
    again = MetricsTable(path)
    again.resume(0, 20)
    again.add({"phase": 0, "iteration": 30, "loss": 0.5})
    rows = read(path)
    assert [row["iteration"] for row in rows] == ["10", "20", "30"]
    assert [row["loss"] for row in rows] == ["0.1", "0.05", "0.5"]


def test_new_columns_are_added_to_what_is_there(tmp_path: Path) -> None:
    table = MetricsTable(tmp_path / "metrics.csv")
    table.add({"phase": 0, "iteration": 1, "loss": 2.0})
    table.add({"phase": 0, "iteration": 2, "mAP": 0.25})
    table.add({"phase": 1, "iteration": 1, "loss": 3.0})
    rows = read(tmp_path / "metrics.csv")
    assert [row["loss"] for row in rows] == ["2", "", "3"]
    assert [row["mAP"] for row in rows] == ["", "0.25", ""]
    again = MetricsTable(tmp_path / "metrics.csv")
    again.resume(0, 1000)  # a later phase comes after every row of an earlier one
    assert [row["phase"] for row in read(tmp_path / "metrics.csv")] == ["0", "0"]


def test_the_meter_gives_means_over_iterations() -> None:
    meter = Meter()
    for value in (1.0, 3.0):  # two iterations, each in two halves
        for half in (value - 0.5, value + 0.5):
            meter.add({"a": torch.tensor(half), "b": torch.tensor(1.0)}, 0.5)
        meter.step(8)
    reading = meter.read()
    assert (reading["a"], reading["b"], reading["loss"]) == pytest.approx((2.0, 1.0, 3.0))
    assert reading["images_per_second"] > 0
    assert meter.read()["loss"] == 0
