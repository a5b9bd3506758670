"""A flow as an ODE: integration, step sizes and stopping."""

from jaxgeo.integrate.controller import OutputController as OutputController
from jaxgeo.integrate.corrector import OrbitCorrector as OrbitCorrector
from jaxgeo.integrate.solution import RESULTS as RESULTS, FlowSolution as FlowSolution
from jaxgeo.integrate.solve import solve_flow as solve_flow
