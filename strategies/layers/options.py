"""Options of layers that are not drawn, and why: of constructors, and of forward."""

from __future__ import annotations

from typing import Final

_DEPRECATED: Final = "deprecated: reduction says the same, and is drawn"
_TO: Final = "the module is moved with .to() after it is built, layer and input alike"
_RENAMED: Final = "deprecated: another name of min_val or max_val, which are drawn"
_ZEROS: Final = "refused but for zeros, which is what there is by default"
_WRAPPED: Final = "of what a norm makes of a weight, its layer says nothing: a linear one is enough"
_PROJECTED: Final = "refused but for LSTM"
_LIKE_ITS_OWN: Final = "it takes layers like its own alone; others are put in later"

#: By class, "*" for every class that has the option, and option.
NOT_DRAWN: Final[dict[tuple[str, str], str]] = {
    ("*", "device"): _TO,
    ("*", "dtype"): _TO,
    ("*", "size_average"): _DEPRECATED,
    ("*", "reduce"): _DEPRECATED,
    ("*", "_weight"): "private: values of a weight are drawn with the seed",
    ("*", "_freeze"): "private: whether a parameter is frozen is drawn with the setting",
    ("*", "_random_samples"): "private: it takes the randomness away, which is looked at",
    ("Hardtanh", "min_value"): _RENAMED,
    ("Hardtanh", "max_value"): _RENAMED,
    **{
        (f"{lazy}ConvTranspose{n}d", "padding_mode"): _ZEROS
        for lazy in ("", "Lazy")
        for n in (1, 2, 3)
    },
    ("RNN", "proj_size"): _PROJECTED,
    ("GRU", "proj_size"): _PROJECTED,
    ("TransformerEncoder", "encoder_layer"): _LIKE_ITS_OWN,
    ("TransformerDecoder", "decoder_layer"): _LIKE_ITS_OWN,
    ("utils.spectral_norm", "module"): _WRAPPED,
    ("utils.weight_norm", "module"): _WRAPPED,
    ("utils.spectral_norm", "name"): "there is one weight; a bias is a vector, which has no norm",
    ("utils.weight_norm", "name"): "there is one weight, and the same would be done to a bias",
}


def reason(name: str, option: str) -> str:
    """Why this option of this class of torch.nn is not drawn; "" if it has to be."""
    return NOT_DRAWN.get((name, option)) or NOT_DRAWN.get(("*", option), "")
