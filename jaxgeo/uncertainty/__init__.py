"""Uncertainty: standard errors, predictive intervals, evidence, and curve fits that report them."""

from jaxgeo._names import show_public_names as _show_public_names
from jaxgeo.uncertainty.curves import CurveFit as CurveFit, curve_fit as curve_fit
from jaxgeo.uncertainty.estimation import posterior as posterior
from jaxgeo.uncertainty.leaves import leaf_names as leaf_names
from jaxgeo.uncertainty.mixtures import Mixture as Mixture, mixture as mixture
from jaxgeo.uncertainty.plan import PosteriorPlan as PosteriorPlan
from jaxgeo.uncertainty.posteriors import Posterior as Posterior
from jaxgeo.uncertainty.prediction import ClassPrediction as ClassPrediction, Prediction as Prediction

_show_public_names(globals())
