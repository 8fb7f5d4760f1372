"""Planted faults of train() and eval(), and of what depends on them."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from .calls import Call, each_backward, each_call, each_output, own, write
from .fault import Undo, afterwards, fault, put, together

# --- the flag -----------------------------------------------------------------------------------


@fault("modules_start_in_training_mode")
def modules_start_in_evaluation() -> Undo:
    """A new module is in evaluation mode."""
    return afterwards(
        nn.Module, "__init__", lambda self, *args, **options: setattr(self, "training", False)
    )


@fault("grad_modes_change_no_flag_of_a_new_module")
def modules_made_without_grad_start_in_evaluation() -> Undo:
    """A module that is made while grad is disabled is in evaluation mode."""
    return afterwards(
        nn.Module,
        "__init__",
        lambda self, *args, **options: setattr(self, "training", torch.is_grad_enabled()),
    )


@fault("switching_a_submodule_reaches_its_subtree_alone")
def forward_switches_submodules_back() -> Undo:
    """A forward gives the flag of a module to all of its submodules."""

    def does(module: nn.Module, call: Call) -> Any:
        if any(m.training is not module.training for m in module.modules()):
            module.train(module.training)
        return call()

    return each_call(does)


@fault("eval_is_train_false")
def eval_reaches_what_has_parameters_alone() -> Undo:
    """eval() passes over submodules that have no parameters; train(False) does not."""

    def evaluate(self: nn.Module) -> nn.Module:
        for module in self.modules():
            if module is self or own(module):
                module.training = False
        return self

    return put(nn.Module, "eval", evaluate)


@fault("the_last_call_wins", "toggling_restores_the_behaviour")
def eval_is_for_good() -> Undo:
    """train() does nothing after eval()."""
    kept, evaluated = nn.Module.train, "_evaluated"

    def evaluate(self: nn.Module) -> nn.Module:
        for module in self.modules():
            setattr(module, evaluated, True)
        return kept(self, False)

    def train(self: nn.Module, mode: bool = True) -> nn.Module:
        return self if hasattr(self, evaluated) else kept(self, mode)

    return together(put(nn.Module, "eval", evaluate), put(nn.Module, "train", train))


@fault("a_later_call_on_the_whole_overrides_a_submodule")
def train_trusts_the_flag_of_the_whole() -> Undo:
    """train(mode) does nothing where the module is in that mode, whatever its submodules are in."""
    kept = nn.Module.train

    def train(self: nn.Module, mode: bool = True) -> nn.Module:
        return self if self.training is mode else kept(self, mode)

    return put(nn.Module, "train", train)


@fault("the_flag_is_not_part_of_the_state_dict")
def state_dicts_keep_the_mode() -> Undo:
    """load_state_dict() restores the mode in which the state_dict was made."""
    kept, load = nn.Module.state_dict, nn.Module.load_state_dict

    def state_dict(self: nn.Module, *args: Any, **options: Any) -> Any:
        made = kept(self, *args, **options)
        made._metadata[""]["training"] = self.training
        return made

    def load_state_dict(self: nn.Module, state: Any, *args: Any, **options: Any) -> Any:
        done = load(self, state, *args, **options)
        self.train(state._metadata[""]["training"])
        return done

    return together(
        put(nn.Module, "state_dict", state_dict),
        put(nn.Module, "load_state_dict", load_state_dict),
    )


@fault("a_submodule_attached_later_keeps_its_own_flag")
def attaching_hands_on_the_flag() -> Undo:
    """A submodule takes on the mode of the module that it is attached to."""

    def then(self: nn.Module, name: str, value: Any) -> None:
        if isinstance(value, nn.Module):
            value.train(self.training)

    return afterwards(nn.Module, "__setattr__", then)


@fault("a_shared_submodule_has_one_flag")
def sequences_take_copies() -> Undo:
    """nn.Sequential registers copies of the modules that it is given."""
    kept = nn.Sequential.__init__

    def init(self: nn.Sequential, *modules: Any) -> None:
        kept(self, *(copy.copy(m) if isinstance(m, nn.Module) else m for m in modules))

    return put(nn.Sequential, "__init__", init)


def _in_lists(module: nn.Module) -> Iterator[nn.Module]:
    """The modules in the plain lists of a module."""
    for held in vars(module).values():
        if isinstance(held, list):
            yield from (item for item in held if isinstance(item, nn.Module))


def _reaching_plain_lists(name: str) -> Undo:
    """What this method does to a module, it does to the modules in its plain lists as well."""

    def then(self: nn.Module, flag: bool = True) -> None:
        for module in _in_lists(self):
            getattr(module, name)(flag)

    return afterwards(nn.Module, name, then)


@fault("a_module_in_a_plain_list_is_not_reached")
def train_reaches_plain_lists() -> Undo:
    """train() reaches the modules in a plain list."""
    return _reaching_plain_lists("train")


@fault("a_module_in_a_plain_list_is_not_reached")
def freezing_reaches_plain_lists() -> Undo:
    """requires_grad_() reaches the modules in a plain list."""
    return _reaching_plain_lists("requires_grad_")


@fault("toggling_restores_the_behaviour", "train_and_eval_change_nothing_but_the_flag")
def eval_rounds_the_parameters() -> Undo:
    """eval() rounds parameters to bfloat16, and train() cannot restore them."""

    def then(self: nn.Module) -> None:
        for parameter in self.parameters():
            rounded = torch.bfloat16 if parameter.is_floating_point() else torch.complex32
            write(parameter, parameter.to(rounded).to(parameter.dtype))

    return afterwards(nn.Module, "eval", then)


@fault("the_flag_is_read_at_forward_time")
def backward_reads_the_flag() -> Undo:
    """Backward halves the gradient of a module that was switched after its forward."""

    def does(module: nn.Module) -> Any:
        training = module.training
        return lambda gradient: gradient if module.training is training else gradient / 2

    return each_backward(does)


@fault("eval_calls_an_overridden_train")
def eval_goes_past_an_overridden_train() -> Undo:
    """eval() calls the train() of nn.Module, not that of the class."""
    return put(nn.Module, "eval", lambda self: nn.Module.train(self, False))


# --- evaluation ---------------------------------------------------------------------------------


@fault("evaluation_is_deterministic")
def evaluation_draws_from_a_generator_of_its_own() -> Undo:
    """Layers with parameters add noise in evaluation, from a generator that no seed reaches."""
    generator = torch.Generator()

    def change(module: nn.Module, made: Tensor) -> Tensor:
        if module.training or not own(module):
            return made
        return made * (1 + torch.rand((), generator=generator).item())

    return each_output(change)


@fault("the_mode_changes_nothing_where_no_layer_depends_on_it")
def linear_rounds_its_weight_in_evaluation() -> Undo:
    """nn.Linear rounds its weight to bfloat16 in evaluation."""
    kept = nn.Linear.forward

    def forward(self: nn.Linear, input: Tensor) -> Tensor:
        if self.training:
            return kept(self, input)
        rounded = self.weight.to(torch.bfloat16).to(self.weight.dtype)
        return functional.linear(input, rounded, self.bias)

    return put(nn.Linear, "forward", forward)


# --- independence -------------------------------------------------------------------------------


@fault("every_module_runs_in_every_setting")
def training_refuses_inference_mode() -> Undo:
    """A layer with parameters that is in training mode raises in inference mode."""

    def does(module: nn.Module, call: Call) -> Any:
        if module.training and own(module) and torch.is_inference_mode_enabled():
            raise RuntimeError("a layer in training mode was called in inference mode")
        return call()

    return each_call(does)


@fault("recording_depends_on_grad_mode_and_requires_grad_alone")
def evaluation_detaches() -> Undo:
    """A module in evaluation returns an output that is cut from the graph."""
    return each_output(lambda module, made: made if module.training else made.detach())


@fault("recording_depends_on_grad_mode_and_requires_grad_alone")
def dropout_records_in_training_under_set_grad_enabled() -> Undo:
    """What dropout drops from requires grad inside of set_grad_enabled(False), in training."""
    entered: list[bool] = []
    dropping = nn.modules.dropout._DropoutNd
    enter, leave = torch.set_grad_enabled.__enter__, torch.set_grad_enabled.__exit__

    def noted(self: Any) -> None:
        entered.append(self.mode)
        enter(self)

    def left(self: Any, *raised: Any) -> None:
        entered.pop()
        leave(self, *raised)

    def change(module: nn.Module, made: Tensor) -> Tensor:
        wrong = isinstance(module, dropping) and module.training and entered[-1:] == [False]
        return made.detach().requires_grad_() if wrong else made

    return together(
        each_output(change),
        put(torch.set_grad_enabled, "__enter__", noted),
        put(torch.set_grad_enabled, "__exit__", left),
    )


@fault("gradients_reach_the_same_leaves_in_train_and_eval")
def evaluation_freezes() -> Undo:
    """The parameters of a module in evaluation are not recorded."""

    def does(module: nn.Module, call: Call) -> Any:
        frozen = [p for p in own(module) if p.requires_grad and not module.training]
        for parameter in frozen:
            parameter.requires_grad_(False)
        try:
            return call()
        finally:
            for parameter in frozen:
                parameter.requires_grad_(True)

    return each_call(does)


# --- state and traits ---------------------------------------------------------------------------


@fault("backward_changes_no_state")
def backward_moves_buffers() -> Undo:
    """A backward adds one to the buffers of each module that it goes through."""

    def does(module: nn.Module) -> Any:
        def move(gradient: Tensor) -> None:
            for buffer in module.buffers(recurse=False):
                write(buffer, buffer + 1)

        return move

    return each_backward(does)


@fault("a_layer_does_what_its_traits_claim")
def layers_draw_where_nothing_is_recorded() -> Undo:
    """Each call of a module draws a random number while grad is disabled."""

    def does(module: nn.Module, call: Call) -> Any:
        if not torch.is_grad_enabled():
            torch.rand(1)
        return call()

    return each_call(does)
