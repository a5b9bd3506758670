"""What each route to a lift would hold on each device, and which one is taken."""

from jaxgeo.linalg.planning.auto import Auto as Auto, Choice as Choice
from jaxgeo.linalg.planning.routes import LiftPlan as LiftPlan, RoutePlan as RoutePlan, plan_lift as plan_lift
