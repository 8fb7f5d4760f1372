"""What backward follows, refuses, fills and frees."""

from __future__ import annotations

import heapq
from dataclasses import replace

from ..history import Step
from ..things import Leaf, Node, Refusal, Tensor, Unsaid
from .tensors import Tensors


class Backward(Tensors):
    """Where gradients go."""

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
