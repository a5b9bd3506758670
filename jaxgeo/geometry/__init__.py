"""Geometry of the map from parameters to outputs, at a point."""

from jaxgeo.geometry.projection import (
    horizontal_projection as horizontal_projection,
    output_projection as output_projection,
)
from jaxgeo.geometry.rank import RankReport as RankReport, rank_report as rank_report
