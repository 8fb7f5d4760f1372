"""Recurrent layers, batch first."""

from hypothesis.strategies import DrawFn

from .kinds import WIDE, Made, Shape, kind, maybe, pick, size


@kind("RNN", "GRU", "LSTM", ranks=(3,), dtypes=WIDE)
def recurrent(draw: DrawFn, shape: Shape) -> Made:
    hidden, layers, both = size(draw), size(draw, most=2), maybe(draw)
    arguments = {
        "input_size": shape.sizes[-1],
        "hidden_size": hidden,
        "num_layers": layers,
        "bias": not maybe(draw),
        "batch_first": True,
        "bidirectional": both,
    }
    if layers > 1:
        arguments["dropout"] = pick(draw, (0.0, 0.5, 0.9))
    return arguments, (Shape((*shape.sizes[:-1], hidden * (2 if both else 1))),)
