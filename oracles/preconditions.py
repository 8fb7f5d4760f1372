"""What a law may ask of the module or tensor that it is given: see `law`, given.

What it asks of the setting stands in setting.py, and which layers a module must have in having.
Each takes the parameters of the law that it names.
"""

from __future__ import annotations

from .reference import predict
from .sample import Sample
from .setting import ENABLED, Setting
from .subject import Layer, Subject
from .traits import Certainty


def tracks_statistics(layer: Layer) -> bool:
    """The layer has running statistics."""
    return bool(layer.node.arguments["track_running_stats"])


def keeps_no_statistics(layer: Layer) -> bool:
    """The layer has no running statistics."""
    return not tracks_statistics(layer)


def tracks_statistics_and_is_affine(layer: Layer) -> bool:
    """The layer has running statistics and an affine map."""
    return tracks_statistics(layer) and bool(layer.node.arguments["affine"])


def may_drop(layer: Layer) -> bool:
    """Whether an element is dropped is random: p is neither 0 nor 1."""
    return bool(0.0 < layer.node.arguments["p"] < 1.0)


def drops_all_or_nothing(layer: Layer) -> bool:
    """No element is dropped or every element is: p is 0 or 1."""
    return layer.node.arguments["p"] in (0.0, 1.0)


def is_given_a_padding_mask(layer: Layer) -> bool:
    """The layer is given a mask of padding."""
    return layer.node.op.endswith("_padded")


def has_one_level(layer: Layer) -> bool:
    """The recurrent layer has num_layers=1, and is not given a packed sequence."""
    return layer.node.arguments["num_layers"] == 1 and not layer.node.op.endswith("_packed")


def has_several_smooth_levels(layer: Layer) -> bool:
    """The recurrent layer has num_layers > 1, no ReLU, and is not given a packed sequence."""
    arguments = layer.node.arguments
    # A ReLU may give zeros whatever the input.
    smooth = arguments.get("nonlinearity") != "relu"
    return smooth and arguments["num_layers"] > 1 and not layer.node.op.endswith("_packed")


def renormalises(layer: Layer) -> bool:
    """The embedding has max_norm."""
    return layer.node.arguments.get("max_norm") is not None


def has_a_padding_row(layer: Layer) -> bool:
    """The embedding has padding_idx."""
    return layer.node.arguments.get("padding_idx") is not None


def is_a_matrix(layer: Layer) -> bool:
    """The layer is a plain nn.Linear with more than one input and more than one output."""
    sizes = layer.node.arguments
    return layer.node.op == "Linear" and min(sizes["in_features"], sizes["out_features"]) > 1


def is_frozen_in_part(layer: Layer, setting: Setting) -> bool:
    """Some parameters of the layer are frozen, and some are not."""
    return 0 < len(setting.frozen) < len(layer.parameters)


def is_real(subject: Subject) -> bool:
    """The module computes with real numbers."""
    return subject.specimen.dtype != "complex64"


def has_a_wider_type(subject: Subject) -> bool:
    """There is a dtype that holds all values of the module's, and others as well."""
    return subject.specimen.dtype != "float64"


def has_a_submodule_with_some_parameters(subject: Subject) -> bool:
    """Some submodule has some of the parameters, but not all of them."""
    return bool(parts(subject))


def parts(subject: Subject) -> list[str]:
    """The paths of the submodules that have some of the parameters, but not all of them."""

    def owned(path: str) -> int:
        return sum(name.startswith(f"{path}.") for name in subject.parameters)

    paths = subject.specimen.recipe.modules()
    return [path for path in paths if 0 < owned(path) < len(subject.parameters)]


def something_requires_grad(subject: Subject, setting: Setting) -> bool:
    """Some parameter or input requires grad."""
    return bool(setting.inputs) or len(setting.frozen) < len(subject.parameters)


def an_output_requires_grad(subject: Subject, setting: Setting) -> bool:
    """Some output requires grad: there is something to go backward from."""
    return subject.backward(setting).records


def it_is_recorded_in_grad_mode(subject: Subject, setting: Setting) -> bool:
    """With grad enabled some output would require grad."""
    return subject.backward(setting.but(grad=ENABLED)).records


def a_parameter_receives_a_gradient(subject: Subject, setting: Setting) -> bool:
    """Backward leaves a gradient in some parameter."""
    return any(g is not None for g in subject.backward(setting).look.gradients.values())


def an_output_is_floating_point(subject: Subject, setting: Setting) -> bool:
    """Some output is of a floating-point type."""
    return any(t.is_floating_point() for t in subject.run(setting).out)


def an_output_is_integer(subject: Subject, setting: Setting) -> bool:
    """Some output is of an integer type or boolean."""
    return any(not t.is_floating_point() and not t.is_complex() for t in subject.run(setting).out)


def draws_no_randomness(subject: Subject, setting: Setting) -> bool:
    """By the reference model, forward draws no randomness."""
    prediction = predict(subject.specimen.recipe, setting, subject.specimen.dtype)
    return prediction.draws is Certainty.NEVER


def is_a_real_sample(sample: Sample) -> bool:
    """The tensor is of real numbers."""
    return sample.dtype != "complex64"


def is_of_single_or_double_precision(sample: Sample) -> bool:
    """The tensor is of type float32 or float64."""
    return sample.dtype in ("float32", "float64")
