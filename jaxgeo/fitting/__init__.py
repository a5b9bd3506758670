"""`jaxgeo.fit`: a network trained by any flow or optimizer, on arrays, a problem or a differential equation.

The package has not the name of its function, so that `jaxgeo.fit` is that function and nothing else.
"""

from jaxgeo._names import show_public_names as _show_public_names
from jaxgeo.fitting.call import fit as fit
from jaxgeo.fitting.interrupt import Interruptible as Interruptible
from jaxgeo.fitting.loop import Fit as Fit, Progress as Progress
from jaxgeo.fitting.scaling import Scaling as Scaling

_show_public_names(globals())
