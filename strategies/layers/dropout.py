"""The dropout family."""

from hypothesis.strategies import DrawFn

from .kinds import Arguments, Shape, kind, pick

PROBABILITIES = (0.5, 0.2, 0.9, 0.0, 1.0)


@kind("Dropout", "AlphaDropout", ranks=(1, 2, 3, 4), inplace=True, alike=True)
@kind("Dropout1d", ranks=(3,), inplace=True, alike=True)
@kind("Dropout2d", ranks=(4,), inplace=True, alike=True)
@kind("Dropout3d", ranks=(5,), inplace=True, alike=True)
@kind("Dropout1d_unbatched", ranks=(2,), inplace=True, alike=True)
@kind("Dropout3d_unbatched", ranks=(4,), inplace=True, alike=True)
@kind("FeatureAlphaDropout", ranks=(3, 4), inplace=True, alike=True)
def dropout(draw: DrawFn, shape: Shape) -> Arguments:
    return {"p": pick(draw, PROBABILITIES)}
