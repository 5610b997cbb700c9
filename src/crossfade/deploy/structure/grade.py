"""How bad a difference is."""

from __future__ import annotations

from crossfade.deploy.structure.layer import ARITHMETIC, Layer

BREAKS, CHANGES, SMALL, COSMETIC = "P0", "P1", "P2", "P3"
GRADES = {BREAKS: "breaks results", CHANGES: "changes numbers", SMALL: "small numeric", COSMETIC: "cosmetic"}

# field -> grade, whatever the kind of layer; of another field of a layer, OTHER
FIELDS = {
    **dict.fromkeys(("inputs", "outputs", "kernel", "stride", "padding", "dilation", "output padding", "rows"), BREAKS),
    **dict.fromkeys(("order", "wiring", "axis", "heads"), BREAKS),
    **dict.fromkeys(("function", "padding mode", "bias", "slope", "minimum", "maximum", "alpha", "beta", "mode", "affine"), CHANGES),
    **dict.fromkeys(("eps", "align corners", "approximation"), SMALL),
    **dict.fromkeys(("folded", "names", "zero bias", "branches", "axes", "shape"), COSMETIC),
}
OTHER = CHANGES
# (kind of layer or its family, field) -> grade, where it is not the field's own
SPECIAL = {
    ("convolution", "groups"): BREAKS,
    ("depthwise convolution", "groups"): BREAKS,
    ("transposed convolution", "groups"): BREAKS,
    ("depthwise transposed convolution", "groups"): BREAKS,
    ("weighted sum", "kind"): BREAKS,
    ("arithmetic", "kind"): BREAKS,
    ("pooling", "kernel"): CHANGES,
    ("pooling", "padding"): CHANGES,
    ("normalisation", "channels"): BREAKS,
    ("softmax", "axis"): CHANGES,
}
# kind or family of a layer without parameters that is missing or extra -> grade
ABSENCE = {
    "reshape": COSMETIC,
    "permute": BREAKS,
    "concat": BREAKS,
    "slice": BREAKS,
    "resize": BREAKS,
    "pixel shuffle": BREAKS,
    "padding": BREAKS,
}


def of_field(layer: Layer, field: str) -> str:
    own = SPECIAL.get((layer.kind, field)) or SPECIAL.get((layer.family, field))
    return own or FIELDS.get(field, OTHER)


def of_absence(layer: Layer) -> str:
    """A layer with weights, or one that joins, splits or reorders values, breaks results; another changes numbers."""
    joins = layer.kind in ARITHMETIC and len(layer.inputs) > 1
    return BREAKS if layer.parameters or joins or layer.family == "weighted sum" else ABSENCE.get(layer.kind, CHANGES)
