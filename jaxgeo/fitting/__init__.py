"""`jaxgeo.fit`: train a network by any flow or optimizer, on arrays, a problem or a differential equation.

The package is not called `fit`, so that `jaxgeo.fit` is the function and nothing else.
"""

from jaxgeo._names import show_public_names as _show_public_names
from jaxgeo.fitting.blas import one_blas_thread as one_blas_thread
from jaxgeo.fitting.call import fit as fit
from jaxgeo.fitting.interrupt import Interruptible as Interruptible
from jaxgeo.fitting.loop import Fit as Fit, Progress as Progress
from jaxgeo.fitting.scaling import Scaling as Scaling

_show_public_names(globals())
