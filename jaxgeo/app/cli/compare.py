"""`jaxgeo compare`: the adapted flow and other methods on the user's data, in one figure."""

from pathlib import Path
from typing import Any

import jax.numpy as jnp
from jaxtyping import PyTree
from rich.console import Console
from rich.table import Table

from jaxgeo._signals import SIGNALS
from jaxgeo.app.cli.display import print_table, say, show_setup
from jaxgeo.app.cli.options import resolve, step_tolerance
from jaxgeo.app.cli.work import default_place, prepare_setup
from jaxgeo.app.data import Kind
from jaxgeo.app.runs.folder import RunFolder
from jaxgeo.app.runs.monitor import Monitor, plain
from jaxgeo.app.runs.setup import Setup
from jaxgeo.fitting import Interruptible, Progress, fit
from jaxgeo.fitting.files import to_json
from jaxgeo.fitting.methods import method_named

# Each method with the number of updates between points of its curve; None for a flow.
RIVALS = {"levenberg-marquardt": 1, "adam": 20, "lbfgs": 5, "standard": None}


def compare_command(
    given: dict[str, Any], file: Path | None, seconds: float, out: Path | None, console: Console, hears: Interruptible
) -> int:
    """Train the same network with each method for at most `seconds`, and plot costs and scores over time.

    **Raises:** `ValueError` as `jaxgeo train` does.
    """
    if not seconds > 0:
        raise ValueError(f"--seconds must be positive; got {seconds}.")
    if file is None and not given.get("flow") and not given.get("optimizer"):
        given = {**given, "flow": "adapted"}
    config, task = resolve(given, file)
    if not config.flow:
        raise ValueError("compare runs a flow against optimizers; choose it with --flow, and leave --optimizer out.")
    setup = prepare_setup(config, task, console)
    place = default_place(task)
    place = place.with_name(f"{place.name}-compare") if out is None else out
    with RunFolder.create(place, fresh_name=out is None) as folder, SIGNALS.training(hears):
        return _compare(setup, folder, seconds, console, hears)


def _compare(setup: Setup, folder: RunFolder, seconds: float, console: Console, hears: Interruptible) -> int:
    config, task = setup.config, setup.task
    show_setup(console, setup)
    curves: dict[str, list[dict[str, float]]] = {}
    endings: dict[str, str] = {}
    for name, every in {config.flow: None, **RIVALS}.items():
        if hears.interrupted or name in curves:
            continue
        with console.status(f"{name}: at most {seconds:g} s"):
            curve, ending = _curve(setup, name, every, seconds, hears)
        if curve:
            curves[name], endings[name] = curve, ending
    score = "test_accuracy" if task.kind is Kind.CLASSIFICATION else "test_rmse"
    found = {"score": score, "baseline": task.baseline, "seconds": seconds, "endings": endings, "curves": curves}
    folder.write_text("compare.toml", config.to_toml())
    folder.write_text("compare.json", to_json(found, indent=1))
    # matplotlib loads slowly, so import it only when needed.
    from jaxgeo.app.report.figures import comparison_figure

    folder.write_text("compare.svg", comparison_figure(curves, score, task.baseline))
    table = Table("method", "ended", "seconds", "C/C(0)", score.replace("_", " "), box=None, header_style="bold")
    for name, curve in curves.items():
        last = curve[-1]
        table.add_row(
            name, endings[name], f"{last['seconds']:.1f}", f"{last['cost'] / setup.cost0:.2e}", plain(last[score])
        )
    print_table(console, table)
    console.print("Times were measured on this machine and include compilation.", highlight=False)
    say(console, "figure ", str(folder.path / "compare.svg"))
    return (SIGNALS.code or 130) if hears.interrupted else 0


def _curve(
    setup: Setup, name: str, every: int | None, seconds: float, hears: Interruptible
) -> tuple[list[dict[str, float]], str]:
    """The rows recorded after each part, with the elapsed seconds, and how the run ended."""
    points: list[dict[str, float]] = []

    def note(progress: Progress, model: PyTree) -> bool:
        points.append({"seconds": progress.seconds, **progress.row})
        return progress.seconds >= seconds

    config, task = setup.config, setup.task
    rtol = config.rtol if every is None else None
    if rtol == step_tolerance(config.flow, task, config.hidden, config.precision):
        # The default of one flow is not that of another.
        rtol = step_tolerance(name, task, config.hidden, config.precision)
    found = fit(
        setup.network,
        task.train_inputs,
        jnp.asarray(task.train_targets, setup.network.layers[0].weight.dtype),
        method=method_named(name),
        tol=config.tol,
        rtol=rtol,
        max_steps=10**9,
        record_every=every,
        seed=config.seed,
        record=Monitor(task, setup.network),
        callbacks=[note],
        rank_check=False,
        interruptible=hears,
    )
    if found.rows:
        points.insert(0, {"seconds": 0.0, **found.rows[0]})
    return points, "out of time" if found.outcome.value == "stopped" else found.outcome.value
