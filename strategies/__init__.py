"""What can be: Hypothesis strategies for everything that laws quantify over."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from oracles.law import Law
from oracles.play import Played
from oracles.sample import Nesting, Sample
from oracles.subject import Layer, Subject

from .histories import histories
from .nestings import nestings
from .recipes import layers, recipes, specimens
from .tensors import samples

__all__ = ["drawn_for", "histories", "layers", "nestings", "recipes", "samples", "specimens"]


def drawn_for(law: Law, layer: str = "") -> SearchStrategy[dict[str, Any]]:
    """What must be drawn to judge a law once, under the names of the fields of a case.

    Settings are not drawn: a law is judged in each of them. A law that speaks of layers is
    judged on one class of torch.nn at a time; without its name, on any.
    """
    kinds = set(law.quantifiers.values())
    fields: dict[str, SearchStrategy[Any]] = {}
    if Subject in kinds:
        fields["specimen"] = specimens(having=law.having, without=law.without)
    if Layer in kinds:
        names = st.just(layer) if layer else st.sampled_from(law.layers)
        fields["specimen"] = names.flatmap(layers)
    if Sample in kinds:
        fields["sample"] = samples()
    if Nesting in kinds:
        fields["nesting"] = nestings()
    if Played in kinds:
        fields["history"] = histories()
    return st.fixed_dictionaries(fields)
