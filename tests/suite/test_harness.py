"""How a law is judged, apart from any run: what its cases must meet, seeds, profiles."""

from __future__ import annotations

import pytest

from oracles.deviations import astray, load
from oracles.history import BLOCKS, SIMPLE
from oracles.law import LAWS
from oracles.machine import Machine
from oracles.trial import Trial, examples, kind_of
from tests.harness import coverage, profiles, seeds

LAW = "torch_agrees_with_the_reference_machine"


def met(*but: str) -> Trial:
    """A trial whose histories reached everything but these kinds of steps and refusals."""
    trial = Trial(LAWS[LAW], "cpu", load())
    kinds = [*SIMPLE, *BLOCKS]
    histories = [case.history for case in examples(trial.law, "cpu") if case.history]
    moments = [m for h in histories for m in Machine(astray()).play(h) if m.refusal]
    refused = {m.refusal.phrase for m in moments if m.refusal}
    pairs = [(a, b) for a in kinds for b in kinds]
    reached = [(kind,) for kind in kinds] + [("", "", phrase) for phrase in refused]
    trial.tally.reached = {*pairs, *(r for r in reached if r[-1] not in but)}
    trial.tally.subjects = coverage.ENOUGH
    return trial


def test_what_was_never_reached_is_named() -> None:
    assert coverage.unmet(met()) == ""
    count = len(SIMPLE) + len(BLOCKS)
    text = f"too few kinds of steps: {count - 2} of {count}, never pool, tanh"
    assert coverage.unmet(met("tanh", "pool")) == text
    never = coverage.unmet(met("Can't detach views in-place"))
    assert never == "too few refusals: 29 of 30, never Can't detach views in-place"


def test_too_few_pairs_are_counted() -> None:
    trial = met()
    pairs = [r for r in trial.tally.reached if len(r) == 2]
    trial.tally.reached -= set(pairs[1312:])
    assert coverage.unmet(trial) == "too few pairs of kinds: 1,312 of 1,500"


@pytest.mark.parametrize(
    ("given", "said"), [("", f"{seeds.RECORDED} (recorded)"), ("7", "7 (given)")]
)
def test_a_seed_says_where_it_is_from(given: str, said: str) -> None:
    assert str(seeds.chosen(given)) == said


def test_a_random_seed_is_new_each_time() -> None:
    found = {seeds.chosen("random") for _ in range(5)}
    assert len(found) == 5
    assert {seed.origin for seed in found} == {"drawn"}


def test_a_profile_that_is_not_known_is_said_with_those_that_are() -> None:
    assert [name for name in profiles.SUBJECTS if profiles.unknown(name)] == []
    assert (
        profiles.unknown("fast")
        == "no profile is named 'fast'; known profiles: dev, ci, nightly, debug"
    )


def test_kinds_of_facts_have_no_names_and_numbers() -> None:
    one, other = "model.state_dict()['n0.weight']", "model.state_dict()['n12.bias']"
    assert kind_of(one) == kind_of(other)
    assert kind_of(one) != kind_of("out[0]")
