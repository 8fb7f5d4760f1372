"""Planted faults that a run of a module, or a tensor, shows."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Iterator
from functools import partial, wraps
from typing import Any, Final

import torch
import torch.utils.checkpoint
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import parametrizations
from torch.utils import _contextlib

from .calls import Call, each_call, in_mode
from .fault import Undo, fault, put, together

# --- train and eval -----------------------------------------------------------------------------


@fault("train_and_eval_reach_every_submodule")
def eval_skips_children_of_sequential() -> Undo:
    """eval() does not reach the children of an nn.Sequential."""
    kept = nn.Module.train

    def train(self: nn.Module, mode: bool = True) -> nn.Module:
        if mode or not isinstance(self, nn.Sequential):
            return kept(self, mode)
        self.training = mode
        return self

    return put(nn.Module, "train", train)


@fault("train_and_eval_reach_every_submodule", "switching_a_submodule_reaches_its_subtree_alone")
def train_reaches_children_only() -> Undo:
    """train(mode) sets the flag of the module and of its children, but of no grandchild."""

    def train(self: nn.Module, mode: bool = True) -> nn.Module:
        if not isinstance(mode, bool):
            raise ValueError("training mode is expected to be boolean")
        for module in (self, *self.children()):
            module.training = mode
        return self

    return put(nn.Module, "train", train)


@fault("train_and_eval_change_nothing_but_the_flag")
def train_unfreezes() -> Undo:
    """train() sets requires_grad of every parameter."""
    kept = nn.Module.train

    def train(self: nn.Module, mode: bool = True) -> nn.Module:
        return kept(self, mode).requires_grad_(True) if mode is True else kept(self, mode)

    return put(nn.Module, "train", train)


@fault("train_and_eval_return_the_module")
def eval_returns_none() -> Undo:
    """eval() does its work and returns None."""
    kept = nn.Module.eval

    def evaluate(self: nn.Module) -> None:
        kept(self)

    return put(nn.Module, "eval", evaluate)


@fault("train_and_eval_change_nothing_but_the_flag")
def eval_disables_grad() -> Undo:
    """eval() switches the grad mode off, for good."""
    kept = nn.Module.eval

    def evaluate(self: nn.Module) -> nn.Module:
        torch._C._set_grad_enabled(False)
        return kept(self)

    return put(nn.Module, "eval", evaluate)


@fault("train_refuses_what_is_not_a_boolean")
def train_accepts_anything() -> Undo:
    """train(mode) takes whatever is true or false."""
    kept = nn.Module.train

    def train(self: nn.Module, mode: Any = True) -> nn.Module:
        return kept(self, bool(mode))

    return put(nn.Module, "train", train)


@fault("loading_a_state_dict_keeps_every_flag", "the_flag_is_not_part_of_the_state_dict")
def load_state_dict_switches_to_training() -> Undo:
    """load_state_dict() puts the module into training mode."""
    kept = nn.Module.load_state_dict

    def load_state_dict(self: nn.Module, *args: Any, **options: Any) -> Any:
        made = kept(self, *args, **options)
        self.train()
        return made

    return put(nn.Module, "load_state_dict", load_state_dict)


# --- layers that depend on the mode -------------------------------------------------------------


@fault(
    "dropout_acts_as_the_identity_in_evaluation",
    "evaluation_draws_no_randomness",
    "evaluation_is_deterministic",
)
def dropout_ignores_eval() -> Undo:
    """nn.Dropout drops elements in evaluation as well."""

    def forward(self: nn.Dropout, input: Tensor) -> Tensor:
        return functional.dropout(input, self.p, True, self.inplace)

    return put(nn.Dropout, "forward", forward)


_DROPOUTS: Final = (nn.modules.dropout._DropoutNd,)


@fault(
    "a_layer_does_what_its_traits_claim", "torch_agrees_with_the_reference", layer="AlphaDropout"
)
def dropout_ignores_train() -> Undo:
    """Dropout layers drop nothing, in training neither."""
    return in_mode(_DROPOUTS, lambda training: False)


@fault("evaluation_draws_no_randomness")
def dropout_draws_in_eval() -> Undo:
    """Dropout layers return their input in evaluation, but draw a number before."""

    def does(module: nn.Module, call: Call) -> Any:
        if isinstance(module, _DROPOUTS):
            torch.rand(1)
        return call()

    return each_call(does)


@fault("randomness_depends_on_train_and_eval_alone", "values_depend_on_train_and_eval_alone")
def dropout_rests_under_no_grad() -> Undo:
    """Dropout, RReLU and recurrent layers evaluate while grad is disabled, in training as well."""
    return in_mode(
        (*_DROPOUTS, nn.RReLU, nn.RNNBase), lambda training: training and torch.is_grad_enabled()
    )


@fault("the_gradient_of_dropout_is_its_mask")
def dropout_is_the_identity_in_backward() -> Undo:
    """functional.dropout zeroes elements and scales others, but hands on gradients as they are."""
    kept = functional.dropout

    def dropout(input: Tensor, *args: Any, **options: Any) -> Tensor:
        return kept(input.detach(), *args, **options) + (input - input.detach())

    return put(functional, "dropout", dropout)


@fault("rrelu_draws_its_slopes_between_its_bounds", "evaluation_draws_no_randomness")
def rrelu_is_random_in_eval() -> Undo:
    """nn.RReLU draws its slopes in evaluation as well."""

    def forward(self: nn.RReLU, input: Tensor) -> Tensor:
        return functional.rrelu(input, self.lower, self.upper, True, self.inplace)

    return put(nn.RReLU, "forward", forward)


@fault("recurrent_dropout_acts_between_layers", "evaluation_draws_no_randomness")
def recurrent_layers_drop_in_eval() -> Undo:
    """The dropout between the layers of nn.LSTM, nn.GRU and nn.RNN is active in evaluation."""
    return in_mode((nn.RNNBase,), lambda training: True)


@fault("evaluation_draws_no_randomness")
def attention_drops_in_eval() -> Undo:
    """nn.MultiheadAttention drops attention weights in evaluation as well."""
    kept = functional.multi_head_attention_forward

    def attend(*args: Any, **options: Any) -> Any:
        return kept(*args, **options | {"training": True})

    return put(functional, "multi_head_attention_forward", attend)


@fault("evaluation_changes_no_state")
def batch_norm_moves_statistics_in_eval() -> Undo:
    """Batch norm moves its running mean in evaluation as well."""
    kept = functional.batch_norm

    def batch_norm(
        input: Tensor, mean: Any, var: Any, weight: Any, bias: Any, training: bool, *rest: Any
    ) -> Tensor:
        made = kept(input, mean, var, weight, bias, training, *rest)
        if mean is not None and not training:
            mean.mul_(0.5)
        return made

    return put(functional, "batch_norm", batch_norm)


@fault("running_statistics_follow_the_momentum", "torch_agrees_with_the_reference")
def batch_norm_counts_no_batches() -> Undo:
    """Batch norm moves its statistics, but num_batches_tracked stands still."""
    kept = _BatchNorm.forward

    def forward(self: Any, input: Tensor) -> Tensor:
        made = kept(self, input)
        if self.training and self.track_running_stats:
            self.num_batches_tracked.sub_(1)
        return made

    return put(_BatchNorm, "forward", forward)


def _batch_norm_holds_statistics(when: Callable[[Any], bool]) -> Undo:
    kept = functional.batch_norm

    def batch_norm(input: Tensor, mean: Any, var: Any, weight: Any, *rest: Any) -> Tensor:
        if mean is not None and when(weight):
            mean, var = mean.clone(), var.clone()
        return kept(input, mean, var, weight, *rest)

    return put(functional, "batch_norm", batch_norm)


@fault(
    "frozen_layers_gather_the_same_statistics",
    "which_state_moves_depends_on_train_and_eval_alone",
)
def frozen_batch_norm_holds_its_statistics() -> Undo:
    """Batch norm with a frozen weight does not move its statistics, in training neither."""
    return _batch_norm_holds_statistics(lambda w: w is not None and not w.requires_grad)


@fault("which_state_moves_depends_on_train_and_eval_alone")
def batch_norm_holds_its_statistics_under_no_grad() -> Undo:
    """Batch norm moves its statistics only while grad is enabled."""
    return _batch_norm_holds_statistics(lambda _: not torch.is_grad_enabled())


@fault("buffers_moved_in_inference_mode_stay_normal")
def batch_norm_replaces_its_buffers() -> Undo:
    """Batch norm makes new running statistics instead of writing into those it has."""
    kept = _BatchNorm.forward

    def forward(self: Any, input: Tensor) -> Tensor:
        made = kept(self, input)
        if self.running_mean is not None:
            self.running_mean = self.running_mean.clone()
        return made

    return put(_BatchNorm, "forward", forward)


def _batch_norm_assigns(when: bool, made_of: Callable[[Tensor, Tensor], Tensor]) -> Undo:
    """In this mode batch norm has another tensor for its running mean after forward."""
    kept = _BatchNorm.forward

    def forward(self: Any, input: Tensor) -> Tensor:
        made = kept(self, input)
        if self.training is when and self.running_mean is not None:
            self.running_mean = made_of(self.running_mean, input)
        return made

    return put(_BatchNorm, "forward", forward)


@fault(
    "evaluation_changes_no_state",
    "torch_agrees_with_the_reference",
)
def batch_norm_assigns_statistics_in_evaluation() -> Undo:
    """Batch norm in evaluation has another running mean afterwards, in another tensor."""
    return _batch_norm_assigns(False, lambda mean, input: mean.detach() + 1)


@fault("buffers_never_require_grad")
def batch_norm_records_its_statistics() -> Undo:
    """Batch norm in training leaves a running mean with a graph behind."""
    return _batch_norm_assigns(True, lambda mean, input: mean.detach() + 0 * input.real.mean())


@fault("looked_up_rows_are_renormalised", "which_state_moves_depends_on_train_and_eval_alone")
def embedding_renormalises_only_with_grad() -> Undo:
    """nn.Embedding with max_norm leaves its weight alone while grad is disabled."""
    kept = functional.embedding

    def embedding(
        input: Tensor, weight: Tensor, padding: Any = None, max_norm: Any = None, *rest: Any
    ) -> Tensor:
        return kept(input, weight, padding, max_norm if torch.is_grad_enabled() else None, *rest)

    return put(functional, "embedding", embedding)


@fault("each_access_iterates_in_training_alone", "torch_agrees_with_the_reference")
def spectral_norm_never_iterates() -> Undo:
    """spectral_norm does no power iteration, in training neither."""
    return in_mode((parametrizations._SpectralNorm,), lambda training: False)


# --- grad modes ---------------------------------------------------------------------------------


@fault("leaving_by_an_exception_restores_the_mode")
def no_grad_outlives_exceptions() -> Undo:
    """no_grad does not restore the mode where an exception leaves its block."""
    kept = torch.no_grad.__exit__

    def leave(self: Any, kind: Any, *rest: Any) -> None:
        if kind is None or kind is GeneratorExit:
            kept(self, kind, *rest)

    return put(torch.no_grad, "__exit__", leave)


@fault("leaving_restores_the_mode")
def leaving_no_grad_enables_grad() -> Undo:
    """Leaving no_grad enables grad, whatever the mode was outside."""

    def leave(self: Any, *_: Any) -> None:
        torch._C._set_grad_enabled(True)

    return put(torch.no_grad, "__exit__", leave)


@fault("leaving_restores_the_mode")
def leaving_inference_mode_enables_grad() -> Undo:
    """inference_mode inside no_grad leaves grad enabled."""
    kept = torch.inference_mode.__exit__

    def leave(self: Any, *raised: Any) -> None:
        kept(self, *raised)
        torch._C._set_grad_enabled(True)

    return put(torch.inference_mode, "__exit__", leave)


@fault("the_innermost_context_decides", "inference_mode_false_restores_normal_behaviour")
def inference_mode_ignores_its_argument() -> Undo:
    """inference_mode(False) enters inference mode."""

    def make(self: Any, mode: bool = True) -> None:
        self.mode = True

    return put(torch.inference_mode, "__init__", make)


@fault("the_innermost_context_decides", "set_grad_enabled_acts_as_no_grad_or_enable_grad")
def enable_grad_does_nothing() -> Undo:
    """enable_grad leaves the mode as it is."""

    def enter(self: Any) -> None:
        self.prev = torch.is_grad_enabled()

    return put(torch.enable_grad, "__enter__", enter)


@fault("a_call_of_set_grad_enabled_lasts_until_the_block_ends")
def calling_set_grad_enabled_does_nothing() -> Undo:
    """set_grad_enabled called as a function switches nothing; as a context it works."""

    def make(self: Any, mode: bool) -> None:
        self.prev, self.mode = torch.is_grad_enabled(), mode

    def enter(self: Any) -> None:
        self.prev = torch.is_grad_enabled()
        torch._C._set_grad_enabled(False)

    def leave(self: Any, *_: Any) -> None:
        torch._C._set_grad_enabled(self.prev)

    # no_grad itself calls set_grad_enabled: it shall go on working.
    return together(
        put(torch.no_grad, "__enter__", enter),
        put(torch.no_grad, "__exit__", leave),
        put(torch.set_grad_enabled, "__init__", make),
    )


@fault("a_decorator_covers_the_call_and_nothing_else", "a_decorated_forward_acts_as_a_block")
def decorating_with_no_grad_leaks() -> Undo:
    """A function decorated with no_grad leaves grad disabled."""

    def decorate(self: Any, function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def decorated(*args: Any, **options: Any) -> Any:
            torch._C._set_grad_enabled(False)
            return function(*args, **options)

        return decorated

    return put(torch.no_grad, "__call__", decorate)


@fault("a_decorated_forward_acts_as_a_block")
def decorated_recursion_leaks() -> Undo:
    """All calls of a decorated function share one no_grad: recursion forgets the mode outside."""
    return put(torch.no_grad, "clone", lambda self: self)


@fault("a_decorated_generator_gives_the_mode_back_at_each_yield")
def decorated_generators_keep_the_mode() -> Undo:
    """A generator decorated with no_grad leaves grad disabled for its consumer."""

    def wrap(context: Callable[[], Any], function: Callable[..., Any]) -> Callable[..., Any]:
        def generator(*args: Any, **options: Any) -> Iterator[Any]:
            with context():
                yield from function(*args, **options)

        return generator

    return put(_contextlib, "_wrap_generator", wrap)


@fault("a_decorated_generator_ends_in_its_mode")
def decorated_generators_are_closed_in_another_mode() -> Undo:
    """A generator decorated with no_grad is not told that it is closed: it ends when it is gone."""

    def wrap(context: Callable[[], Any], function: Callable[..., Any]) -> Callable[..., Any]:
        def generator(*args: Any, **options: Any) -> Iterator[Any]:
            course = function(*args, **options)
            go = partial(next, course)
            while True:
                with context():
                    try:
                        value = go()
                    except StopIteration:
                        return
                go = partial(next, course)
                try:
                    yield value
                except GeneratorExit:
                    raise
                except BaseException as error:
                    go = partial(course.throw, error)

        return generator

    return put(_contextlib, "_wrap_generator", wrap)


@fault("a_thread_has_a_mode_of_its_own")
def threads_inherit_the_mode() -> Undo:
    """A new thread starts in the grad mode of the thread that starts it."""
    kept = threading.Thread.start

    def start(self: Any) -> None:
        enabled, run = torch.is_grad_enabled(), self.run

        def inheriting() -> None:
            torch._C._set_grad_enabled(enabled)
            run()

        self.run = inheriting
        kept(self)

    return put(threading.Thread, "start", start)


@fault("values_depend_on_train_and_eval_alone")
def linear_rounds_without_grad() -> Undo:
    """nn.Linear gives other values while grad is disabled."""
    kept = nn.Linear.forward

    def forward(self: nn.Linear, input: Tensor) -> Tensor:
        made = kept(self, input)
        return made if torch.is_grad_enabled() else made * 1.01

    return put(nn.Linear, "forward", forward)


@fault("disabling_grad_records_nothing", "no_grad_acts_as_if_nothing_required_grad")
def linear_records_under_no_grad() -> Undo:
    """nn.Linear is recorded while grad is disabled."""
    kept = nn.Linear.forward

    def forward(self: nn.Linear, input: Tensor) -> Tensor:
        with torch.enable_grad():
            return kept(self, input)

    return put(nn.Linear, "forward", forward)


@fault("forward_hooks_fire_in_every_setting", "torch_agrees_with_the_reference")
def hooks_sleep_under_no_grad() -> Undo:
    """Forward hooks are not called while grad is disabled."""
    kept: Any = nn.Module._call_impl

    def call(self: nn.Module, *args: Any, **options: Any) -> Any:
        called = kept if torch.is_grad_enabled() else type(self).forward
        return called(self, *args, **options)

    return put(nn.Module, "_call_impl", call)


@fault("inference_mode_changes_no_training_flag")
def inference_mode_switches_to_eval() -> Undo:
    """A module called in inference mode is put into evaluation mode."""
    kept: Any = nn.Module._call_impl

    def call(self: nn.Module, *args: Any, **options: Any) -> Any:
        if torch.is_inference_mode_enabled():
            self.eval()
        return kept(self, *args, **options)

    return put(nn.Module, "_call_impl", call)


@fault("a_module_built_under_no_grad_is_trainable", "a_factory_honours_requires_grad_under_no_grad")
def parameters_made_under_no_grad_are_frozen() -> Undo:
    """nn.Parameter does not require grad where it is made while grad is disabled."""
    kept: Any = nn.Parameter.__new__

    def make(cls: Any, data: Any = None, requires_grad: bool = True) -> Any:
        return kept(cls, data, requires_grad and torch.is_grad_enabled())

    return put(nn.Parameter, "__new__", make)


# --- freezing -----------------------------------------------------------------------------------


@fault("freezing_and_unfreezing_is_a_round_trip")
def freezing_switches_to_eval() -> Undo:
    """Module.requires_grad_(False) puts the module into evaluation mode."""
    kept = nn.Module.requires_grad_

    def requires_grad_(self: nn.Module, requires_grad: bool = True) -> nn.Module:
        return kept(self, requires_grad) if requires_grad else kept(self, False).eval()

    return put(nn.Module, "requires_grad_", requires_grad_)


@fault("requires_grad_reaches_every_parameter_and_no_buffer")
def freezing_forgets_the_last_parameter() -> Undo:
    """Module.requires_grad_ does not reach the last parameter."""

    def requires_grad_(self: nn.Module, requires_grad: bool = True) -> nn.Module:
        for parameter in list(self.parameters())[:-1]:
            parameter.requires_grad_(requires_grad)
        return self

    return put(nn.Module, "requires_grad_", requires_grad_)


@fault("requires_grad_reaches_every_parameter_and_no_buffer")
def unfreezing_reaches_buffers() -> Undo:
    """Module.requires_grad_ reaches buffers."""
    kept = nn.Module.requires_grad_

    def requires_grad_(self: nn.Module, requires_grad: bool = True) -> nn.Module:
        for buffer in self.buffers():
            if buffer.is_floating_point():
                buffer.requires_grad_(requires_grad)
        return kept(self, requires_grad)

    return put(nn.Module, "requires_grad_", requires_grad_)


def _frozen_linear(does: Callable[[nn.Linear, Tensor, Callable[..., Tensor]], Tensor]) -> Undo:
    kept = nn.Linear.forward

    def forward(self: nn.Linear, input: Tensor) -> Tensor:
        return kept(self, input) if self.weight.requires_grad else does(self, input, kept)

    return put(nn.Linear, "forward", forward)


@fault("freezing_changes_no_other_gradient", "torch_agrees_with_the_reference")
def frozen_linear_detaches_its_input() -> Undo:
    """nn.Linear with a frozen weight lets no gradient through to its input."""
    return _frozen_linear(lambda self, input, kept: kept(self, input.detach()))


@fault("freezing_changes_no_value", "values_depend_on_train_and_eval_alone")
def frozen_linear_gives_other_values() -> Undo:
    """nn.Linear with a frozen weight computes something else."""
    return _frozen_linear(lambda self, input, kept: kept(self, input) * 2)


@fault("a_frozen_parameter_receives_no_gradient", "torch_agrees_with_the_reference")
def frozen_linear_receives_a_gradient() -> Undo:
    """backward stores a gradient in the frozen weight of an nn.Linear."""

    def does(self: nn.Linear, input: Tensor, kept: Callable[..., Tensor]) -> Tensor:
        made, weight = kept(self, input), self.weight
        if made.requires_grad:
            hooked: Any = made
            hooked.register_hook(lambda _: setattr(weight, "grad", torch.zeros_like(weight)))
        return made

    return _frozen_linear(does)


@fault("a_pretrained_embedding_is_frozen")
def pretrained_embeddings_are_trainable() -> Undo:
    """Embedding.from_pretrained does not freeze by default."""
    kept: Any = nn.Embedding.from_pretrained

    def from_pretrained(cls: Any, embeddings: Tensor, freeze: bool = False) -> Any:
        return kept(embeddings, freeze)

    return put(nn.Embedding, "from_pretrained", classmethod(from_pretrained))


# --- backward and gradients ---------------------------------------------------------------------


@fault("torch_agrees_with_the_reference")
def backward_disables_grad() -> Undo:
    """backward leaves grad disabled."""
    kept: Any = torch.autograd.backward

    def backward(*args: Any, **options: Any) -> None:
        kept(*args, **options)
        torch._C._set_grad_enabled(False)

    return put(torch.autograd, "backward", backward)


@fault("backward_to_a_subset_acts_as_freezing_the_rest")
def backward_ignores_inputs() -> Undo:
    """backward(inputs=...) accumulates into every leaf."""
    kept: Any = torch.autograd.backward

    def backward(*args: Any, inputs: Any = None, **options: Any) -> None:
        kept(*args, **options)

    return put(torch.autograd, "backward", backward)


@fault("autograd_grad_touches_no_grad_field")
def autograd_grad_fills_grad() -> Undo:
    """autograd.grad stores what it returns in .grad."""
    kept: Any = torch.autograd.grad

    def grad(outputs: Any, inputs: Any, *args: Any, **options: Any) -> Any:
        made = kept(outputs, inputs, *args, **options)
        told = [inputs] if isinstance(inputs, Tensor) else inputs
        for tensor, gradient in zip(told, made, strict=True):
            tensor.grad = gradient
        return made

    return put(torch.autograd, "grad", grad)


@fault("hooks_that_return_none_change_nothing")
def hooked_modules_detach_their_output() -> Undo:
    """A module with a forward hook hands on an output that is cut from the graph."""
    kept: Any = nn.Module._call_impl

    def call(self: nn.Module, *args: Any, **options: Any) -> Any:
        made = kept(self, *args, **options)
        return made.detach() if self._forward_hooks and isinstance(made, Tensor) else made

    return put(nn.Module, "_call_impl", call)


@fault("checkpointing_changes_no_gradient")
def checkpoint_forgets_the_randomness() -> Undo:
    """A checkpointed block draws other randomness when it runs again in backward."""
    kept = torch.utils.checkpoint._checkpoint_without_reentrant_generator

    def generator(function: Any, preserve: bool, *rest: Any, **options: Any) -> Any:
        return kept(function, False, *rest, **options)

    return put(torch.utils.checkpoint, "_checkpoint_without_reentrant_generator", generator)


# --- tensors ------------------------------------------------------------------------------------


@fault("a_detached_tensor_shares_storage_and_version")
def detaching_copies() -> Undo:
    """detach() returns a copy."""
    kept = Tensor.detach
    return put(Tensor, "detach", lambda self: kept(self).clone())


@fault("a_copy_is_differentiable")
def cloning_records_under_no_grad() -> Undo:
    """clone() is recorded while grad is disabled."""
    kept = Tensor.clone

    def clone(self: Tensor, **options: Any) -> Tensor:
        with torch.enable_grad():
            return kept(self, **options)

    return put(Tensor, "clone", clone)


@fault("an_operation_without_work_returns_its_input_itself")
def contiguous_copies() -> Undo:
    """contiguous() copies what is contiguous already."""
    return put(Tensor, "contiguous", lambda self, **options: self.clone(**options))


@fault("initialising_records_nothing")
def initialising_freezes() -> Undo:
    """nn.init.zeros_ leaves a parameter that does not require grad."""
    kept = nn.init.zeros_
    return put(nn.init, "zeros_", lambda tensor: kept(tensor).requires_grad_(False))


# --- copies and files ---------------------------------------------------------------------------


@fault("a_non_leaf_refuses_to_be_deep_copied")
def deepcopy_of_a_tensor_forgets_requires_grad() -> Undo:
    """The deep copy of a leaf does not require grad."""
    kept: Any = Tensor.__deepcopy__
    return put(Tensor, "__deepcopy__", lambda self, memo: kept(self, memo).requires_grad_(False))


@fault("a_deep_copy_keeps_every_flag")
def deepcopy_unfreezes() -> Undo:
    """The deep copy of a frozen parameter requires grad."""
    kept: Any = nn.Parameter.__deepcopy__
    return put(
        nn.Parameter, "__deepcopy__", lambda self, memo: kept(self, memo).requires_grad_(True)
    )


@fault("a_deep_copy_keeps_every_flag")
def deepcopy_switches_to_training() -> Undo:
    """The deep copy of a module is in training mode."""

    def deepcopy(self: nn.Module, memo: Any) -> Any:
        made = copy._reconstruct(self, memo, *self.__reduce_ex__(4))  # type: ignore[attr-defined]
        made.training = True
        return made

    return put(nn.Module, "__deepcopy__", deepcopy)


@fault("pickling_keeps_every_flag", "saving_a_module_keeps_every_flag")
def pickling_switches_to_training() -> Undo:
    """A module read from a pickle is in training mode."""
    kept: Any = nn.Module.__setstate__

    def restore(self: nn.Module, state: Any) -> None:
        kept(self, state)
        self.training = True

    return put(nn.Module, "__setstate__", restore)


@fault("loading_a_state_dict_keeps_every_flag")
def load_state_dict_unfreezes() -> Undo:
    """load_state_dict() sets requires_grad of every parameter."""
    return _loading_unfreezes(lambda options: True)


@fault("assigning_a_state_dict_keeps_every_flag")
def assigning_a_state_dict_unfreezes() -> Undo:
    """load_state_dict(assign=True) sets requires_grad of every parameter."""
    return _loading_unfreezes(lambda options: options.get("assign", False))


def _loading_unfreezes(when: Callable[[dict[str, Any]], bool]) -> Undo:
    kept = nn.Module.load_state_dict

    def load_state_dict(self: nn.Module, *args: Any, **options: Any) -> Any:
        made = kept(self, *args, **options)
        if when(options):
            self.requires_grad_(True)
        return made

    return put(nn.Module, "load_state_dict", load_state_dict)


@fault("a_state_dict_is_a_detached_alias")
def state_dict_copies() -> Undo:
    """state_dict() returns copies of parameters and buffers."""
    kept = nn.Module.state_dict

    def state_dict(self: nn.Module, *args: Any, **options: Any) -> Any:
        made = kept(self, *args, **options)
        if not options.get("keep_vars", False):
            made.update({name: tensor.clone() for name, tensor in made.items()})
        return made

    return put(nn.Module, "state_dict", state_dict)


@fault("converting_keeps_every_flag")
def converting_unfreezes() -> Undo:
    """Module.to sets requires_grad of every parameter."""
    kept = nn.Module.to

    def to(self: nn.Module, *args: Any, **options: Any) -> nn.Module:
        return kept(self, *args, **options).requires_grad_(True)

    return put(nn.Module, "to", to)


# --- optimizers ---------------------------------------------------------------------------------


def _after_step(does: Callable[[torch.optim.Optimizer], object]) -> Undo:
    kept = torch.optim.SGD.step

    def step(self: Any, closure: Any = None) -> Any:
        loss = kept(self, closure)
        does(self)
        return loss

    return put(torch.optim.SGD, "step", step)


@fault("a_step_skips_parameters_without_gradient")
def weight_decay_moves_parameters_without_gradient() -> Undo:
    """SGD.step applies weight decay to parameters that have no gradient."""

    def decay(optimizer: torch.optim.Optimizer) -> None:
        for parameter in (p for group in optimizer.param_groups for p in group["params"]):
            if parameter.grad is None:
                parameter.data.mul_(0.5)

    return _after_step(decay)


@fault("a_closure_runs_with_grad_enabled")
def stepping_enables_grad() -> Undo:
    """SGD.step leaves grad enabled, whatever the mode was before."""
    return _after_step(lambda _: torch._C._set_grad_enabled(True))


@fault("a_closure_runs_with_grad_enabled")
def closures_run_without_grad() -> Undo:
    """SGD.step runs its closure with grad disabled."""
    kept = torch.optim.SGD.step

    def step(self: Any, closure: Any = None) -> Any:
        return kept(self, torch.no_grad()(closure) if closure else None)

    return put(torch.optim.SGD, "step", step)


@fault("zero_grad_clears_every_gradient")
def zero_grad_of_a_module_keeps_gradients() -> Undo:
    """Module.zero_grad clears nothing."""
    return put(nn.Module, "zero_grad", lambda self, set_to_none=True: None)


@fault("a_step_moves_a_frozen_parameter_that_still_has_a_gradient")
def zero_grad_of_an_optimizer_keeps_gradients() -> Undo:
    """Optimizer.zero_grad clears nothing."""
    return put(torch.optim.Optimizer, "zero_grad", lambda self, set_to_none=True: None)


@fault("zero_grad_clears_every_gradient")
def zero_grad_unfreezes() -> Undo:
    """Module.zero_grad(set_to_none=True) sets requires_grad of every parameter."""
    kept = nn.Module.zero_grad

    def zero_grad(self: nn.Module, set_to_none: bool = True) -> None:
        kept(self, set_to_none)
        if set_to_none:
            self.requires_grad_(True)

    return put(nn.Module, "zero_grad", zero_grad)


@fault("gradients_are_slopes")
def gradients_are_doubled() -> Undo:
    """Every gradient is twice what it is."""
    kept, backward = torch.autograd.grad, torch.autograd.backward

    def grad(*args: Any, **options: Any) -> Any:
        found = kept(*args, **options)
        return tuple(None if g is None else g * 2 for g in found)

    def doubled(tensors: Any, grad_tensors: Any = None, *args: Any, **options: Any) -> None:
        weights = [None if w is None else w * 2 for w in grad_tensors or [None]]
        backward(tensors, weights if grad_tensors else None, *args, **options)

    return together(put(torch.autograd, "grad", grad), put(torch.autograd, "backward", doubled))


@fault("optimizers_refuse_tensors_that_are_no_leaves")
def optimizers_accept_anything() -> Undo:
    """An optimizer does not refuse tensors that are no leaves."""
    kept = torch.optim.Optimizer.add_param_group

    def add_param_group(self: Any, group: Any) -> None:
        try:
            kept(self, group)
        except ValueError:
            self.param_groups.append(group)

    return put(torch.optim.Optimizer, "add_param_group", add_param_group)


@fault("a_saved_tensor_that_was_written_into_is_refused")
def writes_in_inference_mode_count_no_version() -> Undo:
    """mul_ in inference mode leaves the version of a normal tensor as it was."""
    kept = Tensor.mul_

    def mul_(self: Tensor, other: Any) -> Tensor:
        counted = torch.is_inference_mode_enabled() and not self.is_inference()
        version = self._version if counted else 0
        made = kept(self, other)
        if counted:
            torch._C._autograd._unsafe_set_version_counter((self,), (version,))
        return made

    return put(Tensor, "mul_", mul_)
