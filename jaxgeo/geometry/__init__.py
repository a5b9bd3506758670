"""Geometry of the map from parameters to outputs: rank, metric, curvature, critical points, trapping."""

from jaxgeo._names import show_public_names as _show_public_names
from jaxgeo.geometry.critical import (
    CriticalManifold as CriticalManifold,
    Equilibrium as Equilibrium,
    Walk as Walk,
    critical_manifold as critical_manifold,
    equilibrium as equilibrium,
    nearest_critical as nearest_critical,
    walk_critical as walk_critical,
)
from jaxgeo.geometry.escapes import Escape as Escape, escape as escape, find_escape as find_escape
from jaxgeo.geometry.lanczos import (
    Estimate as Estimate,
    SpectrumEstimate as SpectrumEstimate,
    spectrum_estimate as spectrum_estimate,
)
from jaxgeo.geometry.paths import (
    Ellipse as Ellipse,
    LiftedPath as LiftedPath,
    Segment as Segment,
    holonomy as holonomy,
    lift_path as lift_path,
)
from jaxgeo.geometry.projection import (
    horizontal_projection as horizontal_projection,
    output_projection as output_projection,
)
from jaxgeo.geometry.rank import (
    RankReport as RankReport,
    partial_ranks as partial_ranks,
    rank_report as rank_report,
)
from jaxgeo.geometry.subriemannian import (
    ConstantField as ConstantField,
    HorizontalField as HorizontalField,
    curvature as curvature,
    lie_bracket as lie_bracket,
    nonintegrability as nonintegrability,
    pullback_gradient as pullback_gradient,
    pullback_metric as pullback_metric,
)
from jaxgeo.geometry.trapping import (
    TrappedInterval as TrappedInterval,
    TrappingRecord as TrappingRecord,
    trapped_intervals as trapped_intervals,
    trapping_record as trapping_record,
)

_show_public_names(globals())
