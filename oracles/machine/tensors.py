"""Which tensors require grad, are leaves, are recorded, share, may be written to."""

from __future__ import annotations

from ..history import Step
from ..things import Leaf, Node, Refusal, Saved, Storage, Tensor
from .modes import Modes


class Tensors(Modes):
    """What operations make of tensors, and what they record."""

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
        edges = [self.edge(t) for t in requiring if t.carries]
        for tensor in saved:
            if tensor.inference:
                raise Refusal("RuntimeError", "Inference tensors cannot be saved for backward")
            self.versioned(tensor)
        self.thread.order += 1
        kept = [
            Saved(t.storage, t.storage.version, t if t.history() else None, t if t.made else None)
            for t in saved
        ]
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
            for other in others:
                other.history()  # what cannot say its history is refused first
        self.writable_here(tensor)
        node = self.recorded(inputs, saved)
        self.count(tensor, *others)
        if node is not None:
            self.rebase(tensor, node)
        self.move(tensor)

    def rebase(self, tensor: Tensor, node: Node) -> None:
        """A tensor that was written to has a new node; of a view, its base has."""
        written = tensor.base or tensor
        if written.retains and written.node is not None:
            written.node.retained.remove(written)
            node.retained.append(written)
        if written is not tensor:
            # It goes on to what the base was, past the view and the hooks on it.
            if node.inputs and node.inputs[0] is tensor.node:
                node.inputs[0] = self.edge(written)
            # What writes into a part of it can be run once.
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
            raise unwritable()

    def count(self, tensor: Tensor, *others: Tensor) -> None:
        """Count a version, as a write does that takes some normal tensor. Source: C."""
        tensor.storage.version += not all(t.inference for t in (tensor, *others))

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

    def tell(self, leaf: Tensor, *, told: bool) -> None:
        """Set the flag of a leaf. Source: C."""
        if leaf.inference and told and not self.thread.mode.inference:
            raise Refusal("RuntimeError", "Setting requires_grad=True on inference tensor outside")
        leaf.told = told

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


def unwritable() -> Refusal:
    """How a write to an inference tensor is refused outside of inference mode. Source: C."""
    return Refusal("RuntimeError", "Inplace update to inference tensor outside InferenceMode")
