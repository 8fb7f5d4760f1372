"""Recurrent layers and their cells: with and without states, batched, packed."""

from typing import Any

from hypothesis.strategies import DrawFn

from .kinds import WIDE, Arguments, Shape, kind, maybe, pick, size, upto


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
        arguments["dropout"] = pick(draw, (0.0, 0.5, 0.9, 1.0))
    return arguments


def _state(value: float, sizes: tuple[int, ...]) -> dict[str, Any]:
    """A tensor of one value: that it is not zero is what matters."""
    return {"full": value, "sizes": list(sizes)}


def _batch_and_length(arguments: Arguments, shape: Shape) -> tuple[int, int]:
    batch, length = (0, shape.sizes[0]) if len(shape.sizes) == 2 else shape.sizes[:2]
    turned = len(shape.sizes) == 3 and not arguments["batch_first"]
    return (length, batch) if turned else (batch, length)


def _state_sizes(arguments: Arguments, shape: Shape) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Of the hidden state, which may be projected, and of the cell state."""
    batch, _ = _batch_and_length(arguments, shape)
    hidden = arguments["hidden_size"]
    layers = arguments["num_layers"] * (1 + arguments["bidirectional"])
    sizes = (layers, batch) if len(shape.sizes) == 3 else (layers,)
    return (*sizes, arguments.get("proj_size", 0) or hidden), (*sizes, hidden)


def _given(draw: DrawFn, arguments: Arguments, shape: Shape, *, states: int) -> Arguments:
    """What forward is given, and whether the states that it returns are seen."""
    given: Arguments = {}
    form = draw(upto(7))
    hidden, cell = _state_sizes(arguments, shape)
    if form in (4, 5, 7):
        first = _state(0.5, hidden)
        given["hx"] = first if states == 1 else [first, _state(-0.5, cell)]
    batch, length = _batch_and_length(arguments, shape)
    if form >= 6 and len(shape.sizes) == 3:
        lengths = [1 + draw(upto(length - 1)) for _ in range(batch)]
        if maybe(draw):
            given["enforce_sorted"] = False
        else:
            lengths.sort(reverse=True)
        given["lengths"] = lengths
        length = max(lengths)
    # What a cell holds after one step has not been projected yet.
    if maybe(draw) and not (arguments.get("proj_size") and length == 1):
        given["states"] = True
    return given


def _returned(arguments: Arguments, shape: Shape) -> tuple[Shape, ...]:
    given = arguments.get("forward", {})
    batch, length = _batch_and_length(arguments, shape)
    length = max(given["lengths"]) if "lengths" in given else length
    hidden, cell = _state_sizes(arguments, shape)
    features = hidden[-1] * (1 + arguments["bidirectional"])
    sizes = (batch, length) if arguments["batch_first"] else (length, batch)
    out = Shape((*(sizes if len(shape.sizes) == 3 else (length,)), features))
    if not given.get("states", False):
        return (out,)
    states = (hidden, cell) if "proj_size" in arguments else (hidden,)
    return (out, *map(Shape, states))


def _with_forward(draw: DrawFn, arguments: Arguments, shape: Shape, states: int) -> Arguments:
    return arguments | {"forward": _given(draw, arguments, shape, states=states)}


@kind("GRU", ranks=(2, 3), dtypes=WIDE, size=2, returns=_returned)
def gru(draw: DrawFn, shape: Shape) -> Arguments:
    return _with_forward(draw, _layers(draw, shape, batch_first=not maybe(draw)), shape, 1)


@kind("RNN", ranks=(2, 3), dtypes=WIDE, size=2, returns=_returned)
def rnn(draw: DrawFn, shape: Shape) -> Arguments:
    arguments = _layers(draw, shape, batch_first=not maybe(draw))
    arguments["nonlinearity"] = pick(draw, ("tanh", "relu"))
    return _with_forward(draw, arguments, shape, 1)


@kind("LSTM", ranks=(2, 3), dtypes=WIDE, size=2, returns=_returned)
def lstm(draw: DrawFn, shape: Shape) -> Arguments:
    arguments = _layers(draw, shape, batch_first=not maybe(draw))
    # 0 is no projection; otherwise it is to less than the hidden size.
    arguments["proj_size"] = draw(upto(arguments["hidden_size"] - 1)) if maybe(draw) else 0
    return _with_forward(draw, arguments, shape, 2)


@kind("GRU_packed", ranks=(3,), dtypes=WIDE, size=2, returns=_returned)
def packed(draw: DrawFn, shape: Shape) -> Arguments:
    """The first sequence as long as the input, all others of one step."""
    return _layers(draw, shape, batch_first=True)


def _cell(draw: DrawFn, shape: Shape) -> Arguments:
    return {"input_size": shape.sizes[-1], "hidden_size": size(draw), "bias": not maybe(draw)}


def _cell_state(draw: DrawFn, arguments: Arguments, shape: Shape, *, states: int) -> Arguments:
    given: Arguments = {}
    form, sizes = draw(upto(3)), (*shape.sizes[:-1], arguments["hidden_size"])
    if form >= 2:
        both = [_state(0.5, sizes), _state(-0.5, sizes)]
        given["hx"] = both[0] if states == 1 else both
    if states > 1 and form % 2:
        given["states"] = True
    return arguments | {"forward": given}


def _of_cell(arguments: Arguments, shape: Shape) -> tuple[Shape, ...]:
    out = Shape((*shape.sizes[:-1], arguments["hidden_size"]))
    return (out, out) if arguments.get("forward", {}).get("states", False) else (out,)


@kind("GRUCell", ranks=(1, 2), dtypes=WIDE, returns=_of_cell)
def gru_cell(draw: DrawFn, shape: Shape) -> Arguments:
    return _cell_state(draw, _cell(draw, shape), shape, states=1)


@kind("RNNCell", ranks=(1, 2), dtypes=WIDE, returns=_of_cell)
def rnn_cell(draw: DrawFn, shape: Shape) -> Arguments:
    arguments = _cell(draw, shape) | {"nonlinearity": pick(draw, ("tanh", "relu"))}
    return _cell_state(draw, arguments, shape, states=1)


@kind("LSTMCell", ranks=(1, 2), dtypes=WIDE, returns=_of_cell)
def lstm_cell(draw: DrawFn, shape: Shape) -> Arguments:
    return _cell_state(draw, _cell(draw, shape), shape, states=2)
