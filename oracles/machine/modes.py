"""What each grad mode covers: blocks, decorators, generators, threads, tasks, hooks."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

from ..history import Step
from ..setting import GradState
from ..things import Context, Hook, Refusal, Thread
from .playing import Course, Moment, Pause, Player, Unnamed


class Modes(Player):
    """What the grad mode is at each step."""

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

    def decorated(self, written: str) -> None:
        """Decorating does nothing until the call. Source: B, decorators."""
        if "set_grad_enabled" in written:
            inside = self.entered(written)
            differs = inside != self.thread.mode
            if differs and self.goes_astray("set_grad_enabled_switches_where_it_is_made"):
                self.thread.mode = inside

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
        self.decorated(written)
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
        self.decorated(written)
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
        inside = self.entered(context.written)
        late = early and inside != self.thread.mode
        if not (late and self.goes_astray("set_grad_enabled_switches_where_it_is_made")):
            self.thread.mode = inside

    def do_leave(self, step: Step) -> None:
        """Leaving by hand restores what was there on entering. Source: B."""
        context: Context = self.names[step.on]
        if not context.active:
            raise LookupError(f"{step.on} is left before it is entered: nothing is said of that")
        context.active -= 1
        spent = "inference_mode" in context.written and not context.saved
        if spent and self.goes_astray("inference_mode_entered_again_is_left_once"):
            raise Refusal("AttributeError", "_inference_mode_raii_guard")
        if context.saved:
            self.thread.mode = self.left(context.written, context.saved[-1])
        if len(context.saved) > 1 or "inference_mode" in context.written:
            del context.saved[-1:]


def _suspensions(step: Step) -> int:
    """How often a generator is suspended: in its own body, and in the blocks that it enters."""
    within = sum(_suspensions(inner) for inner in step.body if inner.kind == "with")
    return within + sum(inner.kind == "suspended" for inner in step.body)
