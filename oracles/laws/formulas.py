"""Formulas: what single layers compute in each mode, by the numbers, in double precision."""

from __future__ import annotations

import copy
from typing import Final

import torch
from torch import Tensor, nn

from ..law import law
from ..preconditions import (
    drops_all_or_nothing,
    has_a_padding_row,
    has_one_level,
    has_several_levels,
    is_a_matrix,
    is_a_real_sample,
    is_given_a_padding_mask,
    is_of_single_or_double_precision,
    keeps_no_statistics,
    may_drop,
    renormalises,
    tracks_statistics,
    tracks_statistics_and_is_affine,
)
from ..relations import agree, equal, every, holds, refuses
from ..run import Seen
from ..sample import Sample
from ..setting import (
    Setting,
    all_of,
    core_grad,
    evaluating,
    grad_enabled,
    plain_grad,
    training,
    unfrozen,
    uniform,
)
from ..specimen import seeding
from ..subject import Layer, Subject

_BATCH: Final = ("BatchNorm1d", "BatchNorm2d", "BatchNorm3d")
_INSTANCE: Final = ("InstanceNorm1d", "InstanceNorm2d", "InstanceNorm3d")

#: Statistics of the batch, and the affine map, as the page of nn.BatchNorm1d writes them.
_NEAR: Final = """\
def near(left, right):
    with torch.no_grad():
        return torch.allclose(left, right, rtol=1e-9, atol=1e-9)
def affine(y):  # by the weight and the bias of n, where there are any
    y = y if n.weight is None else y * n.weight.reshape(row)
    return y if n.bias is None else y + n.bias.reshape(row)
"""
_OBSERVED: Final = f"""\
{_NEAR}
n, start = model.n0, build()[0].n0
x0, dims = x[0].detach(), [0, *range(2, x[0].dim())]
row = [1, -1] + [1] * (x0.dim() - 2)
mean, variance = x0.mean(dims), x0.var(dims, unbiased=False)
def normalised(mean, variance):
    with torch.no_grad():
        y = (x0 - mean.reshape(row)) / torch.sqrt(variance.reshape(row) + n.eps)
        return affine(y)
"""


@law(source="nn.BatchNorm1d", norms=("G1",), when=training, having=_BATCH)
def batch_norm_normalises_by_the_batch(layer: Layer, setting: Setting) -> None:
    """In training the output is normalised by the batch's mean and biased variance."""
    run = layer.in_float64().run(setting, after=_OBSERVED)
    every(run.evaluate("near(out[0], normalised(mean, variance))"), True)


@law(
    source="nn.BatchNorm1d, track_running_stats: 'in both training and eval modes'",
    norms=("G6",),
    when=evaluating,
    given=keeps_no_statistics,
    having=_BATCH,
)
def batch_norm_without_statistics_evaluates_by_the_batch(layer: Layer, setting: Setting) -> None:
    """Without running statistics evaluation normalises by the batch as well."""
    run = layer.in_float64().run(setting, after=_OBSERVED)
    every(run.evaluate("near(out[0], normalised(mean, variance))"), True)


@law(
    source="nn.BatchNorm1d",
    norms=("G4",),
    when=evaluating,
    given=tracks_statistics,
    having=_BATCH,
)
def batch_norm_evaluates_with_its_statistics(layer: Layer, setting: Setting) -> None:
    """In evaluation the output is the affine map of the running statistics, which stay."""
    run = layer.in_float64().run(setting, after=_OBSERVED)
    every(run.evaluate("near(out[0], normalised(start.running_mean, start.running_var))"), True)
    every(run.moving, True)


@law(
    source="nn.BatchNorm1d, momentum",
    norms=("G2", "G3", "G5", "G11"),
    when=training,
    given=tracks_statistics,
    having=_BATCH,
)
def running_statistics_follow_the_momentum(layer: Layer, setting: Setting) -> None:
    """running = (1 - momentum) * running + momentum * observed, with the unbiased variance.

    With momentum=None it is the cumulative average; the count goes up by one, in any grad mode.
    """
    update = "m = 1 / n.num_batches_tracked.item() if n.momentum is None else n.momentum\n"
    update += "average = (1 - m) * start.running_mean + m * mean\n"
    update += "spread = (1 - m) * start.running_var + m * x0.var(dims, unbiased=True)\n"
    run = layer.in_float64().run(setting, after=_OBSERVED + update)
    every(
        run.evaluate(
            "near(n.running_mean, average)",
            "near(n.running_var, spread)",
            "n.num_batches_tracked.item() == start.num_batches_tracked.item() + 1",
        ),
        True,
    )


_GRADIENT: Final = f"""\
{_OBSERVED}
g, scale = weights(out[0]), n.weight.detach() if n.affine else torch.ones_like(mean)
def normal(mean, variance):
    return (x0 - mean.reshape(row)) / torch.sqrt(variance.reshape(row) + n.eps)
slope = g * (scale / torch.sqrt(start.running_var + n.eps)).reshape(row)
"""


@law(
    source="nn.BatchNorm1d; notes/autograd",
    norms=("G10", "E6"),
    when=all_of(grad_enabled, uniform),
    given=tracks_statistics,
    having=_BATCH,
)
def gradients_through_batch_norm_are_those_of_its_formula(layer: Layer, setting: Setting) -> None:
    """In evaluation dL/dx = g * w / sqrt(running_var + eps); in training it sums to zero a channel.

    Frozen statistics keep no gradient from the affine parameters.
    """
    run = layer.in_float64().backward(setting.but(frozen=(), inputs=(0,)), after=_GRADIENT)
    channels = "near(x[0].grad.sum(dims), torch.zeros_like(mean))"
    every(run.evaluate(channels if setting.training else "near(x[0].grad, slope)"), True)


@law(
    source="nn.BatchNorm1d; notes/autograd",
    norms=("G10", "E6"),
    when=all_of(grad_enabled, uniform),
    given=tracks_statistics_and_is_affine,
    having=_BATCH,
)
def gradients_of_the_affine_map_are_those_of_its_formula(layer: Layer, setting: Setting) -> None:
    """dL/dweight sums g * x, normalised as in this mode, over a channel, and dL/dbias sums g."""
    run = layer.in_float64().backward(setting.but(frozen=(), inputs=(0,)), after=_GRADIENT)
    used = "mean, variance" if setting.training else "start.running_mean, start.running_var"
    weight = f"near(n.weight.grad, (g * normal({used})).sum(dims))"
    every(run.evaluate(weight, "n.bias is None or near(n.bias.grad, g.sum(dims))"), True)


#: A batch with one value for each channel, or for each channel of an instance.
_SINGLE: Final = """\
first = {first}
sizes = [*x[0].shape[:first], *[1] * (x[0].dim() - first)]
few = torch.ones(sizes, dtype=x[0].dtype, device=x[0].device)[{rows}]
model, _ = build()
refused = False
try: model(few)
except ValueError: refused = True
uncounted = bool(model.n0.num_batches_tracked == build()[0].n0.num_batches_tracked)
taken = copy.deepcopy(model).eval()(few).shape == few.shape
"""


@law(
    source="F.batch_norm, 'Expected more than 1 value per channel when training'; F.instance_norm",
    norms=("G7", "G17"),
    when=training,
    given=tracks_statistics,
    having=(*_BATCH, *_INSTANCE),
)
def a_refused_batch_leaves_no_trace(layer: Layer, setting: Setting) -> None:
    """One value a channel is refused in training, and moves no statistics; evaluation takes it."""
    layer.needs_values()
    space = int(layer.node.op[-2])
    single = (
        _SINGLE.format(first=f"x[0].dim() - {space}", rows="...")
        if layer.node.op in _INSTANCE
        else _SINGLE.format(first=2, rows=":1")
    )
    run = layer.run(setting, after=single)
    every(run.evaluate("refused", "taken", "uncounted"), True)
    agree(_but_for_counts(run.state), _but_for_counts(layer.initial))


def _but_for_counts(state: Seen) -> Seen:
    """The state without the counts of batches."""
    return state.only(lambda expression, _: "num_batches_tracked" not in expression)


#: Statistics of each instance, averaged, and what follows from them; space is the dimensions.
_INSTANCES: Final = f"""\
{_NEAR}
n, start, x0 = model.n0, build()[0].n0, x[0].detach()
if x0.dim() == {{space}} + 1: x0 = x0[None]
dims, m, row = list(range(-{{space}}, 0)), n.momentum, [1, -1] + [1] * {{space}}
average = (1 - m) * start.running_mean + m * x0.mean(dims).mean(0)
spread = (1 - m) * start.running_var + m * x0.var(dims).mean(0)
with torch.no_grad():
    y = (x0 - start.running_mean.reshape(row)) / torch.sqrt(start.running_var.reshape(row) + n.eps)
    y = affine(y)
"""


@law(
    source="nn.InstanceNorm1d",
    norms=("G15",),
    when=uniform,
    given=tracks_statistics,
    having=_INSTANCE,
)
def instance_norm_tracks_the_average_of_its_instances(layer: Layer, setting: Setting) -> None:
    """With tracking, training moves towards the instances' statistics, averaged; eval uses them."""
    observed = _INSTANCES.format(space=int(layer.node.op[-2]))
    run = layer.in_float64().run(setting, after=observed)
    if setting.training:
        seen = run.evaluate("near(n.running_mean, average)", "near(n.running_var, spread)")
        every(seen, True)
    else:
        every(run.evaluate("near(out[0].reshape(x0.shape), y)"), True)
        every(run.moving, True)


@law(source="nn.BatchNorm1d", norms=("G21",), when=plain_grad, having=_BATCH)
def statistics_depend_on_training_forwards_alone(layer: Layer, setting: Setting) -> None:
    """Evaluation forwards, freezing and grad modes between training forwards change no statistics."""
    plain = "with torch.no_grad(): second = x[0].detach() * 2\n"
    plain += "model.train()\nmodel(x[0].detach())\nmodel(second)\n"
    mixed = "with torch.no_grad(): second = x[0].detach() * 2\n"
    mixed += "model.train()\nwith torch.no_grad(): model(x[0].detach())\n"
    mixed += "model.eval()\nmodel(second)\nmodel.requires_grad_(False)\nmodel.train()\n"
    mixed += "with torch.inference_mode(): model(second)\nmodel.eval()\nmodel(x[0].detach())\n"
    agree(layer.run(setting, after=mixed).state, layer.run(setting, after=plain).state)


@law(
    source="nn.BatchNorm1d: running statistics are 'used for normalization during evaluation'",
    norms=("D18",),
    when=evaluating,
    given=tracks_statistics,
    having=_BATCH,
)
def a_batch_evaluates_as_its_halves_do(layer: Layer, setting: Setting) -> None:
    """In evaluation batch normalisation treats each sample of a batch by itself."""
    halves = "x0 = x[0].detach()\nwith torch.no_grad():\n"
    halves += "    parts = torch.cat([model(x0[:1]), model(x0[1:])])\n"
    halves += "    same = torch.allclose(parts, out[0], rtol=1e-12, atol=1e-12)\n"
    every(layer.in_float64().run(setting, after=halves).evaluate("same"), True)


@law(
    source="nn.SyncBatchNorm; SyncBatchNorm.convert_sync_batchnorm",
    norms=("G18", "G19"),
    given=is_a_real_sample,
    since="2.4",
)
def converting_to_sync_batch_norm_keeps_modes_and_state(sample: Sample) -> None:
    """It keeps training flags, requires_grad and statistics, and evaluates as batch norm does."""
    sample.needs_values()
    x = sample.tensor().reshape(1, -1)
    width = x.numel()
    model = nn.Sequential(nn.BatchNorm1d(width), nn.BatchNorm1d(width)).to(x.device, x.dtype)
    model[1].eval().requires_grad_(False)
    with torch.no_grad():
        model[0].running_mean.copy_(x[0])
    expected = [(m.training, m.weight.requires_grad) for m in model]
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(model))
    flags = [(m.training, m.weight.requires_grad) for m in converted]
    holds(flags, "flags after conversion", expected)
    equal(converted[0].running_mean, x[0], "the running mean after conversion")
    batch = torch.cat([x * 2, x + 1])
    equal(converted.eval()(batch), model.eval()(batch), "SyncBatchNorm in evaluation")


# --- dropout and other randomness ----------------------------------------------------------------

_DROPOUT: Final = ("Dropout", "Dropout1d", "Dropout2d", "Dropout3d")
_NO_GRAD: Final = "with torch.no_grad():\n"
#: The values of the input, into which a layer may write.
_GIVEN: Final = "given = x[0].detach().clone()"


@law(source="nn.Dropout", norms=("H2",), when=training, having=_DROPOUT)
def dropout_zeroes_or_scales(layer: Layer, setting: Setting) -> None:
    """In training each element is 0 or x / (1 - p)."""
    p = layer.node.arguments["p"]
    scaled = "0 * given" if p == 1.0 else f"given / (1 - {p})"
    kept = _NO_GRAD + f"    scaled = {scaled}\n    zero = out[0] == 0\n"
    kept += "    right = torch.where(zero, torch.zeros_like(scaled), scaled)\n"
    kept += "    near = torch.allclose(out[0], right, rtol=1e-12, atol=0)\n"
    every(layer.in_float64().run(setting, prepare=_GIVEN, after=kept).evaluate("near"), True)


@law(
    source="nn.Dropout",
    norms=("H3",),
    when=training,
    given=drops_all_or_nothing,
    having=_DROPOUT,
)
def a_sure_dropout_drops_all_or_nothing(layer: Layer, setting: Setting) -> None:
    """In training p=1 makes every element 0, and p=0 hands on the values of the input."""
    sure = "with torch.no_grad(): wanted = given if model.n0.p == 0.0 else torch.zeros_like(given)"
    run = layer.run(setting, prepare=_GIVEN, after=sure)
    every(run.evaluate("torch.equal(out[0].detach(), wanted)"), True)


@law(
    source="nn.Dropout1d: 'zero out entire channels'",
    norms=("H4",),
    when=training,
    having=_DROPOUT[1:],
)
def channel_dropout_zeroes_whole_channels(layer: Layer, setting: Setting) -> None:
    """Of a channel of a sample all elements are zeroed, or none."""
    space = int(layer.node.op.removeprefix("Dropout")[0])
    whole = _NO_GRAD + f"    zero, null = ((t == 0).flatten(-{space}) for t in (out[0], given))\n"
    whole += "    whole = bool((zero.all(-1) | ~(zero & ~null).any(-1)).all())\n"
    every(layer.run(setting, prepare=_GIVEN, after=whole).evaluate("whole"), True)


@law(
    source="nn.Dropout: 'independently for each forward call'",
    norms=("H5", "H7"),
    when=training,
    having=("Dropout", "AlphaDropout", "RReLU"),
)
def reseeding_repeats_a_mask(layer: Layer, setting: Setting) -> None:
    """With the same seed a second forward repeats the first, in any grad mode."""
    again = f"{seeding(layer.specimen, layer.device)}\n"
    again += _NO_GRAD + "    repeated = model(given)\n"
    same = "torch.allclose(repeated, out[0], rtol=0, atol=0, equal_nan=True)"
    every(layer.run(setting, prepare=_GIVEN, after=again).evaluate(same), True)


@law(
    source="nn.Dropout: 'independently for each forward call'",
    norms=("H5", "H7"),
    when=training,
    given=may_drop,
    having=("Dropout", "AlphaDropout"),
)
def each_forward_draws_a_mask_of_its_own(layer: Layer, setting: Setting) -> None:
    """A second forward draws on: it leaves the random generator in another state again."""
    again = "drawn = torch.get_rng_state()\nwith torch.no_grad(): model(x[0].detach())\n"
    run = layer.run(setting, after=again)
    every(run.evaluate("torch.equal(drawn, torch.get_rng_state())"), False)


@law(
    source="F.dropout, training=True; F.scaled_dot_product_attention; F.gumbel_softmax",
    norms=("H8", "H9", "H17"),
    when=evaluating,
    having=("dropout_by_default", "attention", "gumbel_softmax"),
)
def functions_that_are_not_told_draw_in_evaluation(subject: Subject, setting: Setting) -> None:
    """F.dropout, scaled_dot_product_attention and gumbel_softmax know nothing of eval()."""
    subject.needs_values()
    every(subject.run(setting).drawing, False)


@law(source="nn.RReLU", norms=("H10", "H11", "H12"), when=uniform, having=("RReLU",))
def rrelu_draws_its_slopes_between_its_bounds(layer: Layer, setting: Setting) -> None:
    """x stays where it is positive; elsewhere slopes are drawn in training, their mean in eval."""
    run = layer.in_float64().run(setting, prepare=_GIVEN, after=_slopes(layer, setting))
    every(run.evaluate("bool(right.all())", "torch.equal(out[0][x0 >= 0], x0[x0 >= 0])"), True)


@law(
    source="nn.RReLU",
    norms=("H10", "H11", "H12"),
    when=all_of(uniform, grad_enabled),
    having=("RReLU",),
)
def the_gradient_of_rrelu_is_its_slope(layer: Layer, setting: Setting) -> None:
    """backward multiplies by the slope that forward has drawn."""
    slopes = _slopes(layer, setting) + "g = weights(out[0])\n"
    run = layer.in_float64().backward(setting.but(inputs=(0,)), prepare=_GIVEN, after=slopes)
    every(run.evaluate("torch.allclose(x[0].grad, g * slope, rtol=1e-9)"), True)


def _slopes(layer: Layer, setting: Setting) -> str:
    """Statements that measure the slopes, and say of each whether it is as it may be."""
    low, high = layer.node.arguments["lower"], layer.node.arguments["upper"]
    if not setting.training:
        low = high = (low + high) / 2
    return (
        _NO_GRAD
        + "    x0 = given\n"
        + "    slope = torch.where(x0 >= 0, torch.ones_like(x0), out[0] / x0)\n"
        + f"    right = (slope >= {low} - 1e-9) & (slope <= {high} + 1e-9) | (x0 >= 0)\n"
    )


@law(source="nn.Dropout, p", norms=("H13",), when=training, having=("Dropout", "AlphaDropout"))
def a_changed_probability_acts_at_the_next_forward(layer: Layer, setting: Setting) -> None:
    """p is read in forward: set to 0, the layer gives the values of its input."""
    run = layer.run(setting, prepare=f"model.n0.p = 0.0\n{_GIVEN}")
    every(run.evaluate("torch.equal(out[0].detach(), given)"), True)


@law(source="nn.Dropout, p", norms=("H13",), when=training, having=("Dropout",))
def a_probability_set_to_one_drops_everything(layer: Layer, setting: Setting) -> None:
    """p is read in forward: set to 1, the layer gives zeros.

    Of an input that does not require grad: in place it would be refused.
    """
    run = layer.run(setting.but(inputs=()), prepare="model.n0.p = 1.0", after="pass")
    every(run.evaluate("bool(out[0].any())"), False)


@law(source="nn.Dropout, inplace", norms=("H14",))
def dropout_in_place_writes_in_training_alone(sample: Sample) -> None:
    """inplace=True changes its input in training, where it refuses a leaf that requires grad."""
    sample.needs_values()
    x = torch.ones_like(sample.tensor())
    layer = nn.Dropout(1.0, inplace=True)
    layer.eval()(x)
    equal(x, torch.ones_like(x), "the input after evaluation")
    holds(layer.eval()(x) is x, "layer(x) is x in evaluation")
    leaf = torch.ones_like(x).requires_grad_()
    holds(layer.eval()(leaf) is leaf, "layer(leaf) is leaf in evaluation")
    layer.train()
    refuses(lambda: layer(leaf), RuntimeError, "in-place operation")
    layer(x)
    equal(x, torch.zeros_like(x), "the input after training")


@law(
    source="nn.AlphaDropout: 'maintains the self-normalizing property'",
    norms=("H15",),
    given=is_of_single_or_double_precision,
)
def alpha_dropout_keeps_mean_and_variance(sample: Sample) -> None:
    """In training, of inputs with mean 0 and variance 1, both stay: in expectation."""
    sample.needs_values()
    torch.manual_seed(sample.seed)
    # Outputs are independent, with a kurtosis of 2.53 for p=0.1 and 2.74 for p=0.5: the standard
    # error of a mean of 200,000 is 1 / sqrt(200000) = 0.00224, that of a variance at most
    # sqrt((2.74 - 1) / 200000) = 0.00295. The bounds are eight of them, beyond which a normal
    # variable lies with probability 1.2e-15. The summands are skewed, by 0.92 and 3.7 at most:
    # that is a factor of about exp(3.7 * 8**3 / (6 * sqrt(200000))) = 2. So a false alarm has a
    # probability below 1e-14 for each of the four bounds.
    x = torch.randn(200_000, dtype=sample.tensor().dtype, device=sample.device)
    for p in (0.1, 0.5):
        y = nn.AlphaDropout(p)(x)
        holds(bool(abs(y.mean()) < 0.0179), f"abs(mean) < 0.0179 for p={p}")
        holds(bool(abs(y.var() - 1) < 0.0236), f"abs(variance - 1) < 0.0236 for p={p}")


@law(source="Module.train, recursively", norms=("H16",))
def a_child_follows_its_own_flag(sample: Sample) -> None:
    """Dropout told eval() in a training parent hands on its input; the reverse drops."""
    sample.needs_values()
    x = torch.ones_like(sample.tensor())
    model = nn.Sequential(nn.Identity(), nn.Dropout(1.0))
    model.train()
    model[1].eval()
    equal(model(x), x, "a training parent with a child in evaluation")
    model.eval()
    model[1].train()
    equal(model(x), torch.zeros_like(x), "an evaluating parent with a child in training")


# --- attention -----------------------------------------------------------------------------------


@law(
    source="nn.TransformerEncoder, enable_nested_tensor; Fast path",
    norms=("I7",),
    when=all_of(evaluating, core_grad),
    given=is_given_a_padding_mask,
    having=("TransformerEncoder",),
)
def unpadded_positions_do_not_depend_on_the_fast_path(layer: Layer, setting: Setting) -> None:
    """With a padding mask, evaluation gives the same values at positions that are not padding."""
    recorded = "model.requires_grad_(True)\nwith torch.enable_grad(): out = (model(x[0].detach()).detach(),)"
    unpadded = "out[0][:, :-1]"
    fast = layer.run(setting, after="pass").evaluate(unpadded)
    agree(fast, layer.run(setting, after=recorded).evaluate(unpadded))


@law(
    source="Module.register_forward_hook: 'every time after forward() has computed an output'",
    norms=("I9",),
    when=all_of(evaluating, plain_grad),
    having=("TransformerEncoderLayer", "TransformerEncoder"),
    since="2.5",
)
def hooks_on_children_fire_in_every_grad_mode(layer: Layer, setting: Setting) -> None:
    """Hooks on the parts of an encoder fire as often whether or not anything is recorded."""
    count = "calls = []\nfor m in model.modules():\n    m.register_forward_hook(lambda m, *_: calls.append(type(m).__name__))"
    modes = (("torch.no_grad()",), ("torch.inference_mode()",))
    expected = layer.run(setting, prepare=count).evaluate("calls")
    for grad in modes:
        agree(layer.run(setting.but(grad=grad), prepare=count).evaluate("calls"), expected)


# --- recurrent layers, embeddings, parametrizations, lazy layers ---------------------------------


@law(
    source="nn.LSTM, dropout: 'on the outputs of each layer except the last layer'",
    norms=("J1", "J3"),
    when=all_of(plain_grad, uniform),
    given=has_one_level,
    having=("RNN", "GRU", "LSTM"),
)
def recurrent_dropout_does_nothing_to_one_layer(layer: Layer, setting: Setting) -> None:
    """With num_layers=1 dropout changes no output: there is nothing between layers."""
    dropping = layer.run(setting, prepare="model.n0.dropout = 1.0")
    agree(dropping.output, layer.run(setting).output)


@law(
    source="nn.LSTM, dropout: 'on the outputs of each layer except the last layer'",
    norms=("J1", "J2"),
    when=all_of(plain_grad, uniform),
    given=has_several_levels,
    having=("RNN", "GRU", "LSTM"),
)
def recurrent_dropout_acts_between_layers(layer: Layer, setting: Setting) -> None:
    """With several layers and dropout=1 the output depends on the input in evaluation alone.

    The states that the layer returns as well are of each layer, the first included.
    """
    other = "with torch.no_grad():\n    seen, unseen = model(x[0].detach()), model(x[0].detach() * 3 + 1)\n"
    other += "seen, unseen = (o[0] if isinstance(o, tuple) else o for o in (seen, unseen))\n"
    run = layer.run(setting, prepare="model.n0.dropout = 1.0", after=other)
    every(run.evaluate("torch.equal(seen, unseen)"), setting.training)


@law(
    source="nn.Embedding, max_norm",
    norms=("J5", "J6", "J7"),
    given=renormalises,
    having=("Embedding", "EmbeddingBag"),
)
def looked_up_rows_are_renormalised(layer: Layer, setting: Setting) -> None:
    """With max_norm no row that was looked up is longer, in any mode; a second look-up moves none."""
    most = layer.node.arguments["max_norm"]
    rows = _NO_GRAD + "    w = model.n0.weight\n    looked = x[0].unique()\n"
    rows += f"    short = bool((w[looked].double().norm(dim=1) <= {most} * (1 + 1e-5)).all())\n"
    rows += "    pairs = list(zip(w, build()[0].n0.weight))\n"
    rows += "    untouched = [torch.equal(*pairs[i]) for i in range(len(w)) if i not in looked]\n"
    rows += "    once = w.clone()\n    model(x[0])\n    stays = torch.allclose(w, once, rtol=1e-6, atol=0)\n"
    run = layer.run(setting, after=rows)
    every(run.evaluate("short", "stays", "model.n0.weight.is_leaf"), True)
    every(run.items("untouched"), True)
    every(run.evaluate("model.n0.weight.is_inference()"), False)


@law(
    source="nn.Embedding, padding_idx",
    norms=("J8",),
    when=all_of(plain_grad, unfrozen),
    given=has_a_padding_row,
    having=("Embedding", "EmbeddingBag"),
)
def padding_rows_receive_zero(layer: Layer, setting: Setting) -> None:
    """The row of padding_idx gets a gradient of zero, and a step without weight decay leaves it."""
    row = layer.node.arguments["padding_idx"]
    step = f"row = model.n0.weight[{row}].detach().clone()\n"
    step += f"zero = not model.n0.weight.grad[{row}].any()\n"
    step += "torch.optim.SGD(model.parameters(), lr=0.1).step()\n"
    step += f"still = torch.equal(row, model.n0.weight[{row}].detach())\n"
    every(layer.backward(setting, after=step).evaluate("zero", "still"), True)


@law(
    source="nn.utils.parametrizations.spectral_norm; parametrize.cached",
    norms=("J12", "J13"),
    when=plain_grad,
    given=is_a_matrix,
    having=("Linear",),
)
def each_access_iterates_in_training_alone(layer: Layer, setting: Setting) -> None:
    """An access of a weight with spectral_norm iterates in training, under no_grad too; never in eval.

    Inside parametrize.cached() the first access counts alone.
    """
    wrap = "nn.utils.parametrizations.spectral_norm(model.n0)\n"
    wrap += "norm = model.n0.parametrizations.weight[0]\n"
    wrap += f"norm.train({setting.trains('n0')})\n"
    wrap += "norm._u.copy_(torch.nn.functional.normalize(torch.arange(1.0, len(norm._u) + 1).to(norm._u.dtype), dim=0))\n"
    access = "u = norm._u.clone()\nwith torch.no_grad(): model.n0.weight\nmoved = not torch.equal(u, norm._u)\n"
    access += "with nn.utils.parametrize.cached():\n    first = model.n0.weight\n    u = norm._u.clone()\n"
    access += "    again, unmoved = model.n0.weight is first, torch.equal(u, norm._u)\n"
    access += "dropped = model.n0.weight is not first\n"
    run = layer.in_float64().run(setting, prepare=wrap + access)
    every(run.evaluate("again", "unmoved", "dropped"), True)
    every(run.evaluate("moved"), setting.trains("n0"))


@law(source="nn.LazyLinear; LazyModuleMixin", norms=("J15",))
def a_lazy_layer_becomes_trainable_in_any_mode(sample: Sample) -> None:
    """Initialised by a forward under no_grad, in train or eval, its parameters are leaves to train."""
    x = sample.tensor()
    for told in (True, False):
        layer = nn.LazyLinear(2, device=x.device, dtype=x.dtype)
        layer.train(told)
        with torch.no_grad():
            layer(x)
        holds(layer.training, "layer.training after initialisation", told)
        holds(layer.in_features, "layer.in_features", x.shape[-1])
        trainable = [p.requires_grad and p.is_leaf for p in layer.parameters()]
        holds(trainable, "whether its parameters are leaves that require grad", [True, True])
        layer(x).sum().abs().backward()
        received = [p.grad is not None for p in layer.parameters()]
        holds(received, "whether its parameters receive a gradient", [True, True])


@law(
    source="nn.FractionalMaxPool2d, _random_samples",
    norms=("J10",),
    given=is_of_single_or_double_precision,
)
def given_samples_make_fractional_pooling_deterministic(sample: Sample) -> None:
    """With _random_samples it draws nothing, in training and in evaluation."""
    sample.needs_values()
    torch.manual_seed(sample.seed)
    x = torch.randn(2, 1, 9, 9, device=sample.device, dtype=sample.tensor().dtype)
    given = torch.rand(2, 1, 2, device=sample.device, dtype=x.dtype)

    def seeded(layer: nn.Module, seed: int) -> Tensor:
        torch.manual_seed(seed)
        pooled: Tensor = layer(x)
        return pooled

    for told in (True, False):
        layer = nn.FractionalMaxPool2d(2, output_size=4, _random_samples=given).train(told)
        first = seeded(layer, 1)
        drawn = torch.get_rng_state()
        torch.manual_seed(1)
        equal(torch.get_rng_state(), drawn, f"the random state, with training={told}")
        equal(seeded(layer, 2), first, f"another seed, with training={told}")
        free = nn.FractionalMaxPool2d(2, output_size=4).train(told)
        equal(seeded(free, 1), seeded(free, 1), f"reseeded, with training={told}")
        pooled = [seeded(free, seed) for seed in range(16)]
        varied = any(not torch.equal(one, pooled[0]) for one in pooled)
        holds(varied, f"whether it is random without them, with training={told}")
