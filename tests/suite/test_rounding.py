"""Rounding is told from meaning: measured on modules whose difference is known."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from oracles.case import Case, read
from oracles.deviations import CORPUS, load
from oracles.law import LAWS, Violation
from oracles.recipe import Input, Node, Recipe
from oracles.rounding import FACTOR
from oracles.setting import Setting
from oracles.specimen import Specimen
from oracles.subject import Subject, Variation
from oracles.trial import Trial, forget, violations

LAW: Final = "freezing_changes_no_value"
ROUNDED: Final = sorted((CORPUS / "rounding").glob("*.json"))
DTYPES: Final = ("float32", "float64", "bfloat16")


def judged(case: Case) -> Trial:
    trial = Trial(LAWS[case.law], "cpu", load(), everywhere=True)
    trial.judge(case)
    return trial


@pytest.mark.parametrize("path", ROUNDED, ids=lambda path: path.stem)
def test_what_rounded_once_is_no_violation(path: Path) -> None:
    """Whether these differ at all depends on the processor: they never break their law."""
    trial = judged(read(path))
    assert not trial.tally.deviating
    assert trial.tally.ulps < 2 * FACTOR


Forward = Callable[..., Tensor]


def linear(dtype: str, width: int = 8) -> Case:
    """A linear layer that is frozen, after a nonlinear function."""
    layer = Node("Linear", (1,), {"in_features": width, "out_features": 3, "bias": True})
    recipe = Recipe((Input((4, width)),), (Node("Tanh", (0,)), layer), (2,))
    frozen = Setting(frozen=("n1.weight", "n1.bias"))
    return Case(LAW, specimen=Specimen(recipe, dtype, seed=3), setting=frozen)


def planted(monkeypatch: pytest.MonkeyPatch, changed: Callable[..., Tensor]) -> None:
    """F.linear does something else where its weight is frozen."""
    plain = functional.linear

    def other(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        if weight.requires_grad:
            return plain(x, weight, bias)
        return changed(plain, x, weight, bias)

    monkeypatch.setattr(functional, "linear", other)
    forget()


def reordered(plain: Forward, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The same sum in another order."""
    return plain(x.flip(-1), weight.flip(-1)) + bias


def changed_by_a_thousandth(plain: Forward, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return plain(x, weight, bias) * 1.001


def truncated(plain: Forward, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """As TF32: ten bits of the mantissa are kept."""
    mantissa, exponent = torch.frexp(weight)
    return plain(x, torch.ldexp(torch.trunc(mantissa * 2**10) / 2**10, exponent), bias)


def accumulated_in_half(plain: Forward, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    total = bias.half().expand(*x.shape[:-1], len(bias))
    for k in range(x.shape[-1]):
        total = total + x[..., k, None].half() * weight[:, k].half()
    return total.to(x.dtype)


def biased_twice(plain: Forward, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return plain(x, weight, bias) + bias * 1e-4


def without_a_row(plain: Forward, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    out = plain(x, weight, bias)
    return torch.cat([out[:-1], torch.zeros_like(out[-1:])])


def without_a_number(plain: Forward, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    out = plain(x, weight, bias)
    return out.masked_fill(out == out.max(), torch.nan)


def without_a_bound(plain: Forward, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    out = plain(x, weight, bias)
    return out.masked_fill(out == out.max(), torch.inf)


@pytest.mark.parametrize("dtype", DTYPES)
def test_another_order_of_a_sum_is_rounding(dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    planted(monkeypatch, reordered)
    trial = judged(linear(dtype, width=32))
    assert trial.tally.rounded == 1
    assert 0 < trial.tally.ulps < FACTOR
    forget()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "change",
    [
        changed_by_a_thousandth,
        truncated,
        accumulated_in_half,
        biased_twice,
        without_a_row,
        without_a_number,
        without_a_bound,
    ],
)
def test_meaning_is_not_rounding(
    dtype: str, change: Callable[..., Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the difference is smaller than the dtype can show, there is none: bfloat16."""
    planted(monkeypatch, change)
    # Where the values are the same in a half type, nothing is there to be seen.
    seen = violations(linear(dtype))
    assert seen or dtype == "bfloat16"
    for violation in seen:
        with pytest.raises(Violation, match=re.escape(violation.observed.expression)):
            judged(linear(dtype))
    forget()


def test_what_rounding_tips_is_decided_by_what_feeds_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A comparison of a sum with itself in another order is tipped; one that is far off is not."""
    wide = {"in_features": 32, "out_features": 32, "bias": True}
    nodes = (Node("Linear", (0,), wide), Node("argmax", (1,)))
    recipe = Recipe((Input((4, 32)),), nodes, (2,))
    case = Case(LAW, specimen=Specimen(recipe), setting=Setting(frozen=("n0.weight", "n0.bias")))

    def shifted(plain: Forward, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return plain(x, weight, bias).roll(1, -1)

    planted(monkeypatch, shifted)
    with pytest.raises(Violation):
        judged(case)
    forget()


def test_a_variation_moves_each_value_by_so_many_ulps() -> None:
    specimen = linear("float32").specimen
    assert specimen is not None
    subject = Subject(specimen)
    moved = subject.varied(Variation(None, 1.0, 1))
    again = Subject(subject.specimen, "cpu", Variation(None, 1.0, 1))
    eps = torch.finfo(torch.float32).eps
    for name, before in subject.saved.items():
        after = moved.saved[name]
        ratio = (after.double() / before.double() - 1).abs() / eps
        assert float(ratio.min()) >= 0.4 and float(ratio.max()) <= 1.6, name
        assert torch.equal(after, again.saved[name])
    wide = subject.varied(Variation(torch.float64))
    assert all(torch.equal(wide.saved[n], t.double()) for n, t in subject.saved.items())
    assert subject.varied(Variation()) is not subject
    assert wide.unchecked().variation == wide.variation
