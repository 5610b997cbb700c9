"""Rewritings after which the sources say the same thing in the same layers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from math import isclose, prod, sqrt

from crossfade.deploy.structure.layer import CONVOLUTIONS, Fields, Layer, Structure, activation

NEAR = 1e-3


def simplified(structure: Structure) -> Structure:
    for rule in RULES:
        structure = rule(structure)
    return structure


def passed(structure: Structure, dropped: Iterable[int], changed: dict[int, Layer] | None = None) -> Structure:
    """Without some layers, whose outputs become their first input; with others in the place of some."""
    gone, changed = set(dropped), changed or {}
    alias: dict[str, str] = {}
    layers: list[Layer] = []
    for number, layer in enumerate(structure.layers):
        layer = changed.get(number, layer)
        taken = tuple(alias.get(name, name) for name in layer.inputs)
        if number in gone:
            alias |= dict.fromkeys(layer.outputs, taken[0])
        else:
            layers.append(replace(layer, inputs=taken))
    return replace(structure, layers=tuple(layers), outputs=tuple(alias.get(name, name) for name in structure.outputs))


def without_identities(structure: Structure) -> Structure:
    return passed(structure, [number for number, layer in enumerate(structure.layers) if layer.kind == "identity" and layer.inputs])


def with_padding_inside(structure: Structure) -> Structure:
    """A Padding whose every user is a convolution without padding of its own goes into them."""
    gone: list[int] = []
    changed: dict[int, Layer] = {}
    for number, layer in enumerate(structure.layers):
        users = sole_users(structure, layer)
        if layer.kind == "padding" and users and all(_takes_padding(structure.layers[user], layer) for user in users):
            gone.append(number)
            changed |= {user: _padded(structure.layers[user], layer) for user in users}
    return passed(structure, gone, changed)


def _takes_padding(layer: Layer, padding: Layer) -> bool:
    own, given = layer.fields.get("padding"), padding.fields["padding"]
    plain = layer.kind in CONVOLUTIONS and "transposed" not in layer.kind and isinstance(own, tuple) and isinstance(given, tuple)
    return plain and len(own) == len(given) and not any(own)  # pyright: ignore[reportArgumentType]


def _padded(layer: Layer, padding: Layer) -> Layer:
    return replace(layer, fields={**layer.fields, "padding": padding.fields["padding"], "padding mode": padding.fields["padding mode"]})


def with_last_windows_inside(structure: Structure) -> Structure:
    """What a padding of minus infinity adds at the ends, before a maximum, is what a last window that reaches beyond the end takes."""
    gone: list[int] = []
    changed: dict[int, Layer] = {}
    for number, layer in enumerate(structure.layers):
        user = sole_user(structure, layer) if layer.fields.get("padding mode") == "constant -inf" else None
        pads = layer.fields.get("padding")
        pools = user is not None and structure.layers[user].fields.get("function") == "maximum"
        if user is not None and pools and isinstance(pads, tuple) and not any(pads[: len(pads) // 2]):
            gone.append(number)
            changed[user] = replace(structure.layers[user], fields={**structure.layers[user].fields, "ceil": True})
    return passed(structure, gone, changed)


def with_bias_inside(structure: Structure) -> Structure:
    """A weighted sum without bias and, as its only user, an addition of one constant for each output."""
    gone: list[int] = []
    changed: dict[int, Layer] = {}
    for number, layer in enumerate(structure.layers):
        user = sole_user(structure, layer)
        if (
            layer.family == "weighted sum"
            and layer.fields["bias"] is False
            and user is not None
            and _is_bias(structure.layers[user], layer)
        ):
            added = structure.layers[user]
            held = [stored._replace(arrangement="flat") for stored in added.weights.values()]
            weights = layer.weights | dict(zip(("bias",), held, strict=False))
            outputs = int(layer.fields["outputs"])  # pyright: ignore[reportArgumentType]
            with_bias = {"fields": {**layer.fields, "bias": True}, "weights": weights, "parameters": layer.parameters + outputs}
            changed[number] = replace(layer, **with_bias)
            gone.append(user)
    return passed(structure, gone, changed)


def _is_bias(layer: Layer, of: Layer) -> bool:
    shape = layer.fields.get("constant")
    return layer.kind == "add" and len(layer.inputs) == 1 and isinstance(shape, tuple) and prod(shape) == of.fields["outputs"] > 1  # pyright: ignore[reportOperatorIssue]


def with_gates(structure: Structure) -> Structure:
    """x · sigmoid(x) is a swish, x · hard_sigmoid(x) a hard swish."""
    gone: set[int] = set()
    changed: dict[int, Layer] = {}
    for number, layer in enumerate(structure.layers):
        for gate in _gates(structure, layer):
            made, x = structure.layers[gate], structure.layers[gate].inputs[0]
            if x in layer.inputs and made.fields["function"] in GATED:
                kind, fields = activation(GATED[str(made.fields["function"])])
                gone.add(gate)
                changed[number] = replace(layer, kind=kind, fields=fields, inputs=(x,))
    return passed(structure, gone, changed)


GATED = {"sigmoid": "swish", "hard sigmoid": "hard swish"}


def _gates(structure: Structure, layer: Layer) -> list[int]:
    makers = structure.producers(layer) if layer.kind == "multiply" and len(layer.inputs) == 2 else []
    return [
        maker for maker in makers if maker is not None and structure.layers[maker].kind == "activation" and _used_once(structure, maker)
    ]


def _used_once(structure: Structure, number: int) -> bool:
    return len(structure.consumers(structure.layers[number])) == 1


def with_hard_sigmoid(structure: Structure) -> Structure:
    """relu6(x + 3) / 6, whose division may come after the product of a hard swish."""
    gone: list[int] = []
    changed: dict[int, Layer] = {}
    for number, layer in enumerate(structure.layers):
        clipped = sole_user(structure, layer)
        if constant(layer, "add", 3) and clipped is not None and structure.layers[clipped].fields.get("function") == "relu6":
            after = sole_user(structure, structure.layers[clipped])
            divided = after if after is not None and _sixth(structure.layers[after]) else None
            late = None if after is None else sole_user(structure, structure.layers[after])
            gated = after is not None and structure.layers[after].kind == "multiply" and layer.inputs[0] in structure.layers[after].inputs
            if divided is None and gated and late is not None and _sixth(structure.layers[late]):
                divided = late
            if divided is not None:
                kind, fields = activation("hard sigmoid")
                gone += [number, divided]
                changed[clipped] = replace(structure.layers[clipped], kind=kind, fields=fields)
    return passed(structure, gone, changed)


def _sixth(layer: Layer) -> bool:
    return constant(layer, "divide", 6) or constant(layer, "multiply", 1 / 6)


def with_gelu(structure: Structure) -> Structure:
    """0.5 · x · (1 + erf(x / √2)), in whatever order its products are."""
    for number, layer in enumerate(structure.layers):
        if layer.fields.get("function") != "erf":
            continue
        scaled = structure.makers.get(layer.inputs[0], (None,))[0]
        if scaled is None or not (
            constant(structure.layers[scaled], "divide", sqrt(2)) or constant(structure.layers[scaled], "multiply", sqrt(0.5))
        ):
            continue
        x, products, last = structure.layers[scaled].inputs[0], {scaled, number}, number
        halved: list[int] = [user for user in structure.users[x] if constant(structure.layers[user], "multiply", 0.5)]
        while (user := sole_user(structure, structure.layers[last])) is not None and _of_gelu(structure, user, x, halved):
            products.add(user)
            last = user
        taken = {maker for user in products for maker in structure.producers(structure.layers[user]) if maker in halved}
        if len(products) >= 4:
            kind, fields = activation("gelu", approximation="none")
            merged = replace(structure.layers[last], kind=kind, fields=fields, inputs=(x,))
            return with_gelu(passed(structure, (products | taken) - {last}, {last: merged}))  # pyright: ignore[reportOperatorIssue]
    return structure


def _of_gelu(structure: Structure, number: int, x: str, halved: list[int]) -> bool:
    layer = structure.layers[number]
    other = {name for half in halved for name in structure.layers[half].outputs} | {x}
    product = layer.kind == "multiply" and len(layer.inputs) == 2 and bool(set(layer.inputs) & other)
    return product or constant(layer, "add", 1) or constant(layer, "multiply", 0.5)


def with_group_norm(structure: Structure) -> Structure:
    """Reshape, InstanceNorm of as many channels as groups, reshape, and the product and sum with a number for each channel."""
    for number in range(len(structure.layers)):
        chain = [number]
        while len(chain) < 5 and (user := sole_user(structure, structure.layers[chain[-1]])) is not None:
            chain.append(user)
        made = [structure.layers[link] for link in chain]
        if [one.kind for one in made] == ["reshape", "instance norm", "reshape", "multiply", "add"] and _each(made[3]) and _each(made[4]):
            channels = prod(made[3].fields["constant"])  # pyright: ignore[reportArgumentType, reportCallIssue]
            fields: Fields = {"channels": channels, "groups": made[1].fields["channels"], "eps": made[1].fields["eps"], "affine": True}
            weights = {
                role: stored._replace(arrangement="flat")
                for role, one in (("weight", made[3]), ("bias", made[4]))
                for stored in one.weights.values()
            }
            merged = replace(made[4], kind="group norm", fields=fields, weights=weights, parameters=2 * channels, name=made[1].name)
            return with_group_norm(passed(structure, chain[:4], {chain[4]: merged}))
    return structure


def _each(layer: Layer) -> bool:
    return len(layer.inputs) == 1 and isinstance(layer.fields.get("constant"), tuple)


def without_flattening(structure: Structure) -> Structure:
    """A global pooling's one value a channel has no shape to speak of; a linear layer that takes a line flattens by itself."""
    return passed(structure, [number for number, layer in enumerate(structure.layers) if _flattens(structure, layer)])


def _flattens(structure: Structure, layer: Layer) -> bool:
    if layer.kind != "reshape" or len(layer.inputs) != 1:
        return False
    makers = [structure.layers[maker] for maker in structure.producers(layer) if maker is not None]
    users = sole_users(structure, layer)
    pooled = bool(makers) and all(maker.fields.get("global") for maker in makers)
    return pooled or (layer.fields.get("axes") == 1 and bool(users) and all(structure.layers[user].kind == "linear" for user in users))


def constant(layer: Layer, kind: str, value: float) -> bool:
    """Whether a layer is this arithmetic with this one number."""
    found = layer.fields.get("constant")
    return layer.kind == kind and len(layer.inputs) == 1 and isinstance(found, float) and isclose(found, value, rel_tol=NEAR)


def sole_users(structure: Structure, layer: Layer) -> list[int]:
    """The users of a layer's output; none where it is an output of the network too."""
    return [] if set(layer.outputs) & set(structure.outputs) else structure.consumers(layer)


def sole_user(structure: Structure, layer: Layer) -> int | None:
    users = sole_users(structure, layer)
    return users[0] if len(users) == 1 else None


RULES: tuple[Callable[[Structure], Structure], ...] = (
    without_identities,
    with_padding_inside,
    with_last_windows_inside,
    with_group_norm,
    with_bias_inside,
    with_hard_sigmoid,
    with_gates,
    with_gelu,
    without_flattening,
    without_flattening,
)
