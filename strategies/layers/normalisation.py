"""Batch, instance, group and layer normalisation."""

from hypothesis.strategies import DrawFn

from .kinds import WIDE, Arguments, Made, Shape, keeping, kind, maybe, pick


def _statistics(draw: DrawFn, shape: Shape, *, tracking: bool, affine: bool) -> Arguments:
    return {
        "num_features": shape.sizes[1],
        "momentum": pick(draw, (0.1, 0.5, 1.0, 0.0)),
        "affine": affine is not maybe(draw),
        "track_running_stats": tracking is not maybe(draw),
    }


def _several(shape: Shape) -> bool:
    """Training needs more than one value a channel."""
    return shape.sizes[0] > 1


@kind("BatchNorm1d", ranks=(2, 3), fits=_several)
@kind("BatchNorm2d", ranks=(4,), fits=_several)
def batch_norm(draw: DrawFn, shape: Shape) -> Made:
    arguments = _statistics(draw, shape, tracking=True, affine=True)
    if arguments["momentum"] == 1.0 and maybe(draw):
        arguments["momentum"] = None  # the cumulative average
    return arguments, keeping(shape)


def _spatial(shape: Shape) -> bool:
    """Training needs more than one value an instance."""
    space = shape.sizes[2:]
    return max(space) > 1


@kind("InstanceNorm1d", ranks=(3,), fits=_spatial)
@kind("InstanceNorm2d", ranks=(4,), fits=_spatial)
def instance_norm(draw: DrawFn, shape: Shape) -> Made:
    arguments = _statistics(draw, shape, tracking=True, affine=False)
    # With momentum=0 the estimates stay: for batch norm this is drawn, here it adds nothing.
    arguments["momentum"] = arguments["momentum"] or 0.1
    return arguments, keeping(shape)


@kind("GroupNorm", ranks=(3, 4), fits=lambda shape: max(shape.sizes[1:]) > 1)
def group_norm(draw: DrawFn, shape: Shape) -> Made:
    arguments = {"num_groups": 1, "num_channels": shape.sizes[1], "affine": not maybe(draw)}
    return arguments, keeping(shape)


@kind("LayerNorm", "RMSNorm")
def layer_norm(draw: DrawFn, shape: Shape) -> Made:
    arguments = {"normalized_shape": shape.sizes[-1], "elementwise_affine": not maybe(draw)}
    return arguments, keeping(shape)


@kind("LocalResponseNorm", ranks=(3, 4), dtypes=WIDE)
def local_response_norm(draw: DrawFn, shape: Shape) -> Made:
    return {"size": 2}, keeping(shape)
