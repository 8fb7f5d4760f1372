"""Recurrent layers, batch first and not, batched and not; their cells; packed sequences."""

from hypothesis.strategies import DrawFn

from .kinds import WIDE, Arguments, Shape, kind, maybe, pick, size


def _layers(draw: DrawFn, shape: Shape, *, batch_first: bool) -> Arguments:
    layers = size(draw, most=2)
    arguments = {
        "input_size": shape.sizes[-1],
        "hidden_size": size(draw),
        "num_layers": layers,
        "bias": not maybe(draw),
        "batch_first": batch_first,
        "bidirectional": maybe(draw),
    }
    if layers > 1:
        arguments["dropout"] = pick(draw, (0.0, 0.5, 0.9))
    return arguments


@kind("RNN", "GRU", "LSTM", ranks=(2, 3), dtypes=WIDE, size=2)
def recurrent(draw: DrawFn, shape: Shape) -> Arguments:
    return _layers(draw, shape, batch_first=not maybe(draw))


@kind("GRU_packed", ranks=(3,), dtypes=WIDE, size=2)
def packed(draw: DrawFn, shape: Shape) -> Arguments:
    """The first sequence as long as the input, all others of one step."""
    return _layers(draw, shape, batch_first=True)


@kind("RNNCell", "GRUCell", "LSTMCell", ranks=(1, 2), dtypes=WIDE)
def cell(draw: DrawFn, shape: Shape) -> Arguments:
    return {"input_size": shape.sizes[-1], "hidden_size": size(draw), "bias": not maybe(draw)}
