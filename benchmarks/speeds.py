"""Tables of times: lifts, updates against their floors, beside other work, past one device."""

from typing import Any

from benchmarks.markdown import environment, number, reason, table


def speed(result: dict[str, Any]) -> str:
    rows, lines = result["rows"], []
    ours = rows["jaxgeo"]["median_ms"]
    for name, row in rows.items():
        if "failed" in row:
            lines.append([name, reason(row), "", ""])
            continue
        lines.append([name, *map(number, (row["median_ms"], row["median_ms"] / ours)), f"{row['first_call_s']:.2g}"])
    peak = result.get("peak_memory_mib")
    memory = "" if peak is None else f" Peak memory of the process: {peak / 1024:.2g} GiB."
    summary = (
        f"QN = {result['QN']}, K = {result['K']}, {result['predicted_gflop']:.3g} GFlop predicted for G.{memory} "
        f"{environment(result)}\n"
    )
    return table(["", "ms", "relative to jaxgeo", "first call, s"], lines) + "\n" + summary


def scaling(results: dict[str, Any]) -> str:
    names = {
        "large_products": ("`CG`", "CG"),
        "large_held": ("`CG(hold_gram=True)`", "CG, DDᵀ held"),
        "wide": ("`GramCholesky`", "GramCholesky, float32"),
    }
    lines = []
    for case, (name, label) in names.items():
        result = results[case]
        lift = result["lift"]
        sizes = [str(result["QN"]), str(result["K"]), str(lift["steps"] or "")]
        times = [number(lift["seconds"]), number(result["model_s"])]
        memory = (result["planned_mib"][label], lift["allocated_mib"], result["peak_memory_mib"])
        lines.append([name, *sizes, f"{result['damping']:g}", *times, *(number(size / 1024) for size in memory)])
    machines = " ".join(f"{name}: {environment(results[case])}" for case, (name, _) in names.items())
    header = ["", "QN", "K", "steps", "λ", "seconds", "by the model", "planned, GiB", "allocated", "whole process"]
    rates = ", ".join(
        f"{results[case]['rates']['gflops']:.0f} GFlop/s and {results[case]['rates']['gbytes']:.0f} GB/s"
        for case in names
    )
    summary = f"float32, λ in mean eigenvalues of DDᵀ; rates measured in the same processes: {rates}. {machines}\n"
    return table(header, lines) + "\n" + summary


def _load(result: dict[str, Any]) -> str:
    """Whether the machine did other work too, which no time here takes off."""
    return f"Load of the machine when it began: {number(result['environment']['load_average_before'])}."


def profile(result: dict[str, Any]) -> str:
    lines = []
    for name, row in result["rows"].items():
        parts = ", ".join(f"{part} {number(each)}" for part, each in row["parts_ms"].items())
        work = row["work"]
        gflop = (work["float32"] + work["float64"]) / 1e9
        amounts = [str(row["QN"]), str(row["K"]), row["dtype"], number(gflop), number(work["bytes"] / 1e9)]
        times = map(number, (row["floor_ms"], row["update_ms"], row["ratio"]))
        lines.append([name, *amounts, *times, parts, row["why"]])
    header = ["", "QN", "K", "dtype", "GFlop", "GB", "floor, ms", "measured", "ratio", "parts alone, ms", "above 3 by"]
    speeds = ", ".join(
        f"{speed['gflops']:.0f} GFlop/s and {speed['gbytes']:.0f} GB/s in {dtype}"
        for dtype, speed in result["speeds"].items()
    )
    where = f"{environment(result)} {_load(result)}"
    return table(header, lines) + f"\nMeasured in the same process: {speeds}. {where}\n"


def beside(results: dict[str, Any]) -> str:
    lines = []
    for threads, result in results.items():
        for size, of_size in result["rows"].items():
            for name, row in of_size.items():
                times = map(number, (row["alone_ms"], row["beside_ms"], row["ratio"], row["beside_processor_ms"]))
                lines.append([size, name, threads.replace("_", " "), *times])
    header = ["QN", "", "BLAS threads", "alone, ms", "beside, ms", "ratio", "of the processor, beside"]
    first = next(iter(results.values()))
    return table(header, lines) + f"\n{environment(first)} {_load(first)}\n"
