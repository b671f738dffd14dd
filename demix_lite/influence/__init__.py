"""Influence vectors, exact and fast."""

from demix_lite.influence.vectors import (
    CHANNELS,
    InfluenceSource,
    InfluenceVectors,
    influence_vectors,
)

__all__ = ["CHANNELS", "InfluenceSource", "InfluenceVectors", "influence_vectors"]
