"""The groups of the table by name; each is a function that makes its entries."""

from input_matrix.algebra import algebra
from input_matrix.costs import costs
from input_matrix.estimators import estimators
from input_matrix.geometry import geometry
from input_matrix.integrators import integrators
from input_matrix.optimizers import optimizers
from input_matrix.problems import problems
from input_matrix.ready import ready
from input_matrix.restrained import restrained
from input_matrix.theory import theory
from input_matrix.training import training

GROUPS = {
    each.__name__: each
    for each in (
        costs,
        problems,
        integrators,
        algebra,
        optimizers,
        geometry,
        theory,
        ready,
        training,
        restrained,
        estimators,
    )
}
