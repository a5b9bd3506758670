"""Train by integrating a flow as an ODE: solvers, step sizes, events and records."""

from jaxgeo._names import show_public_names as _show_public_names
from jaxgeo.integrate.checkpoint import load_point as load_point, save_point as save_point
from jaxgeo.integrate.comparison import solve_output_flow as solve_output_flow
from jaxgeo.integrate.controller import OutputController as OutputController
from jaxgeo.integrate.corrector import OrbitCorrector as OrbitCorrector
from jaxgeo.integrate.defect import DefectReport as DefectReport, explain_defect as explain_defect
from jaxgeo.integrate.events import (
    ConditionAbove as ConditionAbove,
    GradientBelow as GradientBelow,
    RankBelow as RankBelow,
    TrappingBelow as TrappingBelow,
)
from jaxgeo.integrate.field import PathLengths as PathLengths
from jaxgeo.integrate.interpolation import (
    InterpolationSolution as InterpolationSolution,
    solve_interpolation as solve_interpolation,
)
from jaxgeo.integrate.line import StraightLine as StraightLine
from jaxgeo.integrate.records import LineDeviation as LineDeviation, spectrum_record as spectrum_record
from jaxgeo.integrate.solution import RESULTS as RESULTS, FlowSolution as FlowSolution
from jaxgeo.integrate.solve import solve_flow as solve_flow

_show_public_names(globals())
