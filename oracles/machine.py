"""The reference machine: what each step of a history does, in plain Python.

This is the definition of the semantics, written to be read. It imports no torch. It knows what
the grad mode is in each thread, which tensors require grad, which are leaves, what was recorded
and saved, who has a gradient, which modules train, what moved, whether randomness was drawn, and
which steps are refused and why.

It says what the documentation promises, or what follows from it. Where torch is known to do
something else, the other rule stands beside it under the name of a deviation in the register;
the machine follows it if it is told to go astray there.

Sources: A notes/autograd (Locally disabling gradient computation; In-place operations);
B torch.no_grad, enable_grad, set_grad_enabled, inference_mode; C C++ notes/inference_mode;
D nn.Module; E torch.optim; F torch.autograd.backward and grad.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Final

from .history import History, Step
from .optimizers import STATELESS
from .setting import GradState
from .things import (
    Context,
    Hook,
    Leaf,
    MadeClass,
    Module,
    Node,
    Optimizer,
    Refusal,
    Saved,
    Storage,
    Tensor,
    Thread,
    Unsaid,
)

#: Rules on which torch is known to go another way: each is the name of a deviation.
ASTRAY: Final = (
    "inference_mode_false_enables_grad_under_no_grad",
    "a_decorator_leaves_a_coroutine_before_it_runs",
    "tasks_share_the_mode_of_their_thread",
    "a_context_entered_again_forgets_its_first_mode",
    "detaching_in_place_does_nothing_in_inference_mode",
    "nothing_is_recorded_of_inference_tensors_alone",
    "a_refused_write_to_an_inference_tensor_is_done",
    "retained_gradients_are_filled_whatever_is_asked_for",
    "converting_in_another_mode_makes_half_an_inference_tensor",
    "detaching_in_place_does_not_forget_a_retained_gradient",
    "detaching_an_inference_tensor_lets_it_be_written_to",
    "a_deep_copy_of_a_module_has_no_gradients",
    "fused_optimizers_write_to_inference_tensors",
    "fused_optimizers_count_no_version",
    "copies_of_a_parametrized_module_share_their_class",
)


@dataclass(frozen=True)
class Moment:
    """What must be seen after one step.

    number   of the step, in the order in which they are written
    refusal  how it was refused; None if it was not
    facts    what must be seen: by name, the facts of each thing
    drawn    whether randomness was drawn
    """

    number: int
    refusal: Refusal | None
    facts: dict[str, Any]
    drawn: bool


@dataclass(frozen=True)
class Pause:
    """A body lets others run: the step that says so."""

    step: Step


#: What a body hands on in between: the moments of its steps, and where it lets others run.
Course = Generator[Moment | Pause, None, None]
GIVEN: Final = "weights"
#: Steps after which nothing is looked at: they are places in a block, and do nothing themselves.
SILENT: Final = ("suspended", "task", "await")


class Unnamed(NameError):
    """Nothing has this name: what should have made it went another way."""


class Names(dict[str, Any]):
    """Things by their names: what was not made has none, as in Python."""

    def __missing__(self, name: str) -> Any:
        raise Unnamed(name)


class Machine:
    """Plays a history, step by step.

    astray  the rules on which it goes the way that torch is known to go
    fired   those of them that made a difference so far
    bodies  where the steps inside of a block come from: they may be drawn while it runs
    """

    def __init__(
        self,
        astray: frozenset[str] = frozenset(),
        bodies: Callable[[Step], Iterator[Step]] = lambda step: iter(step.body),
    ) -> None:
        self.astray = astray
        self.fired: set[str] = set()
        self.bodies = bodies
        self.names = Names({GIVEN: Tensor()})
        self.thread = Thread()
        self.pool = Thread(number=1)
        self.threads = 1
        self.thread.order = 10**6  # a thread that has recorded before
        self.drawn = False
        self.moved: list[Storage] = []
        #: What was seen inside of hooks while a step was done.
        self.meanwhile: list[Moment] = []
        self.numbers: dict[int, int] = {}

    # --- playing --------------------------------------------------------------------------------

    def play(self, history: History) -> Iterator[Moment]:
        """What must be seen after each step, in the order in which they happen."""
        self.numbers = {id(step): number for number, step in enumerate(history.walk())}
        with suppress(Unsaid):
            for moment in self.run(iter(history.steps)):
                assert isinstance(moment, Moment)
                yield moment

    def run(self, steps: Iterator[Step]) -> Course:
        """Do the steps one after the other."""
        for step in steps:
            refusal = None
            block = getattr(self, f"in_{step.kind}", None)
            if block is not None:
                yield from block(step)
            else:
                try:
                    if step.on:
                        self.named(step.on)  # what has no name is no step of a history
                    made = getattr(self, f"do_{step.kind}")(step)
                    if step.makes:
                        self.names[step.makes] = made
                except Refusal as raised:
                    refusal = raised
                yield from self.meanwhile
                self.meanwhile = []
            if step.kind not in SILENT:
                number = self.numbers.get(id(step), -1)
                moment = Moment(number, refusal, self.facts(), self.drawn)
                self._nothing_moved()
                yield moment

    def _nothing_moved(self) -> None:
        self.drawn = False
        for storage in self.moved:
            storage.moved = False
        self.moved.clear()

    def facts(self) -> dict[str, Any]:
        """All that can be seen now."""
        mode = self.thread.mode
        found: dict[str, Any] = {"mode": (mode.grad, mode.inference)}
        for name, value in self.names.items():
            if isinstance(value, Tensor):
                if name != GIVEN:
                    found[name] = value.facts()
            elif isinstance(value, Module):
                for path, module in value.walk():
                    found[f"{name}:{path}"] = (module.training,)
                    if module.counter is not None:
                        found[f"{name}#{path}"] = (module.counted,)
                for path, parameter in value.named_parameters().items():
                    found[f"{name}/{path}"] = (*parameter.facts(), parameter.storage.moved)
        return found

    def goes_astray(self, rule: str) -> bool:
        """Whether to follow torch where it departs from the rule; to be asked where it matters."""
        if rule in self.astray:
            self.fired.add(rule)
            return True
        return False

    def named(self, name: str) -> Any:
        """What has this name: a tensor, a module, a submodule, a parameter."""
        root, *path = name.split(".")
        value = self.names[root]
        for part in path:
            children = dict(value.named_children()) if isinstance(value, Module) else {}
            value = Names(value.parameters | children)[part]
        return value

    # --- grad modes (B) -------------------------------------------------------------------------

    @property
    def recording(self) -> bool:
        """Whether operations are recorded. Source: A, Grad modes."""
        return self.thread.mode.recording

    def entered(self, written: str) -> GradState:
        """The mode inside of a context. Source: B."""
        written = written if written.endswith(")") else f"{written}()"
        inside = self.thread.mode.enter(written)
        if written == "torch.inference_mode(False)":
            other = GradState(grad=True)
            if other != inside and self.goes_astray(
                "inference_mode_false_enables_grad_under_no_grad"
            ):
                return other
        return inside

    def left(self, written: str, saved: GradState) -> GradState:
        """The mode after leaving a context: inference_mode restores both flags, all others one."""
        if "inference_mode" in written:
            return saved
        return replace(self.thread.mode, grad=saved.grad)

    def in_with(self, step: Step) -> Course:
        """A block restores the mode however it is left. Source: B, context managers."""
        saved, written = self.thread.mode, step.words[0]
        self.thread.mode = self.entered(written)
        try:
            yield from self.inner(step)
        finally:
            self.thread.mode = self.left(written, saved)

    def inner(self, step: Step) -> Course:
        """The steps inside of a block."""
        yield from self.run(self.bodies(step))

    def in_decorated(self, step: Step) -> Course:
        """A decorator covers the call and nothing outside of it. Source: B."""
        written, form = step.words
        saved = self.thread.mode
        inside = self.entered(written)
        late = form in ("coroutine", "asynchronous generator")
        if late and self.goes_astray("a_decorator_leaves_a_coroutine_before_it_runs"):
            yield from self.inner(step)
            return
        self.thread.mode = inside
        yield from self.inner(step)
        self.thread.mode = self.left(written, saved)

    def in_generator(self, step: Step) -> Course:
        """A decorated generator gives the mode back at each yield. Source: B, _contextlib.

        A generator that is not decorated leaves its own blocks open while it is suspended.
        """
        written = step.words[0]
        course = self.inner(step)
        # One that is left early is not resumed after the last time that it was suspended.
        left = _suspensions(step) if step.body and step.words[1] != "exhausted" else None
        if left == 0:
            return
        while True:
            saved = self.thread.mode
            if written:
                self.thread.mode = self.entered(written)
            paused = None
            if left == 0:
                course.close()
            for moment in course:
                if isinstance(moment, Pause):
                    paused = moment
                    break
                yield moment
            if written:
                self.thread.mode = self.left(written, saved)
            if paused is None:
                return
            left = None if left is None else left - 1
            yield from self.run(self.bodies(paused.step))

    def in_suspended(self, step: Step) -> Course:
        """The generator is suspended; what happens meanwhile is done by whoever advances it."""
        yield Pause(step)

    def in_thread(self, step: Step) -> Course:
        """A new thread begins in the default mode, and leaves others alone. Source: B."""
        self.threads += 1
        yield from self._elsewhere(step, Thread(number=self.threads))

    def in_pool(self, step: Step) -> Course:
        """The thread of a pool keeps its own mode from one call to the next. Source: B."""
        yield from self._elsewhere(step, self.pool)

    def _elsewhere(self, step: Step, thread: Thread) -> Course:
        here, self.thread = self.thread, thread
        yield from self.inner(step)
        self.thread = here

    def in_tensor_hook(self, step: Step) -> Course:
        """It is called when the gradient is there: of what was recorded until now. Source: F."""
        tensor = self.named(step.on)
        self.names[step.makes] = hook = Hook(step)
        (tensor.history() or tensor).hooks.append(hook)
        yield from ()

    def in_forward_hook(self, step: Step) -> Course:
        """It is called after each forward, in the mode of forward. Source: Module hooks."""
        self.names[step.makes] = hook = Hook(step)
        self.named(step.on).hooks.append(hook)
        yield from ()

    def do_remove_hook(self, step: Step) -> None:
        """A hook that was removed is not called. Source: RemovableHandle."""
        self.names[step.on].active = False

    def call(self, hooks: list[Hook]) -> None:
        """Call each hook that is there still; it takes itself away. Source: Module hooks."""
        for hook in [h for h in hooks if h.active]:
            hook.active = False
            outer, self.meanwhile = self.meanwhile, []
            moments = []
            # After a step that goes another way here than in torch, what the next one is about may
            # have no name. The moments until then are compared, and they tell the difference.
            with suppress(Unnamed):
                for moment in self.run(self.bodies(hook.step)):
                    if isinstance(moment, Moment):
                        moments.append(moment)
            self.meanwhile = outer + moments

    def call_in_backward(self, hooks: list[Hook]) -> None:
        """Backward runs with grad disabled, and what a hook switches ends with it. Source: F."""
        outside = self.thread.mode
        self.thread.mode = replace(outside, grad=False)
        self.call(hooks)
        self.thread.mode = outside

    def in_tasks(self, step: Step) -> Course:
        """Tasks take turns at each await, each in a mode of its own. Source: B, thread local."""
        shared = self.thread
        courses: list[tuple[Course, Thread]] = []
        for task in self.bodies(step):
            courses.append((self.inner(task), replace(shared)))
        while courses:
            course, own = courses.pop(0)
            if own.mode != shared.mode and self.goes_astray("tasks_share_the_mode_of_their_thread"):
                own.mode = shared.mode
            own.order = shared.order
            self.thread = own
            for moment in course:
                if isinstance(moment, Pause):
                    courses.append((course, own))
                    break
                yield moment
            if own.mode != shared.mode and self.goes_astray("tasks_share_the_mode_of_their_thread"):
                shared.mode = own.mode
            shared.order = own.order
            self.thread = shared

    def in_await(self, step: Step) -> Course:
        """The task waits: the next one runs."""
        yield Pause(step)

    def do_set_grad_enabled(self, step: Step) -> None:
        """A bare call switches at once, until the block around it ends. Source: B."""
        self.thread.mode = replace(self.thread.mode, grad=step.words[0] == "True")

    def do_context(self, step: Step) -> Context:
        """Making a context manager does nothing; set_grad_enabled switches at once. Source: B."""
        written = step.words[0]
        made = Context(written)
        if "set_grad_enabled" in written:
            made.saved.append(self.thread.mode)
            self.thread.mode = self.entered(written)
        return made

    def do_enter(self, step: Step) -> None:
        """Entering by hand is what a with statement does. Source: B."""
        context: Context = self.names[step.on]
        early = "set_grad_enabled" in context.written  # it saved the mode when it was made
        again = context.active > 0 or (early and context.used)
        astray = again and self.goes_astray("a_context_entered_again_forgets_its_first_mode")
        if astray and "inference_mode" in context.written and context.saved:
            # The guard of the first time switches back when that of the second time is there.
            first, context.saved = context.saved, [self.thread.mode]
            self.thread.mode = self.left(context.written, first[-1])
            context.active += 1
            return
        if astray and not early:
            context.saved.clear()
        if not early or (again and not astray):
            context.saved.append(self.thread.mode)
        context.active, context.used = context.active + 1, True
        self.thread.mode = self.entered(context.written)

    def do_leave(self, step: Step) -> None:
        """Leaving by hand restores what was there on entering. Source: B."""
        context: Context = self.names[step.on]
        if not context.active:
            raise LookupError(f"{step.on} is left before it is entered: nothing is said of that")
        context.active -= 1
        if context.saved:
            self.thread.mode = self.left(context.written, context.saved[-1])
        if len(context.saved) > 1 or "inference_mode" in context.written:
            del context.saved[-1:]

    # --- tensors (A, C) -------------------------------------------------------------------------

    def made(self, told: bool = False) -> Tensor:
        """A new tensor: an inference tensor if it is made in inference mode. Source: C."""
        return Tensor(told, inference=self.thread.mode.inference)

    def do_tensor(self, step: Step) -> Tensor:
        """A factory's tensor does not require grad. Source: Tensor.requires_grad."""
        return self.made()

    def do_requiring_tensor(self, step: Step) -> Tensor:
        """Factories honour requires_grad=True in every mode. Source: torch.no_grad, note."""
        return self.made(told=True)

    def do_parameter(self, step: Step) -> Tensor:
        """A parameter requires grad in whichever mode it is made. Source: nn.Parameter."""
        return self.made(told=True)

    def result(
        self, *inputs: Tensor, saved: tuple[Tensor, ...] = (), saves_result: bool = False
    ) -> Tensor:
        """What an operation computes. saved is what backward needs of its inputs.

        Source: A, Setting requires_grad; C, inference tensors cannot be saved for backward.
        """
        found = self.made()
        # Outside of inference mode, torch may compute with these in several steps.
        found.storage.counted = not any(t.inference for t in inputs)
        found.node = self.recorded(inputs, saved)
        if found.node is not None and saves_result:
            found.node.saved.append(Saved(found.storage, 0, None))
        return found

    def recorded(self, inputs: tuple[Tensor, ...], saved: tuple[Tensor, ...] = ()) -> Node | None:
        """The node of an operation on these, if it is recorded."""
        requiring = [t for t in inputs if t.requires_grad]
        if not self.recording or not requiring:
            return None
        rule = "nothing_is_recorded_of_inference_tensors_alone"
        if all(t.inference for t in inputs) and self.goes_astray(rule):
            return None
        for tensor in saved:
            if tensor.inference:
                raise Refusal("RuntimeError", "Inference tensors cannot be saved for backward")
            self.versioned(tensor)
        self.thread.order += 1
        kept = [
            Saved(t.storage, t.storage.version, t if t.history() else None, t if t.made else None)
            for t in saved
        ]
        edges = [self.edge(t) for t in requiring if t.carries]
        return Node(self.thread.order, edges, kept, thread=self.thread.number)

    def versioned(self, tensor: Tensor) -> None:
        """Refuse a tensor that was an inference tensor and has no version."""
        if tensor.versionless:
            raise Refusal("RuntimeError", "Inference tensors do not track version counter")

    def edge(self, tensor: Tensor) -> Node | Leaf:
        """Where the gradient of a tensor goes: to its node, or into the leaf."""
        return tensor.history() or tensor.leaf

    def do_add(self, step: Step) -> Tensor:
        """A sum needs nothing of its inputs for backward."""
        return self.result(self.named(step.on), self.named(step.words[0]))

    def do_mul(self, step: Step) -> Tensor:
        """A product needs each factor for the gradient of the other."""
        left, right = self.named(step.on), self.named(step.words[0])
        return self.result(left, right, saved=self.factors(left, right))

    def factors(self, left: Tensor, right: Tensor) -> tuple[Tensor, ...]:
        """What of two factors is saved: each for the gradient of the other."""
        if not self.recording:
            return ()
        return (left,) * right.carries + (right,) * left.carries

    def do_tanh(self, step: Step) -> Tensor:
        """tanh needs its own result for backward."""
        return self.result(self.named(step.on), saves_result=True)

    def do_clone(self, step: Step) -> Tensor:
        """A clone is recorded, and is normal outside of inference mode. Source: C."""
        # It is a copy into a new tensor, which is a normal one: so there is always a way back.
        return self.result(self.named(step.on), self.made())

    def do_detach(self, step: Step) -> Tensor:
        """Detaching shares memory and version, never requires grad. Source: Tensor.detach."""
        return self.detached(self.named(step.on))

    def detached(self, tensor: Tensor) -> Tensor:
        """Another tensor with the same memory."""
        made = Tensor(storage=tensor.storage, inference=tensor.inference)
        made.versionless = tensor.versionless
        if tensor.inference and not self.thread.mode.inference:
            made.writable = self.goes_astray("detaching_an_inference_tensor_lets_it_be_written_to")
        return made

    def do_view(self, step: Step) -> Tensor:
        """A view shares memory and version; it is what its base is. Source: C; Tensor views."""
        tensor = self.named(step.on)
        view = Tensor(storage=tensor.storage, inference=tensor.inference)
        if tensor.inference:
            return view
        view.base, view.seen = tensor.base or tensor, tensor.storage.version
        view.node = self.recorded((tensor,))
        mode = self.thread.mode
        view.made = "inference mode" if mode.inference else "" if mode.grad else "no_grad mode"
        view.made = tensor.made or view.made
        return view

    def do_add_(self, step: Step) -> None:
        """Write into a tensor what another has. Source: A, In-place operations; C."""
        self.write(self.named(step.on), (self.named(step.words[0]),))

    def do_mul_(self, step: Step) -> None:
        """Write into a tensor."""
        number = Tensor()
        self.write(self.named(step.on), (number,), saved=(number,))

    def write(
        self, tensor: Tensor, others: tuple[Tensor, ...], saved: tuple[Tensor, ...] = ()
    ) -> None:
        """An operation in place: what it refuses, what it records, and the version it counts."""
        inputs = (tensor, *others)
        requiring = any(t.requires_grad for t in inputs)
        if self.recording and requiring and not all(t.inference for t in inputs):
            self.writable(tensor)
        self.writable_here(tensor)
        node = self.recorded(inputs, saved)
        tensor.storage.version += 1
        if node is not None:
            self.rebase(tensor, node)
        self.move(tensor)

    def rebase(self, tensor: Tensor, node: Node) -> None:
        """A tensor that was written to has a new node; of a view, its base has."""
        written = tensor.base or tensor
        if written.retains and written.node is not None:
            written.node.retained.remove(written)
            node.retained.append(written)
        if written is not tensor:  # what writes into a part of it can be run once
            node.saved.append(Saved(Storage(), 0, None))
        written.node = node
        rule = "detaching_in_place_does_not_forget_a_retained_gradient"
        if written.orphaned and self.goes_astray(rule):
            raise Refusal("RuntimeError", "old_fn INTERNAL ASSERT FAILED")

    def may_write(self, tensor: Tensor) -> bool:
        """Whether a tensor may be written to in this mode."""
        protected = tensor.versionless or (tensor.inference and not tensor.writable)
        return self.thread.mode.inference or not protected

    def writable_here(self, tensor: Tensor) -> None:
        """Inference tensors may be written to in inference mode alone. Source: C."""
        if not self.may_write(tensor):
            if self.goes_astray("a_refused_write_to_an_inference_tensor_is_done"):
                self.move(tensor, None)
            raise _unwritable()

    def writable(self, tensor: Tensor) -> None:
        """Refuse to write into a leaf that requires grad, or into a view of which it is unclear."""
        if tensor.base is not None and tensor.made:
            raise Refusal("RuntimeError", f"created in {tensor.made}")
        if tensor.base is not None and tensor.requires_grad and tensor.base.node is None:
            raise Refusal("RuntimeError", "a view of a leaf Variable that requires grad")
        if tensor.requires_grad and tensor.history() is None:
            raise Refusal("RuntimeError", "a leaf Variable that requires grad")

    def move(self, tensor: Tensor, surely: bool | None = True) -> None:
        """Note that the values of a tensor changed in this step."""
        tensor.storage.moved = surely
        self.moved.append(tensor.storage)

    def do_tensor_requires_grad_(self, step: Step) -> None:
        """Only leaves may be told not to require grad; no inference tensor to do. Source: A, C."""
        tensor, told = self.named(step.on), step.words[0] == "True"
        if tensor.node is None:
            self.tell(tensor, told=told)
        elif not told:
            raise Refusal("RuntimeError", "you can only change requires_grad flags of leaf")

    def do_detach_(self, step: Step) -> None:
        """A tensor becomes a leaf in place; a view cannot. Source: Tensor.detach_."""
        tensor = self.named(step.on)
        rule = "detaching_in_place_does_nothing_in_inference_mode"
        if (self.thread.mode.inference or tensor.inference) and self.goes_astray(rule):
            return
        if tensor.base is not None:
            raise Refusal("RuntimeError", "Can't detach views in-place")
        tensor.orphaned = tensor.orphaned or tensor.retains
        tensor.node, tensor.told = None, False

    def do_retain_grad(self, step: Step) -> None:
        """A non-leaf keeps its gradient; nothing to do for a leaf. Source: Tensor.retain_grad."""
        tensor = self.named(step.on)
        if not tensor.requires_grad:
            raise Refusal(
                "RuntimeError", "can't retain_grad on Tensor that has requires_grad=False"
            )
        # Of a leaf nothing is to be made out, also where it is a view that could not say.
        node = tensor.history() if tensor.node is not None else None
        if node is not None and tensor not in node.retained:
            node.retained.append(tensor)

    def do_forget_grad(self, step: Step) -> None:
        """Setting .grad to None takes the gradient away. Source: Tensor.grad."""
        self.named(step.on).grad = "none"

    # --- backward (F) ---------------------------------------------------------------------------

    def do_backward(self, step: Step) -> None:
        """Gradients go into the leaves, and what was saved is freed. Source: F."""
        self.differentiate(self.named(step.on), retaining=False)

    def do_backward_retaining(self, step: Step) -> None:
        """With retain_graph=True, nothing is freed. Source: F."""
        self.differentiate(self.named(step.on), retaining=True)

    def do_backward_into(self, step: Step) -> None:
        """With inputs=, gradients go into these alone. Source: F, inputs."""
        root, target = self.named(step.on), self.named(step.words[0])
        self.differentiable(root)
        self.do_retain_grad(replace(step, on=step.words[0]))
        self.differentiate(root, retaining=False, target=target)

    def do_grad(self, step: Step) -> None:
        """autograd.grad touches no .grad; it refuses what is not in the graph. Source: F."""
        root, target = self.named(step.on), self.named(step.words[0])
        self.differentiable(root)
        if not target.requires_grad:
            raise Refusal("RuntimeError", "does not require grad")
        self.differentiate(root, retaining=False, target=target, keeping=False)

    def differentiable(self, root: Tensor) -> None:
        """Refuse what has no history and is told nothing."""
        if not root.told and root.history() is None:
            raise Refusal("RuntimeError", "does not require grad and does not have a grad_fn")

    def differentiate(
        self, root: Tensor, *, retaining: bool, target: Tensor | None = None, keeping: bool = True
    ) -> None:
        """Walk the graph from its root: later nodes first, leaves as soon as they are reached."""
        self.differentiable(root)
        start, goal = self.edge(root), None if target is None else self.edge(target)
        needed: set[Node] | None = None
        unused = False
        if goal is not None:
            needed = self.leading(start, goal)
            unused = not keeping and goal is not start and not needed
            if keeping and isinstance(goal, Node):
                needed.add(goal)
        waiting = self.dependencies(start)
        ready: list[tuple[int, int, Node | Leaf]] = []
        self.push(ready, start)
        while ready:
            _, _, reached = heapq.heappop(ready)
            others = {node.thread for _, _, node in ready if isinstance(node, Node)} - {0}
            if isinstance(reached, Node) and others - {reached.thread} and reached.thread:
                raise Unsaid  # nodes are counted in each thread: which of these two is later?
            self.call_in_backward(
                reached.hooks if isinstance(reached, Node) else reached.tensor.hooks
            )
            self.keep(reached, keeping=keeping and (goal is None or reached is goal))
            if isinstance(reached, Leaf) or (needed is not None and reached not in needed):
                continue
            self.unpack(reached, retaining)
            leaves = []
            for following in reached.inputs:
                waiting[id(following)] -= 1
                wanted = needed is None or following is goal or following in needed
                if wanted and not waiting[id(following)]:
                    self.push(ready, following)
                    leaves += [following.tensor] if isinstance(following, Leaf) else []
            if len(leaves) > 1 and any(hook.active for leaf in leaves for hook in leaf.hooks):
                raise Unsaid  # has the other leaf its gradient when the hook is called?
        if unused:
            raise Refusal("RuntimeError", "appears to not have been used in the graph")

    def push(self, ready: list[tuple[int, int, Node | Leaf]], reached: Node | Leaf) -> None:
        """Leaves run at once, nodes in the order opposite to that in which they were recorded."""
        order = -reached.order if isinstance(reached, Node) else -(10**9)
        heapq.heappush(ready, (order, id(reached), reached))

    def keep(self, reached: Node | Leaf, *, keeping: bool) -> None:
        """A leaf that still requires grad takes the gradient; so do results that retain it."""
        if isinstance(reached, Leaf):
            if keeping and reached.tensor.node is not None:
                raise Refusal(
                    "RuntimeError", "leaf variable has been moved into the graph interior"
                )
            if keeping and reached.tensor.told:
                self.accumulate(reached.tensor)
            return
        if not reached.retained:
            return
        # retain_grad() fills .grad "during backward", and autograd.grad touches no .grad.
        if keeping or self.goes_astray("retained_gradients_are_filled_whatever_is_asked_for"):
            for tensor in reached.retained:
                tensor.grad, tensor.grad_is_inference = "some", self.thread.mode.inference

    def accumulate(self, tensor: Tensor) -> None:
        """Add to the gradient that is there, in place; or leave one of this mode. Source: F, C."""
        inference = self.thread.mode.inference
        if tensor.grad != "none" and tensor.grad_is_inference and not inference:
            # It is refused; but which other leaves have taken theirs by then?
            raise Unsaid
        if tensor.grad == "none":
            tensor.grad_is_inference = inference
        tensor.grad = "some"

    def unpack(self, node: Node, retaining: bool) -> None:
        """What was saved must be there still, and be what it was. Source: A, In-place checks."""
        if node.saved and node.freed:
            raise Refusal("RuntimeError", "Trying to backward through the graph a second time")
        for saved in node.saved:
            if saved.view is not None:
                saved.view.history()  # a view must be able to say what it is
            if saved.recorded is not None and saved.recorded.node is None:
                raise Refusal("RuntimeError", "a saved tensor that has been detached in-place")
            if saved.storage.version != saved.version:
                raise Refusal("RuntimeError", "modified by an inplace operation")
        node.freed = not retaining

    def dependencies(self, start: Node | Leaf) -> dict[int, int]:
        """How often each node or leaf is handed a gradient."""
        count: dict[int, int] = {}
        seen, stack = {id(start)}, [start]
        while stack:
            reached = stack.pop()
            for following in reached.inputs if isinstance(reached, Node) else ():
                count[id(following)] = count.get(id(following), 0) + 1
                if id(following) not in seen:
                    seen.add(id(following))
                    stack.append(following)
        return count

    def leading(self, start: Node | Leaf, goal: Node | Leaf) -> set[Node]:
        """The nodes on a way from the start to the goal."""
        found: set[Node] = set()

        def leads(reached: Node | Leaf) -> bool:
            if isinstance(reached, Leaf):
                return reached is goal
            onward = [leads(following) for following in reached.inputs]
            if any(onward):
                found.add(reached)
            return any(onward) or reached is goal

        leads(start)
        return found

    # --- modules (D) ----------------------------------------------------------------------------

    def do_module(self, step: Step) -> Module:
        """Modules are built in training mode, their parameters requiring grad. Source: D."""
        found = self.built(step.words[0])
        self.drawn |= any(bool(m.parameters) for _, m in found.walk() if m.kind == "Linear")
        return found

    def built(self, kind: str) -> Module:
        """A module of this kind, and what is in it."""
        children = {
            "Sequential": ("Linear", "BatchNorm", "Dropout"),
            "Nested": ("Inner", "Dropout"),
            "Inner": ("Linear", "Tanh"),
        }.get(kind, ())
        made = Module("Sequential" if children else kind)
        made.children = [self.built(child) for child in children]
        if kind in ("Linear", "BatchNorm"):
            made.parameters = {n: self.weight() for n in ("weight", "bias")}
        if kind == "BatchNorm":
            made.counter, made.statistics = self.made(), self.made()
        return made

    def weight(self, told: bool = True) -> Tensor:
        """A parameter of a module. How often its initialisation writes to it is not said."""
        made = self.made(told)
        made.storage.counted = False
        return made

    def told(self, step: Step, training: bool) -> None:
        """Set the flag of every module of a subtree."""
        for _, module in self.named(step.on).walk():
            module.training = training

    def do_train(self, step: Step) -> None:
        """train() reaches every submodule. Source: Module.train."""
        self.told(step, True)

    def do_eval(self, step: Step) -> None:
        """eval() is train(False). Source: Module.eval."""
        self.told(step, False)

    def do_train_told(self, step: Step) -> None:
        """train() takes a bool and nothing else. Source: Module.train."""
        if step.words[0] not in ("True", "False"):
            raise Refusal("ValueError", "training mode is expected to be boolean")
        self.told(step, step.words[0] == "True")

    def do_requires_grad_(self, step: Step) -> None:
        """It reaches every parameter of the subtree, no buffer. Source: Module.requires_grad_."""
        told = step.words[0] == "True"
        for parameter in self.named(step.on).named_parameters().values():
            self.tell(parameter, told=told)

    def tell(self, leaf: Tensor, *, told: bool) -> None:
        """Set the flag of a leaf. Source: C."""
        if leaf.inference and told and not self.thread.mode.inference:
            raise Refusal("RuntimeError", "Setting requires_grad=True on inference tensor outside")
        leaf.told = told

    def do_zero_grad(self, step: Step) -> None:
        """zero_grad() takes every gradient away. Source: Module.zero_grad."""
        self.cleared(list(self.named(step.on).named_parameters().values()), to_none=True)

    def do_zero_grad_to_zero(self, step: Step) -> None:
        """With set_to_none=False, gradients that are there become zero."""
        self.cleared(list(self.named(step.on).named_parameters().values()), to_none=False)

    def cleared(self, parameters: list[Tensor], *, to_none: bool) -> None:
        """Take away the gradients that are there, or fill them with zeros."""
        for parameter in parameters:
            if parameter.grad == "none":
                continue
            if not to_none and parameter.grad_is_inference and not self.thread.mode.inference:
                raise Refusal("RuntimeError", "Inplace update to inference tensor outside")
            parameter.grad = "none" if to_none else "zero"

    def do_forward(self, step: Step) -> Tensor:
        """A forward: each layer in the mode that it has. Source: D; the page of each layer."""
        return self.forward(self.named(step.on), self.named(step.words[0]))

    def forward(self, module: Module, x: Tensor) -> Tensor:
        """What a module returns; its hooks are called when it has."""
        made = self.computed(module, x)
        self.call(module.hooks)
        return made

    def computed(self, module: Module, x: Tensor) -> Tensor:
        """What the forward of a module returns."""
        if module.kind == "Sequential":
            for child in module.children:
                x = self.forward(child, x)
            return x
        return {
            "Linear": self.linear,
            "BatchNorm": self.batch_norm,
            "Dropout": self.dropout,
            "Tanh": lambda module, x: self.result(x, saves_result=True),
        }[module.kind](module, x)

    def linear(self, module: Module, x: Tensor) -> Tensor:
        """A linear layer needs its input for the weight's gradient, its weight for the input's."""
        if module.parametrized is None:
            weight = module.parameters["weight"]
        else:
            self.has_weight(module)
            original, two = module.parametrized.children[0].parameters["original"], Tensor()
            weight = self.result(original, two, saved=(two,))
        bias = module.parameters["bias"]
        self.versioned(weight)
        if self.thread.mode.inference:
            self.versioned(bias)  # it is expanded: a view, which is seen in inference mode alone
        transposed = Tensor(storage=weight.storage, inference=weight.inference)
        transposed.node = self.recorded((weight,))
        return self.result(x, transposed, bias, saved=self.factors(x, transposed))

    def batch_norm(self, module: Module, x: Tensor) -> Tensor:
        """In training it counts the batch and moves its statistics. Source: nn.BatchNorm1d."""
        counter, statistics = module.counter, module.statistics
        assert counter is not None
        assert statistics is not None
        if module.training:
            rule = "a_refused_write_to_an_inference_tensor_is_done"
            module.counted += self.may_write(counter) or self.goes_astray(rule)
            self.writable_here(counter)
        weight, bias = module.parameters["weight"], module.parameters["bias"]
        return self.result(x, weight, bias, statistics, saved=(x, weight, statistics))

    def dropout(self, module: Module, x: Tensor) -> Tensor:
        """In training it draws; in evaluation it returns its very input. Source: nn.Dropout."""
        if not module.training:
            return x
        self.drawn = True
        mask = self.made()
        return self.result(x, mask, saved=self.factors(x, mask))

    def do_deepcopy(self, step: Step) -> Module:
        """A copy is independent and keeps every flag; its gradients are copied. Source: D."""
        module = self.named(step.on)
        has = any(p.grad != "none" for p in module.named_parameters().values())
        grads = not (has and self.goes_astray("a_deep_copy_of_a_module_has_no_gradients"))
        return self.copied(module, {}, grads=grads)

    def do_pickle(self, step: Step) -> Module:
        """As a deep copy, but gradients are not pickled. Source: notes/serialization."""
        module = self.named(step.on)
        if any(m.parametrized for _, m in module.walk()):
            raise Refusal("RuntimeError", "Serialization of parametrized modules is only supported")
        return self.copied(module, {}, grads=False)

    def do_save_and_load(self, step: Step) -> Module:
        """As pickling. Source: torch.save."""
        return self.do_pickle(step)

    def copied(self, module: Module, known: dict[int, Any], *, grads: bool) -> Module:
        """A copy of a module, what is shared in it being shared in the copy."""
        if id(module) in known:
            found: Module = known[id(module)]
            return found
        made = Module(module.kind, module.training, counted=module.counted)
        known[id(module)] = made
        for name, parameter in module.parameters.items():
            if id(parameter) not in known:
                twin = self.weight(parameter.told)
                twin.grad = parameter.grad if grads else "none"
                twin.grad_is_inference = self.thread.mode.inference
                known[id(parameter)] = twin
            made.parameters[name] = known[id(parameter)]
        if module.counter is not None:
            made.counter, made.statistics = self.made(), self.made()
        made.children = [self.copied(c, known, grads=grads) for c in module.children]
        if module.parametrized is not None:
            made.parametrized = self.copied(module.parametrized, known, grads=grads)
            made.made = module.made
        return made

    def do_load_state_dict(self, step: Step) -> None:
        """Loading writes into the parameters, and records nothing. Source: load_state_dict."""
        own, given = (_keys(self.named(name)) for name in (step.on, step.words[0]))
        refusals = self.loaded(step)
        if given - own:
            raise Refusal("RuntimeError", "Unexpected key(s) in state_dict")
        if own - given:
            raise Refusal("RuntimeError", "Missing key(s) in state_dict")
        _raise_first(refusals)

    def do_load_leniently(self, step: Step) -> None:
        """With strict=False, what only one of them has is passed over. Source: load_state_dict."""
        _raise_first(self.loaded(step))

    def loaded(self, step: Step) -> list[Refusal]:
        """Load what both have, and say how it was refused."""
        others = dict(self.named(step.words[0]).walk())
        refusals = []
        for path, module in self.named(step.on).walk():
            given = others.get(path, Module(""))
            for name in module.parameters.keys() & given.parameters.keys():
                if module.kind != given.kind and name == "weight":
                    refusals.append(Refusal("RuntimeError", "size mismatch"))
                    continue
                try:
                    self.load(module.parameters[name], given.parameters[name])
                except Refusal as refusal:
                    refusals.append(refusal)
            refusals += self.load_buffers(module, given)
        return refusals

    def load_buffers(self, module: Module, given: Module) -> list[Refusal]:
        """Load the statistics and the counter of a batch normalisation."""
        counter, rule = module.counter, "a_refused_write_to_an_inference_tensor_is_done"
        if counter is None:
            return []
        buffers = [counter]
        if given.counter is not None:  # else it is given its own, as one of long ago
            if self.may_write(counter) or self.goes_astray(rule):
                module.counted = given.counted
            buffers += [] if module.statistics is None else [module.statistics]
        refused = Refusal("RuntimeError", "Inplace update to inference tensor")
        return [refused for buffer in buffers if not self.may_write(buffer)]

    def do_assign_state_dict(self, step: Step) -> None:
        """The tensors become parameters, requiring grad as the old ones did. Source: assign."""
        others = dict(self.named(step.words[0]).walk())
        refusals = []
        for path, module in self.named(step.on).walk():
            for name, parameter in module.parameters.items():
                given = others[path].parameters[name]
                made = self.detached(given)
                try:
                    self.tell(made, told=parameter.told)
                    module.parameters[name] = made
                except Refusal as refusal:
                    refusals.append(refusal)
        _raise_first(refusals)

    def do_lazy(self, step: Step) -> Module:
        """The first forward of a lazy module makes its parameters, in the mode of the call."""
        made = self.built("Linear")
        self.drawn = True
        self.linear(made, self.named(step.on))
        return made

    def load(self, parameter: Tensor, given: Tensor) -> None:
        """Write the values of one parameter into another."""
        self.writable_here(parameter)
        parameter.storage.version += 1
        if parameter is not given:
            self.move(parameter, None)

    def do_to_float64_and_back(self, step: Step) -> None:
        """Converting keeps each parameter, its flags and its gradient. Source: Module.to."""
        for parameter in self.named(step.on).named_parameters().values():
            parameter.storage.counted = False
            parameter.leaf = Leaf(parameter)  # its dtype was another for a while
            inference = self.thread.mode.inference
            rule = "converting_in_another_mode_makes_half_an_inference_tensor"
            if parameter.inference and not inference and not parameter.writable:
                parameter.versionless = self.goes_astray(rule)
            if inference and not parameter.inference:
                parameter.writable = self.goes_astray(rule)
            parameter.inference = inference
        for _, module in self.named(step.on).walk():
            module.statistics = None if module.statistics is None else self.made()

    def do_to_its_device(self, step: Step) -> None:
        """Where there is nothing to convert, nothing changes. Source: Module.to."""

    def do_append(self, step: Step) -> None:
        """A module that is attached keeps its own flag. Source: Module.add_module."""
        self.named(step.on).children.append(self.named(step.words[0]))

    def do_replace(self, step: Step) -> None:
        """A module that is put in the place of another keeps its own flag."""
        self.named(step.on).children[0] = self.named(step.words[0])

    def do_remove(self, step: Step) -> None:
        """A module that is removed stays what it is."""
        self.named(step.on).children.pop()

    def do_tie(self, step: Step) -> None:
        """Two layers then share one parameter, with one flag and one gradient."""
        self.named(step.on).parameters["weight"] = self.named(step.words[0]).parameters["weight"]

    def do_parametrize(self, step: Step) -> None:
        """The weight is computed of an original, the parameter now. Source: parametrize."""
        layer = self.named(step.on)
        self.writable_here(layer.parameters["weight"])
        original = layer.parameters.pop("weight")
        original.storage.version += 1
        original.leaf = Leaf(original)  # it was set to itself: older graphs end elsewhere
        layer.made = MadeClass()
        held = Module("ParametrizationList", parameters={"original": original})
        held.children = [Module("Doubled", training=layer.training)]
        layer.parametrized = Module("ModuleDict", children=[held])

    def has_weight(self, layer: Module) -> None:
        """Refuse a parametrized layer of which a copy has lost its parametrization."""
        rule = "copies_of_a_parametrized_module_share_their_class"
        if layer.made.spent and self.goes_astray(rule):
            raise Refusal("AttributeError", "has no attribute 'weight'")

    def do_unparametrize(self, step: Step) -> None:
        """The original is the parameter again. Source: parametrize.remove_parametrizations."""
        layer = self.named(step.on)
        self.has_weight(layer)
        layer.made.spent = True
        layer.parameters["weight"] = layer.parametrized.children[0].parameters["original"]
        layer.parametrized = None

    def do_untie(self, step: Step) -> None:
        """A layer has a parameter of its own then, which requires grad. Source: nn.Parameter."""
        self.named(step.on).parameters["weight"] = self.weight()

    # --- optimizers (E) -------------------------------------------------------------------------

    def do_optimizer(self, step: Step) -> Optimizer:
        """Frozen parameters may be given; no parameter at all may not. Source: E, Optimizer."""
        parameters = list(self.named(step.on).named_parameters().values())
        if not parameters:
            raise Refusal("ValueError", "optimizer got an empty parameter list")
        optimizer = Optimizer(step.words[0], parameters)
        if optimizer.kind == "Adagrad":  # it keeps something of each from the start
            optimizer.kept = dict.fromkeys(parameters, self.thread.mode.inference)
        return optimizer

    def do_step(self, step: Step) -> None:
        """It moves what has a gradient, frozen or not, and nothing else. Source: E, zero_grad."""
        optimizer: Optimizer = self.names[step.on]
        graded = [p for p in optimizer.parameters if p.grad != "none"]
        stale = self.stale(optimizer, graded)
        for parameter in graded:
            if parameter in stale:
                raise _unwritable()
            fused = optimizer.kind.endswith("_fused")
            refused = not self.may_write(parameter)
            rule = "fused_optimizers_write_to_inference_tensors"
            if not (fused and refused and self.goes_astray(rule)):
                self.writable_here(parameter)
            surely = False if parameter.grad == "zero" and optimizer.kind == "SGD" else None
            if not (fused and self.goes_astray("fused_optimizers_count_no_version")):
                parameter.storage.version += 1
            parameter.storage.counted = False
            self.move(parameter, surely)

    def stale(self, optimizer: Optimizer, graded: list[Tensor]) -> list[Tensor]:
        """The parameters of which it cannot write to what it keeps: momentum, counts, averages.

        That is made in the mode of the first step, and written to at each. Source: torch.optim; C.
        """
        if optimizer.kind in STATELESS:
            return []
        inference, kept = self.thread.mode.inference, optimizer.kept
        stale = [p for p in graded if kept.get(p) and not inference]
        new = [p for p in graded if p not in kept]
        together = optimizer.kind.endswith(("_foreach", "_fused"))
        if stale and (new or (together and len(stale) < len(graded))):
            raise Unsaid  # what becomes of the others is a matter of each optimizer
        kept.update(dict.fromkeys(new, inference))
        return stale

    def do_step_with_closure(self, step: Step) -> None:
        """As without; the closure runs with grad enabled. Source: E, closure."""
        self.do_step(step)

    def do_add_param_group(self, step: Step) -> None:
        """No parameter may be in two groups. Source: E, add_param_group."""
        optimizer, given = self.names[step.on], self.named(step.words[0])
        if given.history() is not None and not given.retains:
            raise Refusal("ValueError", "can't optimize a non-leaf Tensor")
        if any(p is given for p in optimizer.parameters):
            raise Refusal("ValueError", "appear in more than one parameter group")
        optimizer.parameters.append(given)

    def do_optimizer_zero_grad(self, step: Step) -> None:
        """zero_grad() takes every gradient away. Source: E, zero_grad."""
        self.cleared(self.names[step.on].parameters, to_none=True)

    def do_optimizer_zero_grad_to_zero(self, step: Step) -> None:
        """With set_to_none=False, gradients that are there become zero."""
        self.cleared(self.names[step.on].parameters, to_none=False)


def _suspensions(step: Step) -> int:
    """How often a generator is suspended: in its own body, and in the blocks that it enters."""
    within = sum(_suspensions(inner) for inner in step.body if inner.kind == "with")
    return within + sum(inner.kind == "suspended" for inner in step.body)


def _unwritable() -> Refusal:
    return Refusal("RuntimeError", "Inplace update to inference tensor outside InferenceMode")


def _raise_first(refusals: list[Refusal]) -> None:
    """One error names all that was refused: the first stands for it. Source: load_state_dict."""
    for refusal in refusals:
        raise refusal


def _keys(module: Module) -> set[str]:
    """The names in its state_dict, those of the statistics of a batch normalisation as one."""
    return {
        f"{path}.{name}"
        for path, m in module.walk()
        for name in (*m.parameters, *("counter",) * (m.counter is not None))
    }
