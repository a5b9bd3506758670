"""DDᵀ without D, from the factors of each leaf: find the uses of leaves, group them, multiply and assemble.

Read the modules in the order uses, views, products, tracing, kronecker, layout, plan, assembly, ring, gram.
"""

from jaxgeo.linalg.gram.gram import Gram as Gram
from jaxgeo.linalg.gram.plan import GramPlan as GramPlan, LeafPlan as LeafPlan
