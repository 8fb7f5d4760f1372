"""Processes: which mode one begins in, whose the flags are, and what is sent between them."""

from __future__ import annotations

import atexit
import gc
import multiprocessing
import os
import sys
import warnings
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch import multiprocessing as processes
from torch.utils.data import DataLoader, Dataset

from ..drawing import choices, mode
from ..law import NotApplicable, law
from ..relations import equal, holds, refuses
from ..sample import Nesting, Sample


def _in_a_fork(call: Any) -> list[int]:
    """What is returned, some small numbers, by a call in a process that is forked here."""
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of threads: none of them is needed there
        child = os.fork()
    if child == 0:
        gc.disable()  # what is collected there is not its own
        try:
            os.write(writing, bytes(call()))
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        return list(pipe.read())


def _flags(model: nn.Module) -> list[bool]:
    """Whether it trains, and which of its parameters require grad."""
    return [model.training, *[p.requires_grad for p in model.parameters()]]


@law(
    source="undocumented: os.fork; Module.share_memory; torch.no_grad: 'thread local'",
    costly=True,
)
def a_forked_process_begins_in_the_mode_of_its_parent(sample: Sample, nest: Nesting) -> None:
    """It has the grad mode in which it was forked, and records accordingly.

    What it is told there is told to copies: modes and flags here stay as they are, and so do
    values, but those in shared memory.
    """
    if sample.device != "cpu" or not hasattr(os, "fork"):
        raise NotApplicable("processes are forked on the CPU, where the system can fork")
    draw = choices(sample.seed, sample.shape, nest.contexts)
    model = nn.Linear(1, 1).train(draw.random() < 0.5)
    for parameter in model.parameters():
        parameter.requires_grad_(draw.random() < 0.5)
    shared = draw.random() < 0.5
    if shared:
        model.share_memory()
    flags, value = _flags(model), model.bias.item()

    def call() -> list[bool]:
        seen = [torch.is_grad_enabled(), torch.is_inference_mode_enabled()]
        seen += [(model.bias * 1).requires_grad, *_flags(model)]
        torch._C._set_grad_enabled(not seen[0])
        model.bias.data.fill_(7)
        model.train(not model.training)
        for parameter in model.parameters():
            parameter.requires_grad_(not parameter.requires_grad)
        return seen

    with nest.entered():
        inside = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
        recorded = mode()[0] and model.bias.requires_grad
        seen = _in_a_fork(call)
        kept = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
    holds(
        seen,
        "the mode, what was recorded and the flags in the fork",
        [int(s) for s in (*inside, recorded, *flags)],
    )
    holds(kept, "the mode here", inside)
    holds(_flags(model), "the flags here", flags)
    holds(model.bias.item(), "the value here", 7.0 if shared else value)


#: A process that was spawned, and is kept for all cases: it takes seconds to begin.
_SPAWNED = {}  # type: ignore[var-annotated]


def _spawned() -> Any:
    """A process that was spawned while grad was disabled."""
    if "pool" not in _SPAWNED:
        main = sys.modules["__main__"]  # what runs here is not to be run there
        nameless = mock.patch.object(main, "__spec__", None, create=True)
        with nameless, mock.patch.object(main, "__file__", None, create=True), torch.no_grad():
            _SPAWNED["pool"] = multiprocessing.get_context("spawn").Pool(1)
            atexit.register(_SPAWNED["pool"].terminate)
            _SPAWNED["begun"] = _SPAWNED["pool"].apply(torch.is_grad_enabled)
    return _SPAWNED["pool"]


@law(source="torch.no_grad: 'thread local'; multiprocessing, spawn", costly=True)
def a_spawned_process_has_a_mode_of_its_own(sample: Sample, nest: Nesting) -> None:
    """It begins with grad enabled, and is told apart from this one: each keeps its own mode."""
    if sample.device != "cpu":
        raise NotApplicable("processes are spawned on the CPU")
    draw = choices(sample.seed, sample.shape, nest.contexts)
    pool = _spawned()
    holds(_SPAWNED["begun"], "whether grad was enabled there at first")
    there = pool.apply(torch.is_grad_enabled)
    with nest.entered():
        for _ in range(2):
            here = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
            holds(pool.apply(torch.is_grad_enabled), "whether grad is enabled there", there)
            holds(pool.apply(torch.is_inference_mode_enabled), "whether inference mode is", False)
            there = draw.random() < 0.5
            pool.apply(torch._C._set_grad_enabled, (there,))
            kept = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
            holds(kept, "the mode here", here)
    holds(pool.apply(torch.is_grad_enabled), "whether grad is enabled there", there)


class _Modes(Dataset):  # type: ignore[type-arg]
    """Its samples say in which mode they were made."""

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> tuple[bool, bool]:
        return torch.is_grad_enabled(), torch.is_inference_mode_enabled()


class _Leaves(Dataset):  # type: ignore[type-arg]
    """Its samples are leaves that require grad."""

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> Tensor:
        return torch.ones(1, requires_grad=True)


def _loader(dataset: Any, workers: int, kept: bool, size: int | None) -> Any:
    """A loader of all samples, with processes or without."""
    options: dict[str, Any] = {}
    if workers:
        options = {"multiprocessing_context": "fork", "persistent_workers": kept}
    return DataLoader(dataset, batch_size=size, num_workers=workers, **options)


@law(
    source="undocumented: torch.utils.data.DataLoader, multi-process loading (#82411)", costly=True
)
def samples_are_made_in_the_mode_in_which_their_process_began(
    sample: Sample, nest: Nesting
) -> None:
    """A worker that is forked keeps the mode in which iteration began, for good if it is persistent.

    Without workers samples are made in the mode in which the next one is asked for.
    """
    if sample.device != "cpu" or not hasattr(os, "fork"):
        raise NotApplicable("workers are forked on the CPU, where the system can fork")
    draw = choices(sample.seed, sample.shape, nest.contexts)
    workers, kept, later = int(draw.random() < 0.5), draw.random() < 0.5, draw.random() < 0.5
    loader = _loader(_Modes(), workers, kept, None)
    with nest.entered():
        inside = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
        iterator = iter(loader)
        found = [tuple(next(iterator))]
    with torch.set_grad_enabled(later):
        found += [tuple(made) for made in iterator]
        again = [tuple(made) for made in loader]
    outside = later, False
    holds(
        found,
        f"the modes of samples, {workers} workers",
        [inside, *[inside if workers else outside] * 2],
    )
    wanted = inside if workers and kept else outside
    holds(again, f"those of a second iteration, persistent {kept}", [wanted] * 3)


@law(source="torch.utils.data.default_collate; torch.no_grad; notes/autograd", costly=True)
def a_batch_of_leaves_is_recorded_where_grad_is_enabled(sample: Sample, nest: Nesting) -> None:
    """Samples that require grad are a batch that does so where it is recorded, and is no leaf.

    A worker that is forked where nothing is recorded sends one that does not. One that is forked
    where grad is enabled is refused to make it (undocumented): that takes seconds to end, and is
    not tried.
    """
    if sample.device != "cpu" or not hasattr(os, "fork"):
        raise NotApplicable("workers are forked on the CPU, where the system can fork")
    draw = choices(sample.seed, sample.shape, nest.contexts)
    with nest.entered():
        recorded, _ = mode()
        workers = int(draw.random() < 0.5 and not recorded)
        batch = next(iter(_loader(_Leaves(), workers, False, 2)))
        holds(batch.requires_grad, f"whether the batch requires grad, {workers} workers", recorded)
        holds(batch.is_leaf, "whether it is a leaf", not recorded)


def _sent(thing: Any) -> Any:
    """What arrives of what is sent through a queue."""
    queue: Any = processes.SimpleQueue()  # type: ignore[no-untyped-call]
    try:
        queue.put(thing)
        return queue.get()
    finally:
        queue.close()


@law(source="notes/multiprocessing: 'the Tensor data is shared'; torch.multiprocessing")
def what_is_sent_shares_its_memory_and_keeps_its_flag(sample: Sample, nest: Nesting) -> None:
    """A leaf arrives as a leaf with the flag it had, a parameter as a parameter, and shares memory.

    A module arrives with each of its flags. Received in inference mode it is an inference tensor.
    No gradient arrives, though the note says that it is shared (undocumented).
    """
    if sample.device != "cpu":
        raise NotApplicable("memory is shared on the CPU")
    draw = choices(sample.seed, sample.shape, sample.dtype, nest.contexts)
    told, parameter = draw.random() < 0.5, draw.random() < 0.5
    x = nn.Parameter(sample.tensor(), requires_grad=told) if parameter else sample.tensor(told)
    if told and draw.random() < 0.5:
        x.grad = torch.ones_like(x)
    with nest.entered():
        _, inference = mode()
        received = _sent(x)
    facts = [type(received) is type(x), received.requires_grad, received.is_leaf]
    holds(facts, "the class, the flag, and whether it is a leaf", [True, told, True])
    holds(received.is_inference(), "whether it is an inference tensor", inference)
    holds(received.grad is None, "whether no gradient arrives")
    x.data.fill_(3)
    equal(received.detach(), x.detach(), "what arrived, after writing into what was sent")
    model = nn.Sequential(nn.Linear(1, 1), nn.Dropout())
    model.train(draw.random() < 0.5)[0].train(draw.random() < 0.5)
    model[0].weight.requires_grad_(draw.random() < 0.5)
    twin = _sent(model)
    holds([m.training for m in twin.modules()], "its modes", [m.training for m in model.modules()])
    holds(_flags(twin), "its flags", _flags(model))


@law(source="torch.multiprocessing: 'autograd does not support crossing process boundaries'")
def what_was_recorded_is_not_sent(sample: Sample, nest: Nesting) -> None:
    """A result that requires grad is refused in any mode; what is detached from it is sent."""
    if sample.device != "cpu":
        raise NotApplicable("memory is shared on the CPU")
    result = sample.tensor(requires_grad=True) * 1
    with nest.entered():
        refuses(lambda: _sent(result), RuntimeError, "non-leaf tensor which requires_grad")
        received = _sent(result.detach())
    holds(received.requires_grad, "whether what arrived requires grad", False)
