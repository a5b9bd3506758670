"""Training runs: a network, integrated along a flow in parts, and the folder in which the run is kept."""

from jaxgeo.training.config import Config as Config
from jaxgeo.training.folder import RunFolder as RunFolder
from jaxgeo.training.interrupt import Interruptible as Interruptible
from jaxgeo.training.monitor import Monitor as Monitor
from jaxgeo.training.parts import Outcome as Outcome, Part as Part, integrate_in_parts as integrate_in_parts
from jaxgeo.training.run import Run as Run, load as load
from jaxgeo.training.train import Setup as Setup, prepare as prepare, train as train
