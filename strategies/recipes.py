"""Recipes: random modules, valid by construction, and specimens made of them.

Nothing is drawn and then rejected: each node is chosen among those that fit the values
at hand. Everything shrinks towards fewer nodes, then simpler ones, then smaller sizes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from math import isqrt
from typing import Any, Final

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn
from torch.nn.utils import parametrizations

from oracles.recipe import Input, Node, Recipe, node_parameters
from oracles.setting import Setting
from oracles.specimen import Specimen
from oracles.traits import MODE_DEPENDENT, TRAITS, Returns, kinds_of

from .layers import KINDS, Kind, Shape
from .layers.kinds import WIDE, Arguments, maybe, pick, upto
from .nestings import stack

#: How large a module is at the most: its nodes, those of its blocks included, and a layer that
#: is made of many counts as several.
BUDGET: Final = 8

_DTYPES: Final = ("float32",) * 4 + ("float64",) * 3 + ("bfloat16", "float16", "complex64")
_SIZES: Final = ((2,), (3,))
#: What a law may ask for beside kinds of nodes: something that is done to the first node.
CHECKPOINT: Final = "checkpoint"
#: Parametrizations that this torch has.
_NORMS: Final = tuple(
    name for name in ("weight_norm", "spectral_norm") if hasattr(parametrizations, name)
)
FEATURES: Final = {
    "hooked": ("forward", "forward_pre"),
    "parametrized": _NORMS,
}
_FEATURED: Final = {
    "hooked": ("Linear", "ReLU", "Dropout"),
    "parametrized": ("Linear", "Conv1d", "Conv2d"),
}

#: What may be done to a node beside its kind; the first, nothing, most of the time.
_EXTRAS: Final = ("",) * 12 + (
    "no_grad",
    "enable_grad",
    "forward",
    "forward_pre",
    "full_backward",
    "weight_norm",
    "spectral_norm",
)
#: Kinds that tell the modes apart, or move or write: a third of the nodes are taken from these.
_TELLING: Final = frozenset(
    (*MODE_DEPENDENT, "Embedding", "EmbeddingBag", "FractionalMaxPool2d", "mul_", "add_")
)
#: For layers with a weight, a parametrization more often.
_WEIGHTED_EXTRAS: Final = (*_EXTRAS[:5], *_EXTRAS[12:], "weight_norm", *("spectral_norm",) * 2)
_WEIGHTED: Final = ("Linear", "Conv1d", "Conv2d")
_TIEABLE: Final = (*_WEIGHTED, "Embedding", "PReLU")


@dataclass
class _Draft:
    """A module while it is drawn: its nodes and what is known of its values.

    free   values that may be written into
    dense  values that surely lie densely in memory
    """

    dtype: str
    inputs: tuple[Shape, ...]
    dense: set[int] = field(default_factory=set)
    without: tuple[str, ...] = ()
    nodes: list[Node] = field(default_factory=list)
    shapes: list[Shape] = field(default_factory=list)
    free: set[int] = field(default_factory=set)
    made: list[tuple[Shape, ...]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.shapes = list(self.inputs)

    def add(self, node: Node, made: tuple[Shape, ...]) -> None:
        """Append a node; its inputs are no longer free to be written into."""
        self.free -= set(node.inputs)
        first = len(self.shapes)
        self.nodes.append(node)
        self.made.append(made)
        self.shapes += made
        # Of a layer that is used again, the first node says what is done to it.
        maker = node if node.shared is None else self.nodes[node.shared]
        if _hands_on_something_new(maker):
            self.free.add(first)
        if node.op == "Linear":
            self.dense.add(first)


def _hands_on_something_new(node: Node) -> bool:
    """Whether its output is its own in every mode, and backward does not need it."""
    if node.body is not None or node.hooked == "full_backward":
        return False
    traits = node.traits
    modes = (traits.returns(node.arguments, training) for training in (True, False))
    return not traits.saves_output and traits.differentiable[0] and set(modes) == {Returns.FRESH}


@cache
def _fitting_shape(shape: Shape, dtype: str) -> tuple[Kind, ...]:
    integer, rank = shape.high > 0, len(shape.sizes)
    kinds = [k for k in KINDS.values() if k.integer is integer and dtype in k.dtypes]
    return tuple(k for k in kinds if shape.high >= 0 and rank in k.ranks and k.fits(shape))


@cache
def _fitting_value(
    shape: Shape, dtype: str, free: bool, dense: bool, without: tuple[str, ...], left: int
) -> tuple[Kind, ...]:
    return tuple(
        k
        for k in _fitting_shape(shape, dtype)
        if k.size <= left
        and (free or not k.writes)
        and (dense or not k.dense)
        and k.op not in without
    )


def _fitting(draft: _Draft, index: int, left: int = BUDGET) -> tuple[Kind, ...]:
    """The kinds that can be given this value and are not larger than what is left."""
    free, dense = index in draft.free, index in draft.dense
    return _fitting_value(draft.shapes[index], draft.dtype, free, dense, draft.without, left)


def _source(draw: DrawFn, draft: _Draft, left: int) -> int:
    """An earlier value that something can be done with, the latest most often."""
    usable = [i for i in range(len(draft.shapes)) if _fitting(draft, i, left)]
    # The lesser of two uniform numbers, in one draw.
    back = len(usable) - 1 - isqrt(len(usable) ** 2 - 1 - draw(upto(len(usable) ** 2 - 1)))
    return usable[-1 - back]


def _node(draw: DrawFn, draft: _Draft, source: int, kind: Kind, extra: str | None = None) -> None:
    shape = draft.shapes[source]
    arguments = _arguments(draw, draft, source, kind)
    taken: tuple[int, ...] = (source,)
    if kind.second:
        alike = [i for i in range(len(draft.shapes)) if draft.shapes[i] == shape]
        taken = (source, pick(draw, alike[::-1]))
    draft.add(
        Node(kind.op, taken, arguments, **_extra(draw, draft, kind, extra, arguments)),
        kind.outputs(arguments, shape),
    )


def _arguments(draw: DrawFn, draft: _Draft, source: int, kind: Kind) -> Arguments:
    arguments = kind.make(draw, draft.shapes[source])
    if "sparse" in draft.without:
        arguments.pop("sparse", None)
    if kind.inplace and source in draft.free and draw(upto(2)):
        return arguments | {"inplace": True}
    return arguments


def _writes(node: Node) -> bool:
    """Whether it may write into its input."""
    return node.body is None and (KINDS[node.op].writes or node.arguments.get("inplace", False))


def _extra(
    draw: DrawFn, draft: _Draft, kind: Kind, extra: str | None, arguments: Arguments
) -> dict[str, Any]:
    extras = _WEIGHTED_EXTRAS if kind.op in _WEIGHTED else _EXTRAS
    extra = pick(draw, extras) if extra is None else extra
    if extra in draft.without:
        return {}
    if extra in ("no_grad", "enable_grad"):
        return {"within": extra}
    if extra in ("forward", "forward_pre", "full_backward"):
        # Nothing calls a list of parameters, and so no hook on it.
        if not (TRAITS[kind.op].is_layer and TRAITS[kind.op].is_called):
            return {}
        # A hook on a module's backward needs floating-point inputs to be of use, and hands the
        # layer views of them, which may not be written into.
        useless = kind.integer or arguments.get("inplace", False)
        return {} if useless and extra == "full_backward" else {"hooked": extra}
    if extra in _NORMS and kind.op in _WEIGHTED and draft.dtype in WIDE:
        return {"parametrized": extra}
    return {}


def _again(draw: DrawFn, draft: _Draft, source: int) -> int:
    """Use an earlier layer once more, or tie the weight of a new one to it, where one fits."""
    shape = draft.shapes[source]
    fits = [
        i
        for i, n in enumerate(draft.nodes)
        if n.shared is None and len(n.inputs) == 1 and draft.shapes[n.inputs[0]] == shape
        if source in draft.free or not _writes(n)
        if n.body is not None or TRAITS[n.op].is_layer
    ]
    if not fits:
        return 0
    earlier = pick(draw, fits[::-1])
    node = draft.nodes[earlier]
    if node.op in _TIEABLE and node.tied is None and not node.parametrized and maybe(draw):
        draft.add(Node(node.op, (source,), node.arguments, tied=earlier), draft.made[earlier])
    else:
        again = Node(node.op, (source,), node.arguments, shared=earlier, body=node.body)
        draft.add(again, draft.made[earlier])
    return 1


def _block(
    draw: DrawFn, draft: _Draft, source: int, budget: int, checkpointed: bool | None = None
) -> int:
    """A submodule, called as it is or through a checkpoint. Says how many nodes it took."""
    shape = draft.shapes[source]
    inner = _Draft(draft.dtype, (shape,), without=draft.without)
    spent = _fill(draw, inner, budget - 1)
    if shape.high == 0 and all(made.high for made in inner.shapes[1:]):
        inner.add(Node("square", (0,)), (shape,))
        spent += 1
    floating = [i for i, made in enumerate(inner.shapes) if i > 0 and made.high == 0]
    if not floating:
        return 0
    outputs = (floating[-1],)
    checkpointed = maybe(draw) if checkpointed is None else checkpointed
    body = Recipe((Input(shape.sizes, shape.high),), tuple(inner.nodes), outputs, _container(draw))
    node = Node("Block", (source,), body=body, checkpointed=checkpointed)
    draft.add(node, (inner.shapes[outputs[0]],))
    return spent


def _sequential(draw: DrawFn, draft: _Draft, source: int, budget: int) -> int:
    """An nn.Sequential of layers. Says how many nodes it took."""
    shape = draft.shapes[source]
    inner = _Draft(draft.dtype, (shape,), without=draft.without)
    spent = 0
    while len(inner.nodes) < 3:
        latest = len(inner.shapes) - 1
        kinds = [k for k in _fitting(inner, latest, budget - spent) if _chains(k)]
        if not kinds or (inner.nodes and not draw(upto(3))):
            break
        kind = pick(draw, kinds)
        arguments = _arguments(draw, inner, latest, kind)
        if TRAITS[kind.op].called(arguments) != _PLAIN_CALL:
            # A sequence hands its layers their input, and nothing beside it.
            given = TRAITS[kind.op].given
            arguments = {name: value for name, value in arguments.items() if name not in given}
        inner.add(
            Node(kind.op, (latest,), arguments), kind.outputs(arguments, inner.shapes[latest])
        )
        spent += kind.size
    if not inner.nodes:
        return 0
    outputs = (len(inner.shapes) - 1,)
    body = Recipe((Input(shape.sizes, shape.high),), tuple(inner.nodes), outputs, "Sequential")
    draft.add(Node("Sequential", (source,), body=body), (inner.shapes[-1],))
    return spent


_PLAIN_CALL: Final = "{self}({0})"


def _chains(kind: Kind) -> bool:
    traits = TRAITS[kind.op]
    plain = traits.called({}) == _PLAIN_CALL and traits.differentiable == (True,)
    return traits.is_layer and plain


def _container(draw: DrawFn) -> str:
    return str(pick(draw, ("attributes",) * 4 + ("ModuleList", "ModuleDict")))


@dataclass
class _Filling:
    """A draft being filled with nodes, as far as the budget goes."""

    draft: _Draft
    budget: int
    spent: int = 0


def _fill(draw: DrawFn, draft: _Draft, budget: int) -> int:
    """Draw nodes until the budget is spent or chance ends it. Says how many."""
    filling = _Filling(draft, budget)
    # One strategy a node, flag to go on included: so that shrinking can drop it as a whole.
    step = _steps(filling)
    while filling.spent < budget and draw(step):
        pass
    return filling.spent


@st.composite
def _steps(draw: DrawFn, filling: _Filling) -> bool:
    """Add a node, a block or a sequence, or end. Says whether to go on."""
    draft, left = filling.draft, filling.budget - filling.spent
    form = draw(upto(15))
    if filling.spent and form < 3:
        return False
    source = _source(draw, draft, left)
    spent = 0
    if form == 15 and left > 1:
        spent = _block(draw, draft, source, min(left, 4))
    elif form == 14 and left > 1:
        spent = _sequential(draw, draft, source, left)
    elif form in (12, 13):
        spent = _again(draw, draft, source)
    if not spent:
        kind = pick(draw, _preferred(draw, _fitting(draft, source, left)))
        spent = kind.size
        _node(draw, draft, source, kind)
    filling.spent += spent
    return True


def _preferred(draw: DrawFn, kinds: tuple[Kind, ...]) -> tuple[Kind, ...]:
    """Some of the kinds: now and then those that tell the modes apart, or those with a weight."""
    preference = draw(upto(8))
    if preference < 5:
        return kinds
    return _among(kinds, preference > 5) or kinds


@cache
def _among(kinds: tuple[Kind, ...], telling: bool) -> tuple[Kind, ...]:
    preferred = _TELLING if telling else _WEIGHTED
    return tuple(k for k in kinds if k.op in preferred)


def _input(draw: DrawFn, rank: int, integer: bool) -> Shape:
    sizes = tuple(2 + draw(upto(2)) if d != 1 else 1 + draw(upto(3)) for d in range(rank))
    return Shape(sizes, high=3 + draw(upto(2)) if integer else 0)


def _inputs(draw: DrawFn, dtype: str, wanted: Kind | None, integers: bool) -> tuple[Shape, ...]:
    if wanted is not None:
        return (_input(draw, pick(draw, wanted.ranks), wanted.integer),)
    rank = pick(draw, (2, 3, 4, 2, 3, 4, 5))
    integer = integers and dtype in WIDE and rank == 2 and draw(upto(5)) == 5
    first = _input(draw, rank, integer)
    if draw(upto(4)) < 4:
        return (first,)
    return (first, first if maybe(draw) else _input(draw, pick(draw, (2, 3)), False))


@st.composite
def recipes(
    draw: DrawFn,
    dtype: str = "float32",
    having: tuple[str, ...] = (),
    without: tuple[str, ...] = (),
    budget: int = BUDGET,
) -> Recipe:
    """Modules of up to ``budget`` nodes that take ``dtype``.

    One of the kinds ``having`` is among its nodes, none of the kinds ``without``.
    """
    forced = having == (CHECKPOINT,)
    extras = FEATURES.get(having[0], ()) if having else ()
    wanted = KINDS[pick(draw, _allowed(having, dtype))] if having and not forced else None
    integers = not forced and any(k.integer and k.op not in without for k in KINDS.values())
    shapes = _inputs(draw, dtype, wanted, integers)
    if wanted is not None and not wanted.fits(shapes[0]):
        shapes = (_enlarged(shapes[0]),)
    dense = wanted is not None and wanted.dense
    transposed = [not (s.high or dense or len(s.sizes) < 2) and maybe(draw) for s in shapes]
    draft = _Draft(dtype, shapes, {i for i, t in enumerate(transposed) if not t}, without)
    if wanted is not None:
        _node(draw, draft, 0, wanted, pick(draw, extras) if extras else None)
        if maybe(draw):
            _fill(draw, draft, budget - wanted.size)
    else:
        spent = _block(draw, draft, 0, 4, checkpointed=True) if forced else 0
        if not spent or maybe(draw):
            _fill(draw, draft, budget - spent)
    inputs = tuple(Input(s.sizes, s.high, t) for s, t in zip(shapes, transposed, strict=True))
    # What a wanted node returns that is no floating-point number is seen nowhere else.
    made = range(len(shapes), len(shapes) + len(draft.made[0])) if wanted is not None else ()
    seen = [i for i in made if draft.shapes[i].high]
    outputs = tuple(dict.fromkeys([*_outputs(draw, draft), *seen]))
    return Recipe(inputs, tuple(draft.nodes), outputs, _container(draw))


@cache
def _allowed(having: tuple[str, ...], dtype: str) -> tuple[str, ...]:
    if having[0] in _FEATURED:
        ops = _FEATURED[having[0]] if having[0] == "hooked" or dtype in WIDE else ()
        return tuple(op for op in ops if dtype in KINDS[op].dtypes)
    writing = [op for op in having if KINDS[op].writes]
    if writing:
        raise ValueError(
            f"{', '.join(writing)} cannot come first: nothing is there yet to write into"
        )
    return tuple(op for op in having if dtype in KINDS[op].dtypes)


def _enlarged(shape: Shape) -> Shape:
    """A shape that every kind of this rank fits."""
    return Shape((2, *(2 + n - n % 2 for n in shape.sizes[1:])), shape.high)


def _outputs(draw: DrawFn, draft: _Draft) -> tuple[int, ...]:
    """The latest value, and some of the others."""
    last = len(draft.shapes) - 1
    others = draw(upto(3)) - 1
    more = [draw(upto(last)) for _ in range(max(others, 0))]
    return tuple(dict.fromkeys([last, *(last - back for back in more)]))


def _subset(draw: DrawFn, items: list[Any] | tuple[Any, ...]) -> tuple[Any, ...]:
    bits = draw(upto(2 ** len(items) - 1)) if items else 0
    return tuple(item for k, item in enumerate(items) if bits >> k & 1)


@st.composite
def specimens(
    draw: DrawFn,
    having: tuple[str, ...] = (),
    without: tuple[str, ...] = (),
    budget: int = BUDGET,
) -> Specimen:
    """A module with its dtype, its seed and a mixture of modes."""
    anything = not having or having == (CHECKPOINT,)
    dtypes = [d for d in _DTYPES if anything or _allowed(having, d)]
    dtype = pick(draw, dtypes)
    recipe = draw(recipes(dtype, having, without, budget))
    floating = [i for i, given in enumerate(recipe.inputs) if not given.high]
    mixture = Setting(
        training=not maybe(draw),
        switched=_switched(draw, recipe),
        grad=stack(draw),
        frozen=_subset(draw, recipe.parameters()),
        inputs=_subset(draw, floating),
    )
    return Specimen(recipe, dtype, draw(upto(2**16)), mixture)


@st.composite
def layers(draw: DrawFn, name: str) -> Specimen:
    """One layer of torch.nn alone, by the name of its class, with a mixture of modes."""
    draft, _ = _of_class(draw, name)
    return _specimen(draw, draft, tuple(range(1, len(draft.shapes))))


@st.composite
def modules_with(draw: DrawFn, name: str) -> Specimen:
    """A layer of this class within a module, which hands it an input; with a mixture of modes."""
    draft, kind = _of_class(draw, name)
    _fill(draw, draft, max(BUDGET - kind.size, 1))
    return _specimen(draw, draft, tuple(dict.fromkeys([*_outputs(draw, draft), 1])))


def _of_class(draw: DrawFn, name: str) -> tuple[_Draft, Kind]:
    """A module whose first node is a layer of this class."""
    kind = KINDS[pick(draw, kinds_of(name))]
    dtype = pick(draw, [d for d in _DTYPES if d in kind.dtypes])
    shape = _input(draw, pick(draw, kind.ranks), kind.integer)
    shape = shape if kind.fits(shape) else _enlarged(shape)
    draft = _Draft(dtype, (shape,), free={0})  # alone, it may write into its input
    _node(draw, draft, 0, kind, "")
    return draft, kind


def _specimen(draw: DrawFn, draft: _Draft, outputs: tuple[int, ...]) -> Specimen:
    """The module with its seed and a mixture in which the first layer is frozen in part.

    A layer that is frozen as a whole, or not at all, is in the lattice of every specimen.
    """
    (shape,) = draft.inputs
    recipe = Recipe((Input(*shape),), tuple(draft.nodes), outputs)
    own = node_parameters(draft.nodes[0], recipe.own_path(0))
    others = [parameter for parameter in recipe.parameters() if parameter not in own]
    mixture = Setting(
        training=not maybe(draw),
        switched=_some_parts(draw, recipe),
        grad=stack(draw),
        frozen=_part(draw, own) + _subset(draw, others),
        inputs=() if shape.high else _subset(draw, [0]),
    )
    return Specimen(recipe, draft.dtype, draw(upto(2**16)), mixture)


def _part(draw: DrawFn, items: list[Any]) -> tuple[Any, ...]:
    """Some of these, but not all; nothing where there are not several."""
    if len(items) < 2:
        return ()
    bits = 1 + draw(upto(2 ** len(items) - 3))
    return tuple(item for k, item in enumerate(items) if bits >> k & 1)


def _switched(draw: DrawFn, recipe: Recipe) -> tuple[str, ...]:
    """Outermost submodules, and now and then some that lie in another."""
    return _subset(draw, _outermost(recipe)) + _some_parts(draw, recipe)


def _some_parts(draw: DrawFn, recipe: Recipe) -> tuple[str, ...]:
    """Submodules that lie in another: mostly none, else one or a subset of them."""
    parts = recipe.parts()
    form = draw(upto(3)) if parts else 0
    if form < 2:
        return ()
    return (pick(draw, parts),) if form == 2 else _subset(draw, parts)


def _outermost(recipe: Recipe) -> list[str]:
    """Submodules that may be switched without one of them lying in another."""
    return [p for p in recipe.modules() if "." not in p.removeprefix("layers.")]
