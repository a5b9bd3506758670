"""Linear problems whose Jacobian is a given matrix, and what numpy says of them."""

import equinox as eqx
import jax.numpy as jnp
import numpy as np

import jaxgeo as jg


def with_spectrum(rows, columns, values, dtype=np.float64, seed=0):
    """A (rows, columns) matrix with these singular values and random singular vectors."""
    rng = np.random.default_rng(seed)
    left = np.linalg.qr(rng.standard_normal((rows, len(values))))[0]
    right = np.linalg.qr(rng.standard_normal((columns, len(values))))[0]
    return ((left * values) @ right.T).astype(dtype)


class Row(eqx.Module):
    """x_j = D_j θ, with Q outputs a sample."""

    def __call__(self, params, rows):
        return rows @ params


def linear_problem(matrix, num_outputs=1):
    """A problem whose D is `matrix`, and its parameters."""
    matrix = jnp.asarray(matrix)
    rows, columns = matrix.shape
    shape = (rows // num_outputs, num_outputs)
    targets = jnp.zeros(shape, matrix.dtype)
    return jg.Problem(Row(), matrix.reshape(*shape, columns), jg.L2(targets)), jnp.zeros(columns, matrix.dtype)


def jacobian_of(matrix, num_outputs=1):
    problem, params = linear_problem(matrix, num_outputs)
    return problem.jacobian(params)


@eqx.filter_jit
def solve(solver, matrix, velocity, damping=None):
    """The lift by `solver` through the Jacobian `matrix`; compiled once for each shape."""
    rows = velocity.reshape(-1, 1)
    return solver.solve(jacobian_of(matrix), rows, damping)


def pseudo_inverse(matrix, velocity, cutoff):
    left, values, right = np.linalg.svd(np.asarray(matrix, np.float64), full_matrices=False)
    kept = values > cutoff * values[0]
    weights = np.where(kept, 1 / np.where(kept, values, 1), 0)
    return right.T @ (weights * (left.T @ np.asarray(velocity, np.float64)))


def damped_inverse(matrix, velocity, damping):
    matrix = np.asarray(matrix, np.float64)
    gram = matrix @ matrix.T
    shift = damping * np.trace(gram) / len(gram)
    return matrix.T @ np.linalg.solve(gram + shift * np.eye(len(gram)), np.asarray(velocity, np.float64))


def relative_error(value, reference):
    return float(np.linalg.norm(np.asarray(value, np.float64) - reference) / np.linalg.norm(reference))
