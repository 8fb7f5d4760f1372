"""Module.train and Module.eval: one flag a submodule, and nothing but that flag."""

from __future__ import annotations

import torch

from ..law import law
from ..relations import agree, agree_with, every, holds
from ..sample import Nesting
from ..setting import Setting, all_of, plain_grad, uniform
from ..subject import Subject


@law(source="notes/modules: 'Modules default to training mode'", norms=("D1",))
def modules_start_in_training_mode(subject: Subject) -> None:
    """A new module is in training mode, and so is every submodule."""
    every(subject.run(Setting(training=False), prepare="model, x = build()").flags, True)


@law(source="Module.train; Module.eval", norms=("D2", "D21"), when=uniform, everywhere=True)
def train_and_eval_reach_every_submodule(subject: Subject, setting: Setting) -> None:
    """train(mode) sets the flag of the module and of every descendant."""
    every(subject.run(setting).flags, setting.training)


@law(source="Module.train, recursively", norms=("D12", "D8"), everywhere=True)
def switching_a_submodule_reaches_its_subtree_alone(subject: Subject, setting: Setting) -> None:
    """train() and eval() on a submodule set the flags of its subtree and no other.

    Neither the grad mode nor freezing changes a flag, and forward does not either.
    """
    run = subject.run(setting)
    flags = {f"model.get_submodule({path!r}).training": setting.trains(path) for path in run.paths}
    agree_with(run.flags, flags)


@law(
    source="Module.train: 'Returns: self'; Module.eval",
    norms=("D3",),
    when=all_of(plain_grad, uniform),
)
def train_and_eval_return_the_module(subject: Subject, setting: Setting) -> None:
    """train() and eval() return the module itself."""
    run = subject.run(setting, prepare="told = [model.train(), model.train(False), model.eval()]")
    every(run.evaluate("told[0] is model", "told[1] is model", "told[2] is model"), True)


@law(source="Module.eval: 'equivalent with self.train(False)'", norms=("D4",), when=plain_grad)
def eval_is_train_false(subject: Subject, setting: Setting) -> None:
    """eval() acts as train(False)."""
    told = subject.run(setting, prepare="model.eval()")
    same = subject.run(setting, prepare="model.train(False)")
    agree(told.flags, same.flags)
    agree(told.output, same.output)
    agree(told.state, same.state)


@law(source="Module.train, mode (bool)", norms=("D5",), when=plain_grad)
def train_refuses_what_is_not_a_boolean(subject: Subject, setting: Setting) -> None:
    """train(mode) raises ValueError for anything but a bool, and leaves every flag as it was."""
    attempt = "refused = []\nfor mode in (1, 'False', None, torch.tensor(True)):\n"
    attempt += "    try: model.train(mode)\n    except ValueError: refused += [mode]"
    run = subject.run(setting, prepare=attempt)
    agree_with(run.evaluate("len(refused)"), {"len(refused)": 4})
    agree(run.flags, subject.run(setting).flags)


@law(source="Module.train", norms=("D6",), when=plain_grad)
def the_last_call_wins(subject: Subject, setting: Setting) -> None:
    """train and eval are idempotent, and the last call decides."""
    told = "model.eval()\n" if setting.training else "model.train()\n"
    mode = "model.train()" if setting.training else "model.eval()"
    once = subject.run(setting, prepare=mode)
    often = subject.run(setting, prepare=told + mode + "\n" + mode)
    agree(often.flags, once.flags)
    agree(often.output, once.output)


@law(source="notes/autograd, Evaluation Mode; Module.train", norms=("D7",), when=plain_grad)
def train_and_eval_change_nothing_but_the_flag(subject: Subject, setting: Setting) -> None:
    """State, requires_grad, .grad, hooks, the grad mode and the generator stay as they were."""
    prepare = "for p in model.parameters(): p.grad = torch.ones_like(p)\n"
    prepare += "before = [id(p.grad) for p in model.parameters()], torch.is_grad_enabled()\n"
    prepare += "hooks = [len(m._forward_hooks) for m in model.modules()]\n"
    prepare += "drawn = torch.get_rng_state()\nmodel.train()\nmodel.eval()\n"
    prepare += "undrawn = torch.equal(drawn, torch.get_rng_state())\n"
    prepare += "state = {k: v.clone() for k, v in model.state_dict().items()}"
    run = subject.run(setting, prepare=prepare)
    agree(run.requires_grad, subject.run(setting).requires_grad)
    every(
        run.evaluate(
            "undrawn",
            "before == ([id(p.grad) for p in model.parameters()], torch.is_grad_enabled())",
            "hooks == [len(m._forward_hooks) for m in model.modules()]",
            "[*state] == [*build()[0].state_dict()]",
        ),
        True,
    )
    every(run.items("[torch.equal(v, state[k]) for k, v in build()[0].state_dict().items()]"), True)


@law(source="Module.state_dict; Module.load_state_dict", norms=("D10",), when=plain_grad)
def the_flag_is_not_part_of_the_state_dict(subject: Subject, setting: Setting) -> None:
    """state_dict is the same in both modes, and loading one made in the other alters no flag."""
    prepare = "flags = [m.training for m in model.modules()]\n"
    prepare += "mine = copy.deepcopy(model.state_dict())\nmodel.train(not model.training)\n"
    prepare += "other = copy.deepcopy(model.state_dict())\n"
    prepare += "for m, flag in zip(model.modules(), flags): m.training = flag\n"
    prepare += "same = [torch.equal(mine[n], other[n]) for n in mine]\n"
    prepare += "model.load_state_dict(other)"
    run = subject.run(setting, prepare=prepare)
    agree(run.flags, subject.run(setting).flags)
    every(run.evaluate("[*mine] == [*other]"), True)
    every(run.items("same"), True)


@law(source="Module.train, recursively", norms=("D12",), when=plain_grad)
def a_later_call_on_the_whole_overrides_a_submodule(subject: Subject, setting: Setting) -> None:
    """A train() or eval() of the whole overrides what submodules were told before."""
    for mode in (True, False):
        every(subject.run(setting, prepare=f"model.train({mode})").flags, mode)


@law(source="Module.add_module", norms=("D13",), when=all_of(plain_grad, uniform))
def a_submodule_attached_later_keeps_its_own_flag(subject: Subject, setting: Setting) -> None:
    """A submodule does not take on the mode of the module that it is attached to."""
    attach = "model.trained = nn.Dropout().train()\nmodel.evaluated = nn.Dropout().eval()"
    run = subject.run(setting, prepare=attach)
    seen = run.evaluate("model.trained.training", "model.evaluated.training")
    agree_with(seen, {"model.trained.training": True, "model.evaluated.training": False})


@law(
    source="nn.Module, registration of submodules", norms=("D14",), when=all_of(plain_grad, uniform)
)
def a_shared_submodule_has_one_flag(subject: Subject, setting: Setting) -> None:
    """A module registered twice is one module: its flag is seen through both names."""
    attach = "model.one = nn.Sequential(nn.Dropout())\nmodel.two = nn.Sequential(model.one[0])\n"
    told = f"model.train({setting.training})\nmodel.one.train({not setting.training})"
    run = subject.run(setting, prepare=attach + told)
    every(run.evaluate("model.two[0].training"), not setting.training)
    every(run.evaluate("model.two.training"), setting.training)


@law(
    source="nn.Module: 'submodules assigned in this way will be registered'",
    norms=("D22",),
    when=plain_grad,
)
def a_module_in_a_plain_list_is_not_reached(subject: Subject, setting: Setting) -> None:
    """train(), eval() and requires_grad_() do not reach modules in a plain Python list."""
    hide = "model.hidden = [nn.Linear(1, 1)]\nmodel.eval()\nmodel.requires_grad_(False)"
    run = subject.run(setting, prepare=hide)
    every(run.evaluate("model.hidden[0].training", "model.hidden[0].weight.requires_grad"), True)
    every(run.flags, False)
    every(run.requires_grad, False)


@law(source="Module.train", norms=("D19",), when=all_of(plain_grad, uniform))
def toggling_restores_the_behaviour(subject: Subject, setting: Setting) -> None:
    """eval() and train() again, or the reverse, give what was never toggled."""
    told = ("model.eval()", "model.train()")
    prepare = "\n".join(told if setting.training else told[::-1])
    toggled, plain = subject.backward(setting, prepare=prepare), subject.backward(setting)
    agree(toggled.output, plain.output)
    agree(toggled.state, plain.state)
    agree(toggled.gradients, plain.gradients)


@law(source="notes/autograd, How autograd encodes the history", norms=("D20",), when=plain_grad)
def the_flag_is_read_at_forward_time(subject: Subject, setting: Setting) -> None:
    """Switching the mode between forward and backward changes no gradient.

    A checkpointed block runs forward again in backward, in the mode of that moment: see the
    laws of checkpoints. It is called as it is here.
    """
    subject = subject.unchecked()
    switched = subject.backward(setting, between="model.train(not model.training)")
    agree(switched.gradients, subject.backward(setting).gradients)


@law(source="notes/autograd, Evaluation Mode: 'orthogonal'", norms=("D8",))
def grad_modes_change_no_flag_of_a_new_module(nesting: Nesting) -> None:
    """A module made and switched inside any grad mode has the flags it was told."""
    with nesting.entered():
        module = torch.nn.Sequential(torch.nn.Dropout())
        told = [m.training for m in module.modules()]
        module.eval()
    holds(told, "[m.training for m in module.modules()] when new", [True, True])
    holds([m.training for m in module.modules()], "the same after eval()", [False, False])


@law(source="Module.eval: 'equivalent with self.train(False)'", norms=("D4",))
def eval_calls_an_overridden_train(nesting: Nesting) -> None:
    """A subclass that overrides train() is told of eval() as well: as train(False)."""

    class Told(torch.nn.Module):
        told = None

        def train(self, mode=True):
            self.told = mode
            return super().train(mode)

    with nesting.entered():
        module = Told()
        module.eval()
    holds(module.told, "what train() was told by eval()", False)
