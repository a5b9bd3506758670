"""Training runs: `fit`, and the folder in which a run of the command line is kept."""

from jaxgeo.training.checkpoints import Checkpoints as Checkpoints
from jaxgeo.training.config import Config as Config
from jaxgeo.training.drivers import Outcome as Outcome
from jaxgeo.training.files import write_text as write_text
from jaxgeo.training.fitting import fit as fit
from jaxgeo.training.folder import RunFolder as RunFolder
from jaxgeo.training.interrupt import Interruptible as Interruptible
from jaxgeo.training.loop import Fit as Fit, Progress as Progress
from jaxgeo.training.methods import (
    FLOWS as FLOWS,
    OPTIMIZERS as OPTIMIZERS,
    flow_named as flow_named,
    method_named as method_named,
    optimizer_named as optimizer_named,
)
from jaxgeo.training.monitor import Monitor as Monitor, kept_row as kept_row, plain as plain
from jaxgeo.training.run import Run as Run, load as load
from jaxgeo.training.train import Setup as Setup, environment as environment, prepare as prepare, train as train
