"""How much memory each way to compute a lift needs on each device, and which one to take."""

from jaxgeo.linalg.planning.auto import Auto as Auto, Choice as Choice
from jaxgeo.linalg.planning.routes import LiftPlan as LiftPlan, RoutePlan as RoutePlan, plan_lift as plan_lift
