"""tanh that can be differentiated in only one mode."""

import jax
import jax.numpy as jnp


@jax.custom_vjp
def reverse_tanh(x):
    return jnp.tanh(x)


reverse_tanh.defvjp(lambda x: (jnp.tanh(x),) * 2, lambda value, gradient: (gradient * (1 - value**2),))


def forward_tanh(x):
    """tanh through a loop whose length JAX does not know."""
    return jax.lax.while_loop(lambda carry: carry[0] < 1, lambda carry: (carry[0] + 1, jnp.tanh(carry[1])), (0, x))[1]
