"""Batch, instance, group and layer normalisation."""

from hypothesis.strategies import DrawFn

from .kinds import WIDE, Arguments, Shape, each, kind, maybe, pick, takes

_EPS = (1e-5, 1e-2)
#: Whether there is a bias, beside a weight: an option of new versions.
_BIAS = (None, False) if takes("BatchNorm1d", "bias") else (None,)
_BIAS_OF_GROUPS = (None, False) if takes("GroupNorm", "bias") else (None,)
_BIAS_OF_LAYERS = (None, False) if takes("LayerNorm", "bias") else (None,)


def _statistics(draw: DrawFn, *, tracking: bool, affine: bool) -> Arguments:
    momentum = {"momentum": pick(draw, (0.1, 0.5, 1.0, 0.0))}
    return momentum | each(
        draw,
        affine=(affine, not affine),
        track_running_stats=(tracking, not tracking),
        eps=_EPS,
        bias=_BIAS,
    )


def _several(shape: Shape) -> bool:
    """Training needs more than one value a channel."""
    return shape.sizes[0] > 1


def _batch_statistics(draw: DrawFn) -> Arguments:
    arguments = _statistics(draw, tracking=True, affine=True)
    if arguments["momentum"] == 1.0 and maybe(draw):
        arguments["momentum"] = None  # the cumulative average
    return arguments


@kind("BatchNorm1d", ranks=(2, 3), fits=_several, alike=True)
@kind("BatchNorm2d", ranks=(4,), fits=_several, alike=True)
@kind("BatchNorm3d", ranks=(5,), fits=_several, alike=True)
def batch_norm(draw: DrawFn, shape: Shape) -> Arguments:
    return {"num_features": shape.sizes[1]} | _batch_statistics(draw)


@kind("LazyBatchNorm1d", ranks=(2, 3), fits=_several, alike=True)
@kind("LazyBatchNorm2d", ranks=(4,), fits=_several, alike=True)
@kind("LazyBatchNorm3d", ranks=(5,), fits=_several, alike=True)
def lazy_batch_norm(draw: DrawFn, shape: Shape) -> Arguments:
    return _batch_statistics(draw) | {"first": list(shape.sizes)}


def _instance_statistics(draw: DrawFn) -> Arguments:
    arguments = _statistics(draw, tracking=True, affine=False)
    # With momentum=0 the estimates stay: for batch norm this is drawn, here it adds nothing.
    arguments["momentum"] = arguments["momentum"] or 0.1
    return arguments


def instance_norm(n: int, lazy: bool) -> None:
    """Over n dimensions of space, batched and not; a lazy one takes its features from a batch."""
    name = f"LazyInstanceNorm{n}d" if lazy else f"InstanceNorm{n}d"
    ranks = (n + 2,) if lazy else (n + 1, n + 2)

    # Training needs more than one value an instance.
    @kind(name, ranks=ranks, fits=lambda shape: max(shape.sizes[-n:]) > 1, alike=True)
    def make(draw: DrawFn, shape: Shape) -> Arguments:
        arguments = _instance_statistics(draw)
        if lazy:
            return arguments | {"first": list(shape.sizes)}
        return {"num_features": shape.sizes[-n - 1]} | arguments


for n in (1, 2, 3):
    instance_norm(n, lazy=False)
    instance_norm(n, lazy=True)


@kind("GroupNorm", ranks=(3, 4), fits=lambda shape: max(shape.sizes[1:]) > 1, alike=True)
def group_norm(draw: DrawFn, shape: Shape) -> Arguments:
    channels = shape.sizes[1]
    # Training needs more than one value a group.
    groups = pick(draw, (1, channels)) if max(shape.sizes[2:]) > 1 else 1
    return {"num_groups": groups, "num_channels": channels} | each(
        draw, affine=(True, False), eps=_EPS, bias=_BIAS_OF_GROUPS
    )


@kind("LayerNorm", alike=True)
def layer_norm(draw: DrawFn, shape: Shape) -> Arguments:
    options = each(draw, elementwise_affine=(True, False), eps=_EPS, bias=_BIAS_OF_LAYERS)
    return _normalized(draw, shape) | options


@kind("RMSNorm", alike=True)
def rms_norm(draw: DrawFn, shape: Shape) -> Arguments:
    """Its eps is that of the dtype, if none is given."""
    options = each(draw, elementwise_affine=(True, False), eps=(None, 1e-2))
    return _normalized(draw, shape) | options


def _normalized(draw: DrawFn, shape: Shape) -> Arguments:
    """The last dimension, or the last two."""
    several = list(shape.sizes[-2:]) if len(shape.sizes) > 2 else shape.sizes[-1]
    return {"normalized_shape": pick(draw, (shape.sizes[-1], several))}


@kind("LocalResponseNorm", ranks=(3, 4), dtypes=WIDE, alike=True)
@kind("CrossMapLRN2d", ranks=(4,), dtypes=WIDE, alike=True)
def local_response_norm(draw: DrawFn, shape: Shape) -> Arguments:
    return each(draw, size=(2, 3), alpha=(1e-4, 0.5), beta=(0.75, 1.0), k=(1.0, 2.0))
