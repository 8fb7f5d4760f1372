"""Batch, instance, group and layer normalisation."""

from hypothesis.strategies import DrawFn

from .kinds import WIDE, Arguments, Shape, kind, maybe, pick


def _statistics(draw: DrawFn, *, tracking: bool, affine: bool) -> Arguments:
    return {
        "momentum": pick(draw, (0.1, 0.5, 1.0, 0.0)),
        "affine": affine is not maybe(draw),
        "track_running_stats": tracking is not maybe(draw),
    }


def _several(shape: Shape) -> bool:
    """Training needs more than one value a channel."""
    return shape.sizes[0] > 1


def _batch_statistics(draw: DrawFn) -> Arguments:
    arguments = _statistics(draw, tracking=True, affine=True)
    if arguments["momentum"] == 1.0 and maybe(draw):
        arguments["momentum"] = None  # the cumulative average
    return arguments


@kind("BatchNorm1d", ranks=(2, 3), fits=_several)
@kind("BatchNorm2d", ranks=(4,), fits=_several)
@kind("BatchNorm3d", ranks=(5,), fits=_several)
def batch_norm(draw: DrawFn, shape: Shape) -> Arguments:
    return {"num_features": shape.sizes[1]} | _batch_statistics(draw)


@kind("LazyBatchNorm1d", ranks=(2, 3), fits=_several)
@kind("LazyBatchNorm2d", ranks=(4,), fits=_several)
@kind("LazyBatchNorm3d", ranks=(5,), fits=_several)
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
    @kind(name, ranks=ranks, fits=lambda shape: max(shape.sizes[-n:]) > 1)
    def make(draw: DrawFn, shape: Shape) -> Arguments:
        arguments = _instance_statistics(draw)
        if lazy:
            return arguments | {"first": list(shape.sizes)}
        return {"num_features": shape.sizes[-n - 1]} | arguments


for n in (1, 2, 3):
    instance_norm(n, lazy=False)
    instance_norm(n, lazy=True)


@kind("GroupNorm", ranks=(3, 4), fits=lambda shape: max(shape.sizes[1:]) > 1)
def group_norm(draw: DrawFn, shape: Shape) -> Arguments:
    return {"num_groups": 1, "num_channels": shape.sizes[1], "affine": not maybe(draw)}


@kind("LayerNorm", "RMSNorm")
def layer_norm(draw: DrawFn, shape: Shape) -> Arguments:
    return {"normalized_shape": shape.sizes[-1], "elementwise_affine": not maybe(draw)}


@kind("LocalResponseNorm", ranks=(3, 4), dtypes=WIDE)
@kind("CrossMapLRN2d", ranks=(4,), dtypes=WIDE)
def local_response_norm(draw: DrawFn, shape: Shape) -> Arguments:
    return {"size": 2}
