"""The dropout family."""

from hypothesis.strategies import DrawFn

from .kinds import Made, Shape, keeping, kind, pick

PROBABILITIES = (0.5, 0.2, 0.9, 0.0, 1.0)


@kind("Dropout", "AlphaDropout")
@kind("Dropout1d", ranks=(3,))
@kind("Dropout2d", "Dropout3d", ranks=(4,))
@kind("FeatureAlphaDropout", ranks=(3, 4))
def dropout(draw: DrawFn, shape: Shape) -> Made:
    return {"p": pick(draw, PROBABILITIES)}, keeping(shape)
