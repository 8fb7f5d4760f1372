"""The optimizers: every class of torch.optim is tried, or it is said why not."""

from __future__ import annotations

import inspect
from unittest import mock

import pytest
import torch
from torch import nn

from oracles.laws.optimizers import _computes
from oracles.optimizers import DECAYING, LEFT_OUT, OPTIMIZERS, PARTICULAR, present, takes

ALL = {**OPTIMIZERS, **DECAYING, **PARTICULAR}


def test_every_class_is_tried_or_left_out_for_a_reason() -> None:
    base = torch.optim.Optimizer
    classes = {
        name
        for name, value in vars(torch.optim).items()
        if inspect.isclass(value) and issubclass(value, base) and value is not base
    }
    written = {text.partition("(")[0].rpartition(".")[2] for text in ALL.values()}
    assert classes == written | set(LEFT_OUT)


@pytest.mark.parametrize("name", [n for n in ALL if present(n, torch.__version__)])
def test_each_is_written_so_that_it_can_be_built(name: str) -> None:
    model = nn.Linear(2, 2)
    scope = {"torch": torch, "nn": nn, "model": model}
    optimizer = eval(ALL[name].format("model.parameters()"), scope)
    model(torch.ones(1, 2)).sum().backward()
    before = model.weight.detach().clone()
    optimizer.step(lambda: torch.zeros(()))
    assert not torch.equal(model.weight, before)


def test_an_older_torch_lacks_some() -> None:
    assert present("SGD", "2.0.1")
    assert not present("Adam_fused", "2.3.1")
    assert not present("Adafactor_decaying", "2.4.1")
    assert present("Muon", "2.13.0+cpu")


def test_some_take_real_numbers_or_wide_ones_alone() -> None:
    assert takes("Adam", "complex64")
    assert not takes("Adam_fused", "complex64")
    assert not takes("LBFGS", "float16")
    assert takes("LBFGS", "complex64")


def test_a_step_for_which_torch_has_no_kernel_is_not_tried() -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise RuntimeError("\"addcdiv_cpu_out\" not implemented for 'Half'")

    _computes.cache_clear()
    try:
        assert _computes(OPTIMIZERS["SGD"], "float16")
        with mock.patch.object(torch.optim.Adam, "step", refuse):
            assert not _computes(OPTIMIZERS["Adam"], "float16")
    finally:
        _computes.cache_clear()
