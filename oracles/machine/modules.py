"""What modules are told, run, copied, loaded and changed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..history import Step
from ..things import Leaf, MadeClass, Module, Optimizer, Refusal, Storage, Tensor, Unsaid
from .backward import Backward


class Modules(Backward):
    """What modules do, and what is done to them."""

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
        others = dict(self.named(step.words[0]).paths())
        refusals = []
        for path, module in self.named(step.on).paths():
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
        elif (
            module.counted
            and (self.may_write(counter) or rule in self.astray)
            and self.goes_astray("loading_resets_a_counter_that_is_not_given")
        ):
            module.counted = 0
        refused = Refusal("RuntimeError", "Inplace update to inference tensor")
        return [refused for buffer in buffers if not self.may_write(buffer)]

    def do_assign_state_dict(self, step: Step) -> None:
        """The tensors become parameters, requiring grad as the old ones did. Source: assign."""
        others = dict(self.named(step.words[0]).paths())
        refusals = []
        for path, module in self.named(step.on).paths():
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
        self.count(parameter, given)
        if parameter is not given:
            self.move(parameter, None)

    def do_to_float64_and_back(self, step: Step) -> None:
        """Converting keeps each parameter, its flags and its gradient. Source: Module.to."""
        converted = self.named(step.on).named_parameters().values()
        for name, (parameter, _) in self.versions.items():
            if parameter in converted:
                self.versions[name] = parameter, None
        for parameter in converted:
            parameter.storage.counted = False
            parameter.leaf = Leaf(parameter)  # its dtype was another for a while
            inference = self.thread.mode.inference
            rule = "converting_in_another_mode_makes_half_an_inference_tensor"
            if parameter.inference and not inference and not parameter.writable:
                parameter.versionless = self.goes_astray(rule)
            if inference and parameter.versionless:
                parameter.versionless = False  # an inference tensor, as it was built
            elif inference and not parameter.inference:
                parameter.writable = self.goes_astray(rule)
            parameter.inference = inference
        for _, module in self.named(step.on).walk():
            module.statistics = None if module.statistics is None else self.made()

    def do_to_its_device(self, step: Step) -> None:
        """Where there is nothing to convert, nothing changes. Source: Module.to."""

    def do_append(self, step: Step) -> None:
        """A module that is attached keeps its own flag. Source: Module.add_module."""
        self.named(step.on).children.append(self.named(step.words[0]))

    def do_share(self, step: Step) -> None:
        """A module that has an owner is attached to another: it has one flag. Source: D."""
        self.do_append(step)

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
        self.count(original)
        self.set(original)  # to itself
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

    def do_unparametrize_leaving(self, step: Step) -> None:
        """The original gets what is computed of it, and is the parameter. Source: the same."""
        layer = self.named(step.on)
        self.has_weight(layer)
        original = layer.parametrized.children[0].parameters["original"]
        if not self.may_write(original):  # torch takes that for a matter of its class
            if self.goes_astray("a_refused_write_to_an_inference_tensor_is_done"):
                self.move(original, None)
            raise Refusal("RuntimeError", "requires set_() to be implemented correctly")
        if any(t.storage is original.storage for t in self.others(original)):
            # set_() gives it another memory, but the old one and the new go on counting together.
            raise Unsaid
        original.storage = Storage(original.storage.version + 1, counted=False)
        self.set(original)
        self.move(original, None)
        self.do_unparametrize(step)

    def set(self, tensor: Tensor) -> None:
        """After set_() older graphs end elsewhere, but where nothing is dispatched to autograd."""
        if not self.thread.mode.inference:
            tensor.leaf = Leaf(tensor)

    def others(self, tensor: Tensor) -> Iterator[Tensor]:
        """Every tensor but this one that has a name, or is a parameter of what has one."""
        for value in self.names.values():
            match value:
                case Module():
                    found = list(value.named_parameters().values())
                case Optimizer():
                    found = value.parameters
                case _:
                    found = [value]
            yield from (t for t in found if isinstance(t, Tensor) and t is not tensor)

    def do_untie(self, step: Step) -> None:
        """A layer has a parameter of its own then, which requires grad. Source: nn.Parameter."""
        self.named(step.on).parameters["weight"] = self.weight()


def _raise_first(refusals: list[Refusal]) -> None:
    """One error names all that was refused: the first stands for it. Source: load_state_dict."""
    for refusal in refusals:
        raise refusal


def _keys(module: Module) -> set[str]:
    """The names in its state_dict, those of the statistics of a batch normalisation as one."""
    return {
        f"{path}.{name}"
        for path, m in module.paths()
        for name in (*m.parameters, *("counter",) * (m.counter is not None))
    }
