"""Numbers within sentences of the documents, from the results.

A document has a number between `<!-- value: NAME -->` and `<!-- end -->`, which no reader sees. `VALUES` says from
which result, and how, each is written. A marker must not begin a line, because Markdown would take the line for HTML.
"""

import functools
import json
import re
import statistics
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from benchmarks.harness import RESULTS

Result = dict[str, Any]
PLACE = re.compile(r"(<!-- value: (\w+) -->)(.*?)(<!-- end -->)", re.DOTALL)
WORDS = ["no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]


def short(value: float, digits: int = 1) -> str:
    """A small number with an exponent, such as 3.5e-6."""
    return f"{value:.{digits}e}".replace("e-0", "e-")


def grouped(value: float) -> str:
    """A whole number with a space between groups of three digits from 10 000 on."""
    return f"{value:,.0f}".replace(",", "\N{NO-BREAK SPACE}" if value >= 10_000 else "")


def rounded(value: float) -> str:
    """A number with one digit that counts, such as 100."""
    return f"{float(f'{value:.1g}'):g}"


def listed(values: Iterable[str]) -> str:
    """1, 2 and 3."""
    *first, last = values
    return f"{', '.join(first)} and {last}" if first else last


def _runs(result: Result, case: str, optimizer: str = "adapted_levenberg_marquardt") -> list[Result]:
    return result[case]["rows"][optimizer]["runs"]


def _good(result: Result, case: str) -> list[float]:
    """The errors of the starts that end far below the others: all before the widest gap."""
    errors = sorted(run["error"] for run in _runs(result, case))
    last = max(range(1, len(errors)), key=lambda k: errors[k] / errors[k - 1])
    return errors[:last]


def _others(result: Result, case: str) -> str:
    errors = sorted(run["error"] for run in _runs(result, case))
    return listed(short(error) for error in errors[len(_good(result, case)) :])


def _seconds(result: Result, case: str, optimizer: str = "adapted_levenberg_marquardt") -> str:
    return f"{max(run['seconds'] for run in _runs(result, case, optimizer)):.0f}"


def _reached(result: Result, optimizer: str, cost: str) -> float:
    return result[optimizer]["row"]["reached"][cost]["seconds"]


def _rivals(result: Result) -> list[Result]:
    """The runs on MNIST by optimizers from elsewhere."""
    return [case["row"] for name, case in result.items() if "." in name and "curve" in case["row"]]


def _lbfgs_ahead(result: Result) -> str:
    """The lowest cost that L-BFGS reaches before jaxgeo."""
    ours, theirs = (result[name]["row"]["reached"] for name in ("adapted_levenberg_marquardt", "optax.lbfgs()"))
    ahead = [cost for cost, at in theirs.items() if at and at["seconds"] < ours[cost]["seconds"]]
    return short(min(map(float, ahead)), 0)


def _step_seconds(result: Result) -> str:
    run = result["adapted_levenberg_marquardt"]["row"]
    return f"{run['seconds'] / run['steps']:.0f}"


def _lift_in_gradients(result: Result, name: str) -> str:
    rows = result["a"]["rows"]
    return rounded(rows[name]["median_ms"] / rows["gradient"]["median_ms"])


def _evaluations(result: Result, solver: str) -> str:
    """Evaluations of the model for each update, in the median of the fits."""
    runs = [run for part in result.values() for fit in part["fits"].values() for run in fit[solver].values()]
    return f"{statistics.median(run['evaluations'] / run['updates'] for run in runs if run.get('evaluations')):.1f}"


def _beside(result: Result, kind: str) -> str:
    """The largest ratio of the rows whose names have `kind` after the first comma."""
    rows = [row for size in result["default"]["rows"].values() for row in size.items()]
    return f"{max(row['ratio'] for name, row in rows if name.partition(', ')[2] == kind):.1f}"


class Spirals(NamedTuple):
    """Errors at the end of the runs of one network: from the spirals behind the noise, and from other starts."""

    ours: tuple[float, float]
    adam: tuple[float, float]


def _spirals(result: Result) -> list[Spirals]:
    """For Adam the least of each error at any of its rates."""
    found = []
    for runs in result["spirals"]["seeds"].values():
        adam = [run[-1] for name, run in runs.items() if name.startswith("optax.adam")]
        ours = runs["adapted_levenberg_marquardt"][-1]
        found.append(Spirals((ours[3], ours[4]), (min(end[3] for end in adam), min(end[4] for end in adam))))
    return found


def _worse_elsewhere(result: Result) -> list[Spirals]:
    return [each for each in _spirals(result) if each.ours[1] > each.adam[1]]


def _first_update(result: Result) -> str:
    seconds = [runs["adapted_levenberg_marquardt"][0][1] for runs in result["spirals"]["seeds"].values()]
    return f"{min(seconds):.0f} to {max(seconds):.0f}"


def _by_the_model(result: Result) -> list[float]:
    """How much longer than by the model each lift took."""
    return [row["lift"]["seconds"] / row["model_s"] for row in result.values()]


def _grown(result: Result, method: str) -> str:
    """MiB after the first 2000 updates."""
    rows = {row["updates"]: row["resident_mib"] for row in result["updates"]["methods"][method]}
    return f"{rows[10_000] - rows[2000]:.1f}"


def _round(result: Result, name: str) -> float:
    rows = result["shapes"]["rounds"][name]["rows"]
    return rows[-1]["resident_mib"] - rows[0]["resident_mib"]


def _gram_ms(result: Result, part: str, case: str = "gram_4096_8") -> str:
    return f"{result[case][part]['float64']['median_ms']:.1f}"


def _tflops(result: Result, part: str, dtype: str = "float64", case: str = "gram_4096_8") -> str:
    return f"{result[case][part][dtype]['tflops']:.0f}"


def _lifts(result: Result) -> list[tuple[Result, Result]]:
    """The rows of all lifts without a dense D, each with that of its gradient."""
    cases = [found["rows"] for case, found in result.items() if case.startswith("step_")]
    return [(rows[name], rows["gradient"]) for rows in cases for name in ("jaxgeo", "jaxgeo, default solver")]


def _lifts_in_gradients(result: Result) -> str:
    found = [lift["median_ms"] / gradient["median_ms"] for lift, gradient in _lifts(result)]
    return f"{min(found):.0f} to {max(found):.0f}"


def _after(result: Result, case: str, updates: int) -> tuple[str, str]:
    """The error after this many updates, and the seconds."""
    _, seconds, error = next(point for point in result[case]["errors"] if point[0] == updates)
    return short(error), f"{seconds:.1f}"


def _ends(result: Result, case: str, optimizer: str) -> list[float]:
    """The held-out loss of each start at the end."""
    return [run[-1][2] for run in _runs(result, case, optimizer)]


def _ended(result: Result, case: str, optimizer: str) -> float:
    return statistics.median(_ends(result, case, optimizer))


def _in_adamw(result: Result) -> str:
    """The memory of an update, relative to AdamW, for each network."""
    return listed(f"{row['adapted_momentum'] / row['optax.adamw']:.1f}" for row in result["memory"]["mib"].values())


def _seconds_an_update(result: Result, case: str) -> str:
    (run,) = _runs(result, case)
    return f"{run['seconds'] / run['updates']:.0f}"


class Value(NamedTuple):
    """A number from the results of a module."""

    module: str
    write: Callable[[Result], str]


# About the fits from several starts.
OF_FITS: dict[str, Callable[..., str]] = {
    "starts": lambda r, case: WORDS[len(_runs(r, case, "jaxgeo.fit"))],
    "least": lambda r, case: short(min(run["error"] for run in _runs(r, case, "jaxgeo.fit"))),
    "median": lambda r, case: short(r[case]["rows"]["jaxgeo.fit"]["median_error"]),
    "worst": lambda r, case: short(r[case]["rows"]["jaxgeo.fit"]["worst_error"]),
    "seconds": lambda r, case: _seconds(r, case, "jaxgeo.fit"),
    "rank": lambda r, case: str(max(run["rank"] for run in _runs(r, case, "jaxgeo.fit"))),
}

VALUES = {
    "front_jaxgeo": Value(
        "equations", lambda r: short(r["poisson_2d"]["rows"]["adapted_levenberg_marquardt"]["median_error"], 0)
    ),
    "front_lbfgs": Value("equations", lambda r: short(r["poisson_2d"]["rows"]["optax.lbfgs()"]["median_error"], 0)),
    "front_adam": Value("equations", lambda r: short(r["poisson_2d"]["rows"]["optax.adam(1e-03)"]["median_error"], 0)),
    "front_starts": Value("equations", lambda r: WORDS[len(_runs(r, "poisson_2d"))]),
    **{
        f"poisson_5d_{name}": Value("equations", functools.partial(write, case="poisson_5d"))
        for name, write in (
            ("starts", lambda r, case: WORDS[len(_runs(r, case))]),
            ("good_starts", lambda r, case: WORDS[len(_good(r, case))]),
            ("good", lambda r, case: short(max(_good(r, case)))),
            ("others", _others),
            ("seconds", _seconds),
        )
    },
    **{
        f"{case}_{name}": Value("equations", functools.partial(OF_FITS[name], case=case))
        for case, third in (
            ("burgers_1d", "least"),
            ("burgers_1d_smooth", "median"),
            ("burgers_1d_wide", "median"),
            ("helmholtz_2d", "median"),
            ("helmholtz_2d_box", "median"),
        )
        for name in ("starts", "worst", "seconds", third)
    },
    "harmonic_10d_step": Value("equations", lambda r: _seconds_an_update(r, "harmonic_10d")),
    "harmonic_10d_memory": Value("equations", lambda r: f"{r['harmonic_10d']['peak_memory_mib'] / 1024:.1f}"),
    "burgers_1d_wide_rank": Value("equations", functools.partial(OF_FITS["rank"], case="burgers_1d_wide")),
    "mnist_seconds": Value("mnist", lambda r: f"{_reached(r, 'adapted_levenberg_marquardt', '1e-06'):.0f}"),
    "mnist_seconds_to_the_end": Value("mnist", lambda r: f"{_reached(r, 'adapted_levenberg_marquardt', '1e-20'):.0f}"),
    "mnist_lbfgs_seconds": Value("mnist", lambda r: f"{_reached(r, 'optax.lbfgs()', '1e-06'):.0f}"),
    "mnist_lbfgs_ahead": Value("mnist", _lbfgs_ahead),
    "mnist_rivals_least": Value(
        "mnist", lambda r: short(min(point[2] for run in _rivals(r) for point in run["curve"]), 0)
    ),
    "mnist_rivals_seconds": Value("mnist", lambda r: f"{min(run['seconds'] for run in _rivals(r)):.0f}"),
    "mnist_step_seconds": Value("mnist", _step_seconds),
    "digits_lbfgs_seconds": Value(
        "optimizers", lambda r: f"{r['digits']['rows']['optax.lbfgs()'][0]['reached']['1e-06']['seconds']:.0f}"
    ),
    "lift_parameters": Value("lift_speed", lambda r: grouped(r["a"]["K"])),
    "lift_samples": Value("lift_speed", lambda r: grouped(r["a"]["N"])),
    "lift_in_gradients": Value("lift_speed", lambda r: _lift_in_gradients(r, "jaxgeo")),
    "dense_lift_in_gradients": Value("lift_speed", lambda r: _lift_in_gradients(r, "dense Jacobian")),
    "fits_evaluations": Value("fits", lambda r: _evaluations(r, "jaxgeo")),
    "fits_evaluations_minpack": Value("fits", lambda r: _evaluations(r, "lm")),
    "mgh09_digits": Value(
        "fits",
        lambda r: listed(f"{r['curves']['fits']['mgh09'][name]['far']['digits']:.1f}" for name in ("jaxgeo", "lm")),
    ),
    "mgh09_updates": Value(
        "fits", lambda r: listed(str(r["curves"]["fits"]["mgh09"][name]["far"]["updates"]) for name in ("jaxgeo", "lm"))
    ),
    "beside_ratio": Value("beside", lambda r: _beside(r, "")),
    "beside_lapack_ratio": Value("beside", lambda r: _beside(r, "LAPACK")),
    "beside_few_ratio": Value("beside", lambda r: _beside(r, "few parameters")),
    "beside_fit_ratio": Value("beside", lambda r: _beside(r, "few parameters, as in jg.fit")),
    "estimator_rows": Value("estimators", lambda r: grouped(r["numbers"]["tables"]["diabetes"]["trained_rows"])),
    "estimator_seconds": Value(
        "estimators", lambda r: f"{r['numbers']['tables']['diabetes']['JaxgeoRegressor']['cpu_s']:.1f}"
    ),
    "spirals_parameters": Value("neural_ode", lambda r: grouped(r["spirals"]["K"])),
    "spirals_seconds": Value("neural_ode", lambda r: f"{r['spirals']['budget_cpu_s']:.0f}"),
    "spirals_first_update": Value("neural_ode", _first_update),
    "spirals_networks": Value("neural_ode", lambda r: WORDS[len(_spirals(r))]),
    "spirals_jaxgeo": Value("neural_ode", lambda r: listed(f"{each.ours[0]:.4f}" for each in _spirals(r))),
    "spirals_adam": Value("neural_ode", lambda r: listed(f"{each.adam[0]:.4f}" for each in _spirals(r))),
    "spirals_worse": Value("neural_ode", lambda r: WORDS[len(_worse_elsewhere(r))]),
    "spirals_elsewhere": Value(
        "neural_ode",
        lambda r: listed(f"{each.ours[1]:.3f} against {each.adam[1]:.3f}" for each in _worse_elsewhere(r)),
    ),
    "scaling_least": Value("scaling", lambda r: f"{min(_by_the_model(r)):.1f}"),
    "scaling_most": Value("scaling", lambda r: f"{max(_by_the_model(r)):.1f}"),
    "scaling_process": Value(
        "scaling", lambda r: f"{r['large_held']['peak_memory_mib'] / r['large_held']['lift']['allocated_mib']:.1f}"
    ),
    "memory_momentum": Value("memory", lambda r: _grown(r, "adapted-momentum")),
    "memory_adam": Value("memory", lambda r: _grown(r, "adam")),
    "memory_programs": Value("memory", lambda r: grouped(r["shapes"]["rounds"]["new shapes"]["compiled_or_read"])),
    "memory_of_programs": Value("memory", lambda r: f"{_round(r, 'new shapes') / 1024:.1f}"),
    "memory_again": Value("memory", lambda r: f"{_round(r, 'the same again'):.1f}"),
    "memory_third": Value("memory", lambda r: f"{_round(r, 'the same a third time'):.1f}"),
    "minibatches_table": Value("minibatches", lambda r: short(_ended(r, "table", "adapted_momentum"), 0)),
    "minibatches_table_adamw": Value("minibatches", lambda r: short(_ended(r, "table", "optax.adamw"), 0)),
    "minibatches_table_worst": Value("minibatches", lambda r: short(max(_ends(r, "table", "adapted_momentum")), 0)),
    "characters_jaxgeo": Value("minibatches", lambda r: f"{_ended(r, 'characters', 'adapted_momentum'):.2f}"),
    "characters_adamw": Value("minibatches", lambda r: f"{_ended(r, 'characters', 'optax.adamw'):.2f}"),
    "characters_parameters": Value("minibatches", lambda r: grouped(r["characters"]["parameters"])),
    "minibatches_memory": Value("minibatches", _in_adamw),
    "viscosity_draws": Value("error_bars", lambda r: str(len(r["burgers"]["draws"]))),
    "viscosity_within": Value("error_bars", lambda r: str(r["burgers"]["within_two"])),
    "viscosity_error": Value("error_bars", lambda r: short(r["burgers"]["mean_standard_error"], 2)),
    "viscosity_spread": Value("error_bars", lambda r: short(r["burgers"]["spread"], 2)),
    "viscosity_exact": Value("error_bars", lambda r: short(r["burgers"]["standard_error_if_the_equation_holds"], 2)),
    "viscosity_left": Value(
        "error_bars", lambda r: f"{statistics.median(draw['equation_rms'] for draw in r['burgers']['draws']):.4f}"
    ),
    "directions_parameters": Value("error_bars", lambda r: grouped(r["many rows"]["K"])),
    "directions_rows": Value("error_bars", lambda r: grouped(r["many rows"]["QN"])),
    "directions_inputs": Value("error_bars", lambda r: grouped(r["many rows"]["inputs"])),
    "directions_seconds": Value("error_bars", lambda r: f"{r['many rows']['posterior_s']:.0f}"),
    "directions_predict": Value("error_bars", lambda r: f"{r['many rows']['predict_s']:.0f}"),
    "directions_memory": Value("error_bars", lambda r: f"{r['many rows']['peak_memory_mib'] / 1024:.1f}"),
    "directions_missed": Value("error_bars", lambda r: f"{r['many rows']['missed']:.2f}"),
    "directions_effective": Value("error_bars", lambda r: f"{r['many rows']['num_effective']:.1f}"),
    "page_error": Value("differential", lambda r: short(r["burgers"]["error"])),
    "page_cost": Value("differential", lambda r: short(r["burgers"]["cost"])),
    "page_held_out": Value("differential", lambda r: short(r["burgers"]["validation_cost"])),
    "page_residual": Value("differential", lambda r: short(r["burgers"]["residual_rms"])),
    "page_drawn": Value("differential", lambda r: str(r["burgers"]["drawn"])),
    "page_minutes": Value("differential", lambda r: f"{r['burgers']['case_s'] / 60:.1f}"),
    "page_viscosity_minutes": Value("differential", lambda r: f"{r['viscosity']['case_s'] / 60:.1f}"),
    "page_viscosity": Value("differential", lambda r: f"{r['viscosity']['found']:.8f}"),
    "page_viscosity_error": Value("differential", lambda r: short(r["viscosity"]["relative_error"], 0)),
    "page_viscosity_solution": Value("differential", lambda r: short(r["viscosity"]["error"])),
    # Compilation included.
    "gpu_first_call": Value("gpu", lambda r: f"{max(lift['first_call_s'] for lift, _ in _lifts(r)):.0f}"),
    "gpu_in_gradients": Value("gpu", _lifts_in_gradients),
    "gpu_float64": Value("gpu", lambda r: _tflops(r, "matmul")),
    "gpu_float32": Value("gpu", lambda r: _tflops(r, "matmul", "float32")),
    "gpu_gram": Value("gpu", lambda r: _gram_ms(r, "gram")),
    "gpu_gram_speed": Value("gpu", lambda r: _tflops(r, "gram")),
    "gpu_gram_one": Value("gpu", lambda r: _gram_ms(r, "gram", "gram_4096_1")),
    "gpu_gram_one_speed": Value("gpu", lambda r: _tflops(r, "gram", case="gram_4096_1")),
    "gpu_cholesky": Value("gpu", lambda r: _gram_ms(r, "cholesky")),
    "gpu_cholesky_speed": Value("gpu", lambda r: _tflops(r, "cholesky")),
    "gpu_planned": Value("gpu", lambda r: f"{r['update']['predicted_gflop']:.0f}"),
    "gpu_least": Value(
        "gpu", lambda r: f"{r['update']['predicted_gflop'] / r['gram_4096_8']['matmul']['float64']['tflops']:.1f}"
    ),
    "gpu_took": Value("gpu", lambda r: f"{r['update']['rows']['structured Gram']['median_ms']:.1f}"),
    **{
        f"gpu_{case}_{name}_{updates}": Value(
            "gpu", lambda r, case=case, updates=updates, place=place: _after(r, case, updates)[place]
        )
        for case, updates in (("p5", 120), ("p5", 2280), ("p10", 50), ("p10", 135))
        for place, name in enumerate(("error", "seconds"))
    },
    "gpu_p10_update": Value("gpu", lambda r: f"{1e3 * r['p10']['seconds'] / r['p10']['updates']:.0f}"),
    "diffusivity_error": Value("differential", lambda r: short(r["diffusivity"]["exact"]["relative_error"], 0)),
    "diffusivity_deviations": Value("differential", lambda r: f"{abs(r['diffusivity']['noisy']['deviations']):.1f}"),
}


@functools.cache
def _result(module: str) -> Result:
    return json.loads((RESULTS / f"{module}.json").read_text())


def filled(text: str) -> str:
    """A document with its numbers written again."""

    def place(match: re.Match[str]) -> str:
        start, name, _, end = match.groups()
        value = VALUES[name]
        return start + value.write(_result(value.module)) + end

    return PLACE.sub(place, text)
