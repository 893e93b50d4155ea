"""The runner: filling, comparing, and what it says of broken folders."""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from boxatlas.cli import build, main
from boxatlas.errors import InputError
from boxatlas.verify import OURS, Case, UnsupportedError, fill, find, handlers, run_case
from boxatlas.verify.compare import compare


def make(folder: Path, outputs: list[dict], arrays: dict | None = None, **run) -> Case:
    document = {"run": {"case": "made_up", "outputs": outputs, **run}}
    (folder / "made.json").write_text(json.dumps(document))
    np.savez(folder / "made.npz", **(arrays or {}))
    return Case(folder / "made.json")


def holds(case: Case, value, name: str = "x"):
    (entry,) = [e for e in case.outputs if e["name"] == name]
    return compare(case, entry, np.asarray(value))


# -- filling ----------------------------------------------------------------------------------


def noise(name: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    return np.random.RandomState(zlib.crc32(name.encode()) + seed).standard_normal(shape)


def test_a_tensor_is_made_from_its_name():
    conv = fill.tensor("a.conv.weight", (4, 3, 3, 3), seed=2)
    want = noise("a.conv.weight", (4, 3, 3, 3), 2) * np.sqrt(2 / 27)
    np.testing.assert_array_equal(conv, want.astype(np.float32))
    var = fill.tensor("bn.running_var", (5,))
    np.testing.assert_allclose(var, 1 + 0.5 * np.abs(noise("bn.running_var", (5,), 0)), rtol=1e-6)
    gain = fill.tensor("bn.weight", (5,))
    np.testing.assert_allclose(gain, 1 + 0.1 * noise("bn.weight", (5,), 0), rtol=1e-6)
    bias = fill.tensor("bn.bias", (5,))
    np.testing.assert_allclose(bias, 0.1 * noise("bn.bias", (5,), 0), rtol=1e-6)
    assert fill.tensor("bn.num_batches_tracked", ()).dtype == np.int64


def test_gains_set_and_alias():
    rule = {
        "seed": 0,
        "gains": [[r"^a\.", 2.0], [r"b\.weight$", [1.0, 3.0]]],
        "set": [["bias$", 7.0]],
        "alias": [[r"^c\.[0-9]+\.(.*)$", r"c.0.\1"]],
    }
    shapes = {"a.weight": [2], "b.weight": [2, 2], "a.bias": [3], "c.4.weight": [2]}
    made = fill.weights(rule, shapes)
    np.testing.assert_array_equal(made["a.weight"], 2 * fill.tensor("a.weight", (2,)))
    np.testing.assert_array_equal(made["b.weight"][1], 3 * fill.tensor("b.weight", (2, 2))[1])
    assert made["a.bias"].tolist() == [7, 7, 7]
    np.testing.assert_array_equal(made["c.4.weight"], fill.tensor("c.0.weight", (2,)))


def test_inputs():
    plain = np.random.RandomState(3).standard_normal((2, 5)).astype(np.float32)
    rule = {"shape": [2, 5], "seed": 3, "scale": 2.0, "offset": 1.0}
    np.testing.assert_array_equal(fill.generate({**rule, "rule": "normal"}), plain * 2 + 1)
    np.testing.assert_array_equal(
        fill.generate({**rule, "rule": "unit"}), np.clip(0.5 + 0.25 * plain, 0, 1)
    )
    rank = fill.generate({**rule, "rule": "rank", "scale": 11.0, "offset": 0.0})
    assert sorted(rank.reshape(-1).tolist()) == list(range(1, 11))
    assert rank.argmax() == plain.argmax()
    soft = fill.generate({**rule, "rule": "normal", "activation": "softmax"})
    np.testing.assert_allclose(soft.sum(axis=1), 1, rtol=1e-6)
    added = fill.generate(
        {**rule, "rule": "normal", "add": {"slice": [[1, 2, 1], [0, 5, 2]], "value": -9.0}}
    )
    np.testing.assert_allclose((added - plain * 2 - 1)[1], [-9, 0, -9, 0, -9], atol=1e-5)
    with pytest.raises(InputError, match="did you mean 'normal'"):
        fill.generate({**rule, "rule": "normel"})


# -- comparing --------------------------------------------------------------------------------


def test_close(tmp_path):
    entry = {"name": "x", "value": [1.0, 100.0], "compare": "close", "atol": 0.1, "rtol": 0.01}
    case = make(tmp_path, [entry])
    assert holds(case, [1.1, 101.0]).ok
    wrong = holds(case, [1.2, 100.0])
    assert not wrong.ok
    assert wrong.absolute == pytest.approx(0.2)
    assert wrong.relative == pytest.approx(0.2)
    assert not holds(case, [1.0, np.nan]).ok
    assert "shape [3]" in holds(case, [1.0, 2.0, 3.0]).reason


def test_equal(tmp_path):
    case = make(tmp_path, [{"name": "x", "value": [3, 4], "compare": "equal"}])
    assert holds(case, [3, 4]).ok
    assert not holds(case, [3, 5]).ok


def test_samples_and_sparse_arrays(tmp_path):
    whole = np.arange(1000, dtype=np.float32).reshape(10, 100)
    close = {"shape": [10, 100], "compare": "close", "atol": 0.0, "rtol": 0.0}
    outputs = [
        {"name": "x", "key": "x", "stored": "sample:64", **close},
        {"name": "y", "key": "y", "stored": "sparse", **close},
    ]
    index = np.random.RandomState(1).permutation(1000)[:64]
    arrays = {"x": whole.reshape(-1)[index], "y.index": np.array([7]), "y.value": np.array([2.0])}
    case = make(tmp_path, outputs, arrays)
    assert holds(case, whole).ok
    assert not holds(case, whole + (whole == index[5])).ok
    sparse = np.zeros((10, 100))
    sparse[0, 7] = 2
    assert holds(case, sparse, "y").ok
    sparse[9, 9] = 1  # what is not stored is zero
    assert not holds(case, sparse, "y").ok


def test_sets_match_one_to_one(tmp_path):
    rows = np.array([[1, 0.5], [1, 0.6], [2, 0.9]])
    entry = {
        "name": "x",
        "key": "x",
        "shape": [3, 2],
        "stored": "all",
        "compare": "set",
        "column_atol": [0, 0.15],
        "rtol": 0.0,
    }
    case = make(tmp_path, [entry], {"x": rows})
    # The first row is near both: only one pairing serves all.
    assert holds(case, [[2, 0.9], [1, 0.55], [1, 0.4]]).ok
    assert not holds(case, [[2, 0.9], [1, 0.5], [3, 0.6]]).ok
    assert not holds(case, rows[:2]).ok
    loose = make(tmp_path, [{**entry, "max_unmatched": 1}], {"x": rows})
    assert holds(loose, rows[:2]).ok
    assert not holds(loose, rows[:1]).ok


def test_partitions_and_rows(tmp_path):
    outputs = [
        {"name": "x", "key": "x", "shape": [4], "compare": "equal", "relabel": True},
        {"name": "y", "key": "y", "shape": [2], "compare": "equal", "rows": [0, 2]},
    ]
    case = make(tmp_path, outputs, {"x": np.array([5, 5, 9, 5]), "y": np.array([1, 3])})
    assert holds(case, [0, 0, 1, 0]).ok
    assert not holds(case, [0, 1, 1, 0]).ok
    assert holds(case, [1, 2, 3], "y").ok


# -- running ----------------------------------------------------------------------------------

ONE = {"name": "x", "value": 2.0, "compare": "close", "atol": 0.1, "rtol": 0.0}


def test_the_three_ends_of_a_case(tmp_path):
    case = make(tmp_path, [ONE, {**ONE, "name": "shown", "informational": True}])
    assert run_case(case, lambda _: {"x": 2.05, "shown": 50}).status == "pass"
    assert run_case(case, lambda _: {"x": 3.0, "shown": 2}).status == "fail"
    missing = run_case(case, lambda _: {})
    assert missing.status == "fail"
    assert "x is not computed" in missing.reason
    assert run_case(case, None).status == "unsupported"

    def refuses(_):
        raise UnsupportedError("no such thing here")

    def breaks(_):
        raise ZeroDivisionError("by\nzero")

    assert run_case(case, refuses).status == "unsupported"
    broken = run_case(case, breaks)
    assert (broken.status, broken.reason) == ("fail", "ZeroDivisionError: by zero")


def test_outputs_carry_their_own_parameters(tmp_path):
    entry = {**ONE, "params": {"b": {"y": 3}}, "switches": {"s": 1}}
    case = make(tmp_path, [entry], params={"a": 1, "b": {"x": 1, "y": 2}}, profile="p")
    (merged,) = case.outputs
    assert merged["params"] == {"a": 1, "b": {"x": 1, "y": 3}}
    assert (merged["switches"], merged["profile"]) == ({"s": 1}, "p")
    assert case.params["b"]["y"] == 2


def exits(*arguments: object) -> int:
    with pytest.raises(SystemExit) as end:
        main(["verify", *map(str, arguments)])
    return int(end.value.code or 0)


def test_broken_folders_are_one_line(tmp_path, capsys, parity_dir):
    def says(*arguments: object) -> str:
        assert exits(*arguments) == 2
        shown = capsys.readouterr()
        assert shown.err.count("\n") == 1
        return shown.err

    assert "not a folder" in says(tmp_path / "absent")
    assert "holds no case" in says(tmp_path)
    assert "no case matches" in says(parity_dir, "--only", "op_sssd*")
    (tmp_path / "x.json").write_text("{")
    assert "x.json" in says(tmp_path)
    (tmp_path / "x.json").write_text('{"run": {"outputs": []}}')
    assert "`run` block" in says(tmp_path)
    (tmp_path / "x.json").write_text('{"run": {"case": "focal_loss", "outputs": []}}')
    assert "x.npz" in says(tmp_path)
    (tmp_path / "x.npz").write_bytes(b"not a zip")
    assert "x.npz" in says(tmp_path)
    (tmp_path / "x.npz").unlink()
    (tmp_path / "x.json").unlink()
    make(tmp_path, [ONE])
    (tmp_path / "lonely.npz").write_bytes((tmp_path / "made.npz").read_bytes())
    assert "lonely.npz" in says(tmp_path)


def test_what_nothing_can_run_is_named_and_exits_with_1(tmp_path):
    make(tmp_path, [ONE])
    shown = CliRunner().invoke(build(), ["verify", str(tmp_path)])
    assert shown.exit_code == 1
    assert "made" in shown.stdout
    assert "unsupported" in shown.stdout
    assert shown.stdout.endswith("0 passed, 0 failed, 1 unsupported\n")


def test_json(parity_dir):
    shown = CliRunner().invoke(
        build(), ["verify", str(parity_dir), "--only", "op_smooth_l1", "--json"]
    )
    assert shown.exit_code == 0
    document = json.loads(shown.stdout)
    assert (document["passed"], document["failed"], document["unsupported"]) == (1, 0, 0)
    (case,) = document["cases"]
    assert (case["name"], case["status"]) == ("op_smooth_l1", "pass")
    assert [o["name"] for o in case["outputs"]] == [
        "sigma1",
        "grad_sigma1",
        "sigma3",
        "grad_sigma3",
    ]


def test_without_a_folder_the_packages_own_cases_are_run(tmp_path, monkeypatch):
    """Wherever one stands: an installed package has no checkout around it."""
    monkeypatch.chdir(tmp_path)
    shown = CliRunner().invoke(build(), ["verify", "--only", "op_smooth_l1"])
    assert shown.exit_code == 0, shown.output
    assert shown.stdout.endswith("1 passed, 0 failed, 0 unsupported\n")


def test_every_case_has_a_handler_and_both_halves():
    paths = find(OURS)
    assert len(paths) == len(list(OURS.glob("*.npz"))) > 40
    for path in paths:
        case = Case(path)
        assert case.case in handlers(), case.name
