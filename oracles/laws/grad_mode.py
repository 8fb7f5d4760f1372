"""The grad mode: a stack in each thread. The innermost context decides, leaving restores."""

from __future__ import annotations

import contextlib
import threading
import warnings

import torch

from ..law import law
from ..relations import holds
from ..sample import Nesting, Sample


def mode() -> tuple[bool, bool]:
    """The grad flag and the inference flag, as torch reports them."""
    return torch.is_grad_enabled(), torch.is_inference_mode_enabled()


@law(source="torch.no_grad, enable_grad, set_grad_enabled, inference_mode", norms=("B9", "C11"))
def the_innermost_context_decides(nesting: Nesting) -> None:
    """Contexts nest as a stack: inside all of them the mode is what the reference model says."""
    with nesting.entered():
        inside = mode()
    holds(inside, "is_grad_enabled(), is_inference_mode_enabled() inside", nesting.flags)


@law(
    source="torch.no_grad, enable_grad, set_grad_enabled, inference_mode", norms=("B1", "B9", "C2")
)
def recording_follows_the_grad_mode(nesting: Nesting) -> None:
    """A result requires grad iff the stack of contexts leaves recording on."""
    x = torch.ones(2, requires_grad=True)
    with nesting.entered():
        result = x * 2
    holds(result.requires_grad, "(x * 2).requires_grad", nesting.recording)
    holds(result.is_inference(), "(x * 2).is_inference()", nesting.flags[1])


@law(source="torch.no_grad as a context manager", norms=("B9",))
def leaving_restores_the_mode(nesting: Nesting) -> None:
    """Leaving a context restores the mode that was in force when it was entered."""
    outside = mode()
    with nesting.entered():
        between = mode()
        with torch.no_grad(), torch.enable_grad(), torch.set_grad_enabled(False):
            pass
        holds(mode(), "the mode after leaving three contexts", between)
        with torch.inference_mode():
            pass
        holds(mode(), "the mode after leaving inference_mode", between)
    holds(mode(), "the mode after leaving all contexts", outside)


@law(source="torch.no_grad as a context manager", norms=("B10",))
def leaving_by_an_exception_restores_the_mode(nesting: Nesting) -> None:
    """An exception that leaves a block restores the mode as well."""
    outside = mode()
    with contextlib.suppress(KeyError), nesting.entered():
        raise KeyError
    holds(mode(), "the mode after an exception", outside)


@law(source="torch.no_grad as a context manager", norms=("B10",))
def leaving_by_return_or_break_restores_the_mode(nesting: Nesting) -> None:
    """return and break leave a block as its end does."""

    def leave() -> None:
        with nesting.entered():
            return

    outside = mode()
    leave()
    holds(mode(), "the mode after return", outside)
    for _ in range(2):
        with nesting.entered():
            break
    holds(mode(), "the mode after break", outside)


@law(source="torch.no_grad as a context manager", norms=("B10",))
def closing_a_generator_restores_the_mode(nesting: Nesting) -> None:
    """A generator that is closed inside a block leaves it."""

    def suspended():
        with nesting.entered():
            yield

    outside = mode()
    generator = suspended()
    next(generator)
    generator.close()
    holds(mode(), "the mode after generator.close()", outside)


@law(source="torch.no_grad: 'Also functions as a decorator'", norms=("B11",))
def a_decorator_covers_the_call_and_nothing_else(nesting: Nesting) -> None:
    """A decorated function runs in the mode; defining it and having called it leave no trace."""
    with nesting.entered():
        outside = mode()
        decorated = torch.no_grad()(mode)
        holds(mode(), "the mode after decorating", outside)
        inside = decorated()
        holds(inside, "the mode inside the decorated function", (False, outside[1]))
        holds(mode(), "the mode after the call", outside)
        holds(torch.inference_mode()(mode)(), "inside @inference_mode()", (False, True))
        holds(mode(), "the mode after the call", outside)


@law(source="torch.no_grad: 'Also functions as a decorator'", norms=("B11",), since="2.1")
def a_decorator_needs_no_parentheses(nesting: Nesting) -> None:
    """@torch.no_grad is @torch.no_grad(); so for enable_grad and inference_mode."""
    with nesting.entered():
        outside = mode()
        holds(torch.no_grad(mode)(), "the mode inside @torch.no_grad", (False, outside[1]))
        holds(torch.enable_grad(mode)(), "the mode inside @torch.enable_grad", (True, outside[1]))
        holds(torch.inference_mode(mode)(), "the mode inside @torch.inference_mode", (False, True))
        holds(mode(), "the mode after the calls", outside)


@law(source="torch.no_grad: 'Also functions as a decorator'", norms=("B12",))
def a_decorated_forward_acts_as_a_block(nesting: Nesting) -> None:
    """A decorated method runs in the mode, recursively too, and gives the mode back."""

    class Recursive(torch.nn.Module):
        @torch.no_grad()
        def forward(self, depth):
            inner = self(depth - 1) if depth else []
            return [torch.is_grad_enabled(), *inner]

    with nesting.entered():
        outside = mode()
        seen = Recursive()(2)
        holds(seen, "torch.is_grad_enabled() in each forward", [False, False, False])
        holds(mode(), "the mode after the call", outside)


@law(source="torch.no_grad: 'Also functions as a decorator'", norms=("B13",))
def a_decorated_generator_gives_the_mode_back_at_each_yield(nesting: Nesting) -> None:
    """The body of a decorated generator runs in the mode, its consumer in its own."""

    @torch.no_grad()
    def stepping():
        yield torch.is_grad_enabled()
        yield torch.is_grad_enabled()

    with nesting.entered():
        outside = mode()
        for inside in stepping():
            holds(inside, "torch.is_grad_enabled() in the generator", False)
            holds(mode(), "the mode of the consumer", outside)
        holds(mode(), "the mode afterwards", outside)


@law(source="torch.no_grad: 'Also functions as a decorator'; generator.close", norms=("B13",))
def a_decorated_generator_ends_in_its_mode(nesting: Nesting) -> None:
    """What a decorated generator does on being closed, or handed an error, is done in its mode."""
    seen = []

    @torch.no_grad()
    def suspended():
        try:
            yield
        except LookupError:
            seen.append(torch.is_grad_enabled())
            yield
        finally:
            seen.append(torch.is_grad_enabled())

    with nesting.entered():
        outside = mode()
        generator = suspended()
        next(generator)
        generator.throw(LookupError())
        holds(mode(), "the mode after generator.throw(...)", outside)
        generator.close()
        holds(mode(), "the mode after generator.close()", outside)
    holds(seen, "torch.is_grad_enabled() in except and finally", [False, False])


@law(source="torch.set_grad_enabled: 'as a function'", norms=("B14", "B15"))
def a_call_of_set_grad_enabled_lasts_until_the_block_ends(nesting: Nesting) -> None:
    """set_grad_enabled(b) called as a function switches at once, and lasts as long as its block."""
    outside = mode()
    with torch.set_grad_enabled(torch.is_grad_enabled()), nesting.entered():
        for enabled in (False, True, False):
            torch.set_grad_enabled(enabled)
            holds(torch.is_grad_enabled(), "torch.is_grad_enabled() after the call", enabled)
    holds(mode(), "the mode after the enclosing block", outside)


@law(source="torch.set_grad_enabled", norms=("B16",))
def set_grad_enabled_acts_as_no_grad_or_enable_grad(nesting: Nesting) -> None:
    """set_grad_enabled(False) is no_grad and set_grad_enabled(True) is enable_grad."""
    with nesting.entered():
        outside = mode()
        with torch.set_grad_enabled(False):
            off = mode()
        with torch.no_grad():
            holds(off, "the mode in set_grad_enabled(False)", mode())
        with torch.set_grad_enabled(True):
            on = mode()
        with torch.enable_grad():
            holds(on, "the mode in set_grad_enabled(True)", mode())
        with torch.set_grad_enabled(outside[0]):  # decorating leaves a trace in old versions
            decorated = torch.set_grad_enabled(False)(mode)
            holds(mode(), "the mode after decorating with set_grad_enabled(False)", outside)
            holds(decorated(), "the mode in @set_grad_enabled(False)", (False, outside[1]))
            holds(mode(), "the mode after the call of @set_grad_enabled(False)", outside)


@law(
    source="torch.no_grad and others: 'This context manager is thread local'", norms=("B17", "B18")
)
def a_thread_has_a_mode_of_its_own(nesting: Nesting) -> None:
    """A thread starts in the default mode, and no other thread sees what it enters."""
    seen = []

    def work() -> None:
        seen.append(mode())
        with torch.inference_mode():
            entered.set()
            leave.wait(10)

    entered, leave = threading.Event(), threading.Event()
    with nesting.entered():
        outside = mode()
        thread = threading.Thread(target=work)
        thread.start()
        entered.wait(10)
        during = mode()
        leave.set()
        thread.join()
        holds(seen, "the mode in a new thread", [(True, False)])
        holds(during, "the mode here while the thread is in inference_mode", outside)


@law(source="torch.no_grad, decorating classes is deprecated", norms=("B28",), since="2.1")
def decorating_a_class_warns(nesting: Nesting) -> None:
    """Decorating a class with no_grad gives a FutureWarning, and does not cover its methods."""

    class Plain:
        def seen(self):
            return torch.is_grad_enabled()

    with nesting.entered(), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        outside = torch.is_grad_enabled()
        made = torch.no_grad()(Plain)()
    holds([w.category for w in caught], "the warnings", [FutureWarning])
    with nesting.entered():
        holds(made.seen(), "torch.is_grad_enabled() in a method", outside)


@law(source="notes/autograd, How autograd encodes the history")
def the_mode_of_a_tensor_is_fixed_when_it_is_made(sample: Sample) -> None:
    """Changing the mode later changes nothing about a tensor that is already there."""
    x = sample.tensor(requires_grad=True)
    recorded = x * 2
    with torch.no_grad():
        holds(recorded.requires_grad, "recorded.requires_grad under no_grad")
        unrecorded = x * 2
    holds(unrecorded.requires_grad, "unrecorded.requires_grad outside", False)
