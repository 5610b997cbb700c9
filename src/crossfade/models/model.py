"""The whole model: encoders -> mixers -> merger -> heads, from named tensors to named tensors, for any non-empty subset of streams."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from crossfade.clip import Tokens, UserError
from crossfade.models.encoder import Encoder
from crossfade.models.fusion import Merger, Mixer, module_dict, widths_text
from crossfade.models.masks import attendable, full_mask, masked_mean, presence

if TYPE_CHECKING:
    from crossfade.clip import Named

JOINT = "joint"
STATE = re.compile(r"(?P<stream>.+)\[(?P<start>\d+):\]\.(?P<entry>\w+)")  # "audio[11:].x": what enters encoders.audio[11:]
HEADS = "heads[:]"  # the presence (B, n) that goes with "heads[:].joint" …, what enters the heads


class Fused(nn.Module):
    """`Fused({"audio": light_cnn()}, merge=each({"audio": 128}), heads={"emotion": {"audio": linear(128, 8)}})`

    `heads` is target -> embedding -> module. With a joint merger the "joint" head gives the output "<target>", and a stream's head gives
    "<target>.<stream>" from that encoder's own mean token. With `each`, every stream has a head and "<target>" is their late fusion,
    or where there is but one head, what that gives.
    `drop_stream` is the chance that a stream of a clip is taken away while training; one always stays. UserError where parts do not fit.
    """

    def __init__(
        self,
        encoders: Mapping[str, Encoder],
        *,
        mix: Sequence[Mixer] = (),
        merge: Merger,
        heads: Mapping[str, Mapping[str, nn.Module]],
        drop_stream: float = 0.0,
    ):
        super().__init__()
        _check(encoders, mix, merge, heads)
        self.encoders: Any = module_dict("stream", encoders)
        self.mix: Any = nn.ModuleList(mix)  # type: ignore[arg-type]
        self.merge: Any = merge
        self.heads: Any = module_dict("target", {target: module_dict("embedding", named) for target, named in heads.items()})
        self.drop_stream = drop_stream

    @property
    def means_suffice(self) -> bool:
        """Whether nothing after the encoders looks at more than each stream's mean token."""
        return not len(self.mix) and self.merge.takes_means

    def forward(self, batch: Named) -> Named:
        """{"audio": (B, …), "audio.mask": (B, T), …} -> {"emotion": (B, C), "emotion.audio": (B, C), "embed.joint": (B, D), "gate": (B, n)}

        A batch may hold what `states` or `embeddings` gave in place of a stream, or of all: the model goes on from there.
        UserError where the batch holds none of the model's streams.
        """
        if HEADS in batch:
            return self._outputs(
                {key.removeprefix(f"{HEADS}."): x for key, x in batch.items() if key.startswith(f"{HEADS}.")}, batch[HEADS]
            )
        return self._outputs(*self._embedded(self.encode(batch)))

    def encode(self, batch: Named) -> dict[str, Tokens]:
        """Batch as in `forward` -> {stream: Tokens (B, T, D)} for the streams it holds."""
        begun = _begun(batch)
        tokens = {name: self._tokens(name, batch, begun) for name in self.encoders if name in batch or name in begun}
        if not tokens:
            raise UserError(f"the batch holds {', '.join(batch) or 'nothing'}; the model needs at least one of {', '.join(self.encoders)}")
        return tokens

    def states(self, batch: Named, stops: Mapping[str, int]) -> Named:
        """Run the first `stops[stream]` stages of encoders: {"audio": (B, …), …} -> {"audio[11:].x": (B, …), "audio[11:].mask": (B, T)}.

        A batch may hold what an earlier stop gave in place of a stream: it goes on from there.
        After the last stage these are tokens, and where nothing but their mean is ever looked at, that mean: (B, 1, D) and (B, 1).
        """
        begun = _begun(batch)
        found = {name: (stop, self._stopped(name, batch, begun, stop)) for name, stop in stops.items() if name in batch or name in begun}
        return {f"{name}[{stop}:].{entry}": tensor for name, (stop, state) in found.items() for entry, tensor in state.items()}

    def embeddings(self, batch: Named) -> Named:
        """Batch as in `forward` -> {"heads[:]": (B, n) bool, "heads[:].joint": (B, D), …}: all that the heads look at."""
        found, present = self._embedded(self.encode(batch))
        return {HEADS: present, **{f"{HEADS}.{name}": embedding for name, embedding in found.items()}}

    def _stopped(self, name: str, batch: Named, begun: Mapping[str, tuple[int, Named]], stop: int) -> Named:
        encoder = self.encoders[name]
        start, state = begun[name] if name in begun else (0, encoder.begin(batch[name], batch.get(f"{name}.mask")))
        state = encoder.run(state, start, stop)
        if stop < len(encoder.stages):
            return state
        tokens = encoder.finish(state)
        if self.means_suffice:
            tokens = Tokens(masked_mean(tokens)[:, None], full_mask(tokens).any(1, keepdim=True))
        return {"x": tokens.x} if tokens.mask is None else {"x": tokens.x, "mask": tokens.mask}

    def _tokens(self, name: str, batch: Named, begun: Mapping[str, tuple[int, Named]]) -> Tokens:
        encoder = self.encoders[name]
        if name not in begun:
            return encoder(batch[name], batch.get(f"{name}.mask"))
        start, state = begun[name]
        return encoder.finish(encoder.run(state, start))

    def _embedded(self, tokens: Mapping[str, Tokens]) -> tuple[Named, Tensor]:
        """{stream: (B, T, D)} -> {embedding: (B, D)} of the streams and of their fusion, present (B, n)"""
        present = presence(tokens, self.merge.takes)
        present = keep_streams(present, self.drop_stream) if self.training and self.drop_stream > 0 else present
        merged = self.merge(self._mixed(tokens, present) if self.mix else tokens, present)
        own = {name: masked_mean(found) for name, found in tokens.items() if name not in merged}
        return own | merged, present

    def _mixed(self, tokens: Mapping[str, Tokens], present: Tensor) -> Mapping[str, Tokens]:
        columns = dict(zip(self.merge.takes, present.T, strict=True))
        mixed = {name: Tokens(found.x, full_mask(found) & columns[name][:, None]) for name, found in tokens.items()}
        for mixer in self.mix:
            mixed = mixer(mixed)
        return mixed

    def _outputs(self, embeddings: Named, present: Tensor) -> Named:
        outputs = {f"embed.{JOINT}": embeddings[JOINT]} if JOINT in embeddings else {}
        outputs |= {"gate": embeddings["gate"]} if "gate" in embeddings else {}
        for target, heads in self.heads.items():
            scores = {name: head(embeddings[name]) for name, head in heads.items() if name in embeddings}
            joint = scores.pop(JOINT, None)
            if joint is None:
                joint = late(scores, present, tuple(self.merge.takes)) if len(heads) > 1 else next(iter(scores.values()))
            outputs[target] = joint
            outputs |= {f"{target}.{name}": score for name, score in scores.items()}
        return outputs


def late(scores: Named, present: Tensor, streams: Sequence[str]) -> Tensor:
    """{stream: logits (B, C)}, present (B, n) -> (B, C), the logarithm of the mean of the present streams' softmaxes."""
    columns = attendable(torch.stack([present[:, streams.index(name)] for name in scores], 1))
    logs = torch.stack([score.log_softmax(1) for score in scores.values()], 1)
    return logs.masked_fill(~columns[:, :, None], -torch.inf).logsumexp(1) - columns.sum(1, keepdim=True).log()


def keep_streams(present: Tensor, probability: float) -> Tensor:
    """(B, n) bool -> the same with each stream of each clip taken away with this probability, but one of those present always kept."""
    luck = torch.rand(present.shape, device=present.device).masked_fill(~present, -1.0)
    return present & ((luck >= probability) | (luck == luck.amax(1, keepdim=True)))


def describe(model: Fused) -> list[tuple[str, int]]:
    """(part, number of parameters) of each encoder, mixer, merger and head, and "total"."""
    parts: dict[str, nn.Module] = {f"encoders.{name}": encoder for name, encoder in model.encoders.items()}
    parts |= {f"mix.{index}": mixer for index, mixer in enumerate(model.mix)}
    parts["merge"] = model.merge
    parts |= {f"heads.{target}.{name}": head for target, heads in model.heads.items() for name, head in heads.items()}
    return [(part, count(module)) for part, module in (parts | {"total": model}).items()]


def count(module: nn.Module) -> int:
    """The number of a module's parameters, each counted once."""
    return sum(parameter.numel() for parameter in module.parameters())


def _begun(batch: Named) -> dict[str, tuple[int, Named]]:
    """{"audio[11:].x": …} -> {"audio": (11, {"x": …})}: the streams of a batch whose first stages ran before."""
    found: dict[str, tuple[int, Named]] = {}
    for key, tensor in batch.items():
        match = STATE.fullmatch(key)
        if match:
            found.setdefault(match["stream"], (int(match["start"]), {}))[1][match["entry"]] = tensor
    return found


def _check(encoders: Mapping[str, Encoder], mix: Sequence[Mixer], merge: Merger, heads: Mapping[str, Mapping[str, nn.Module]]) -> None:
    """UserError where a mixer, the merger or a head does not fit what comes before it."""
    own = {name: encoder.dim for name, encoder in encoders.items()}
    gives = [("the encoders give", own), *[(f"mix.{index} gives", mixer.dims) for index, mixer in enumerate(mix)]]
    takes = [*[(f"mix.{index} takes", mixer.takes) for index, mixer in enumerate(mix)], ("merge takes", merge.takes)]
    for (before, given), (after, taken) in zip(gives, takes, strict=True):
        if given != taken:
            raise UserError(f"{after} {widths_text(taken) or 'nothing'}, but {before} {widths_text(given) or 'nothing'}")
    if not heads:
        raise UserError("heads: the model has none; name at least one target")
    for target, named in heads.items():
        _check_heads(f"heads.{target}", named, own | merge.dims, tuple(merge.dims))


def _check_heads(where: str, heads: Mapping[str, nn.Module], widths: Mapping[str, int], needed: Sequence[str]) -> None:
    absent = [name for name in needed if name not in heads]
    unknown = [name for name in heads if name not in widths]
    if absent:
        raise UserError(f"{where}: this merger needs a head on {', '.join(absent)}, found {', '.join(heads) or 'none'}")
    if unknown:
        raise UserError(f"{where}.{unknown[0]}: no such embedding; the model has {', '.join(widths)}")
    for name, head in heads.items():
        first = next((layer for layer in head.modules() if isinstance(layer, nn.Linear)), None)
        if first is not None and first.in_features != widths[name]:
            raise UserError(f"{where}.{name}: the head takes width {first.in_features}, the embedding has {widths[name]}")
