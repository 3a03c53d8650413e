"""Attention processors whose norms of query and key wait for the rotation that follows.

The processor's `__call__` is read from its source; its calls of `apply_rotary_emb`, wherever that
name comes from (a global, an import inside, a function inside), become calls of `rotary_calls`,
which are given the stock function and know what it computes by its source's fingerprint. The norms
become such that wait. Only processors stand in the table of which it was read that query and key
are fresh projections that nobody else uses: norm and rotation work in place on them.
"""

from __future__ import annotations

import ast
import functools
import inspect
from collections.abc import Callable, Container, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from ..patch import same_name_subclass
from . import rotary_calls
from .norms import is_row_norm, stock_passes
from .registries import register_as_its_base
from .rewrite import fingerprint, rewritten, syntax_of
from .swap import RAN, Forward, Swap, name_of, swap
from .unrotated import HeadNorm, Unrotated

_NORMS = ("norm_q", "norm_k", "norm_added_q", "norm_added_k")


def _all_norms(attention: Any) -> tuple[str, ...]:
    return _NORMS


@dataclass(frozen=True)
class Processor:
    """What its rotations are called, and which norms precede one, given its attention."""

    rotations: tuple[str, ...] = ("apply_rotary_emb",)
    waiting: Callable[[Any], tuple[str, ...]] = _all_norms
    stays_flat: bool = False


def _unless_cross(attention: Any) -> tuple[str, ...]:
    return () if attention.is_cross_attention else _NORMS


def _no_key_in_cross(attention: Any) -> tuple[str, ...]:
    return ("norm_q",) if attention.is_cross_attention else _NORMS


def _query_only(attention: Any) -> tuple[str, ...]:
    return ("norm_q",)


def _unless_added(attention: Any) -> tuple[str, ...]:
    """What lies behind text of other projections is a view of a copy."""
    return () if attention.add_q_proj is not None else _NORMS


def _own_only(attention: Any) -> tuple[str, ...]:
    """The text's query and key are not rotated."""
    return _NORMS[:2]


_TRANSFORMERS = "diffusers.models.transformers.transformer_"
_ATTENTION = "diffusers.models.attention_processor."
_LTX2 = Processor(("apply_interleaved_rotary_emb", "apply_split_rotary_emb"), stays_flat=True)
_ACE_STEP = "diffusers.models.transformers.ace_step_transformer.AceStepAttnProcessor2_0"
PROCESSORS = {
    _ACE_STEP: Processor(waiting=_unless_cross),
    f"{_TRANSFORMERS}flux.FluxAttnProcessor": Processor(),
    f"{_TRANSFORMERS}flux2.Flux2AttnProcessor": Processor(),
    f"{_TRANSFORMERS}flux2.Flux2ParallelSelfAttnProcessor": Processor(),
    f"{_TRANSFORMERS}flux2.Flux2KVAttnProcessor": Processor(),
    f"{_TRANSFORMERS}flux2.Flux2KVParallelSelfAttnProcessor": Processor(),
    f"{_TRANSFORMERS}flux3.Flux3AttnProcessor": Processor(),
    f"{_TRANSFORMERS}bria.BriaAttnProcessor": Processor(),
    f"{_TRANSFORMERS}bria_fibo.BriaFiboAttnProcessor": Processor(),
    f"{_TRANSFORMERS}bria_fibo2.BriaFibo2AttnProcessor": Processor(),
    f"{_TRANSFORMERS}cogview4.CogView4AttnProcessor": Processor(),
    f"{_TRANSFORMERS}glm_image.GlmImageAttnProcessor": Processor(),
    f"{_TRANSFORMERS}easyanimate.EasyAnimateAttnProcessor2_0": Processor(waiting=_unless_added),
    f"{_TRANSFORMERS}longcat_image.LongCatImageAttnProcessor": Processor(),
    f"{_TRANSFORMERS}ovis_image.OvisImageAttnProcessor": Processor(),
    f"{_TRANSFORMERS}krea2.Krea2AttnProcessor": Processor(),
    f"{_TRANSFORMERS}qwenimage.QwenDoubleStreamAttnProcessor2_0": Processor(
        ("apply_rotary_emb_qwen",)
    ),
    f"{_TRANSFORMERS}nucleusmoe_image.NucleusMoEAttnProcessor2_0": Processor(
        ("_apply_rotary_emb_nucleus",)
    ),
    f"{_TRANSFORMERS}z_image.ZSingleStreamAttnProcessor": Processor(),
    f"{_TRANSFORMERS}lumina2.Lumina2AttnProcessor2_0": Processor(),
    f"{_TRANSFORMERS}wan.WanAttnProcessor": Processor(waiting=_unless_cross),
    f"{_TRANSFORMERS}wan_animate.WanAttnProcessor": Processor(waiting=_unless_cross),
    f"{_TRANSFORMERS}chronoedit.WanAttnProcessor": Processor(waiting=_unless_cross),
    f"{_TRANSFORMERS}skyreels_v2.SkyReelsV2AttnProcessor": Processor(waiting=_unless_cross),
    f"{_TRANSFORMERS}helios.HeliosAttnProcessor": Processor(
        ("apply_rotary_emb_transposed",), _unless_cross
    ),
    f"{_TRANSFORMERS}cosmos.CosmosAttnProcessor2_0": Processor(waiting=_unless_cross),
    f"{_TRANSFORMERS}cosmos.CosmosAttnProcessor2_5": Processor(waiting=_unless_cross),
    f"{_TRANSFORMERS}motif_video.MotifVideoAttnProcessor2_0": Processor(waiting=_own_only),
    f"{_TRANSFORMERS}motif_video.MotifVideoCrossAttnProcessor2_0": Processor(waiting=_query_only),
    f"{_TRANSFORMERS}minimax_h3.MiniMaxH3AttnProcessor": Processor(("_apply_rotary_emb",)),
    f"{_TRANSFORMERS}ltx.LTXVideoAttnProcessor": Processor(stays_flat=True),
    f"{_TRANSFORMERS}ltx2.LTX2AudioVideoAttnProcessor": _LTX2,
    f"{_TRANSFORMERS}ltx2.LTX2PerturbedAttnProcessor": _LTX2,
    f"{_TRANSFORMERS}sana_wm_refiner.SanaWMLTX2AudioVideoAttnProcessor": _LTX2,
    f"{_TRANSFORMERS}sana_wm_refiner.SanaWMLTX2PerturbedAttnProcessor": _LTX2,
    f"{_TRANSFORMERS}hunyuan_video.HunyuanVideoAttnProcessor2_0": Processor(waiting=_own_only),
    f"{_TRANSFORMERS}hunyuan_video15.HunyuanVideo15AttnProcessor2_0": Processor(waiting=_own_only),
    f"{_TRANSFORMERS}hunyuanimage.HunyuanImageAttnProcessor": Processor(waiting=_own_only),
    f"{_ATTENTION}CogVideoXAttnProcessor2_0": Processor(),
    f"{_ATTENTION}FusedCogVideoXAttnProcessor2_0": Processor(),
    f"{_ATTENTION}HunyuanAttnProcessor2_0": Processor(waiting=_no_key_in_cross),
    f"{_ATTENTION}FusedHunyuanAttnProcessor2_0": Processor(waiting=_no_key_in_cross),
    f"{_ATTENTION}LuminaAttnProcessor2_0": Processor(waiting=_no_key_in_cross),
    f"{_ATTENTION}MochiAttnProcessor2_0": Processor(waiting=_own_only),
}


@dataclass(frozen=True)
class Rotation:
    """What computes it here, and how often stock reads or writes a tensor for it."""

    call: Forward
    passes: int


ROTATIONS = {
    "5877aebc65b2": Rotation(rotary_calls.real, 16),
    "4864fc09fa91": Rotation(rotary_calls.qwen, 6),
    "f3d309d91439": Rotation(rotary_calls.complex_numbers, 6),
    "4b0600907925": Rotation(rotary_calls.strided, 8),
    "0b0137f7382f": Rotation(rotary_calls.complex_numbers, 6),
    "ff16059143b6": Rotation(rotary_calls.chunked, 8),
    "37e25da236a5": Rotation(rotary_calls.flat, 16),
    "839230961f0c": Rotation(rotary_calls.flat_halves, 11),
    "9d8c0d0e840c": Rotation(rotary_calls.first_channels, 12),
    "78f7cf838180": Rotation(rotary_calls.by_heads, 10),
}
"""What a rotation's source computes, by its fingerprint."""

_OF_TEXT = {
    f"{_TRANSFORMERS}ltx.LTXVideoTransformerBlock": ("attn2",),
    f"{_TRANSFORMERS}ltx2.LTX2VideoTransformerBlock": ("attn2", "audio_attn2"),
    f"{_TRANSFORMERS}sana_wm_refiner.SanaWMLTX2RefinerTransformerBlock": ("attn2",),
}
"""A block's attentions to text, which rotate nothing and don't know it themselves."""


def never_rotating(modules: Iterable[Any]) -> set[int]:
    """The `id` of each attention among the modules to which its block gives no rotation."""
    return {
        id(getattr(block, name))
        for block in modules
        for name in _OF_TEXT.get(name_of(type(block)), ())
    }


def rotation_rule(attention: Any, left_out: Container[int] = ()) -> Iterator[Swap]:
    """An attention module's processor and norms, where the table knows the processor."""
    if id(attention) in left_out:
        return
    processor = getattr(attention, "processor", None)
    kind: Any = type(processor)
    entry = PROCESSORS.get(name_of(kind))
    found = None if entry is None else _rewritten(kind, entry.rotations)
    if entry is None or found is None:
        return
    subclass, rotation_passes = found
    norms = [getattr(attention, name, None) for name in entry.waiting(attention)]
    norms = [each for each in norms if _is_known(each)]
    if not norms:
        return
    yield Swap(processor, subclass, {"rotation of q/k": 1}, 0)
    for norm in norms:
        saved = stock_passes(norm) + rotation_passes - 2
        yield swap(norm, _waits(entry.stays_flat), "q/k norm+rotation", saved)


def unknown_rotations(model: Any) -> list[str]:
    """Processors that rotate what norms precede, and stand in no table, by name."""
    found = set()
    for module in model.modules():
        kind = type(vars(module).get("processor"))
        normed = any(module._modules.get(name) is not None for name in _NORMS)
        if normed and name_of(kind) not in PROCESSORS and _mentions_rotation(kind):
            found.add(kind.__name__)
    return sorted(found)


def _mentions_rotation(kind: Any) -> bool:
    call = vars(kind).get("__call__")
    names = _names(call.__code__) if inspect.isfunction(call) else set()
    return any("rotary" in name or "rope" in name for name in names)


def _names(code: Any) -> set[str]:
    """What a processor's code calls, and what it defines."""
    inside = [each.co_name for each in code.co_consts if hasattr(each, "co_name")]
    return {*code.co_names, *code.co_varnames, *inside}


def _is_known(norm: Any) -> bool:
    """Whether it is a norm as the op has it."""
    return type(norm).__name__ in ("RMSNorm", "LayerNorm", "MochiRMSNorm") and norm.eps is not None


@functools.cache
def _waits(stays_flat: bool) -> Callable[[Forward], Forward]:
    def fuse(stock: Forward) -> Forward:
        def forward(self: Any, hidden_states: Any) -> Any:
            weight, bias = self.weight, getattr(self, "bias", None)
            same = weight is None or weight.dtype == hidden_states.dtype
            if not same or not is_row_norm(self, hidden_states):
                return stock(self, hidden_states)
            # detached: hooks that offload weights give the parameter other data after this call
            norm = HeadNorm(
                None if weight is None else weight.detach(),
                None if bias is None else bias.detach(),
                "rms" if "RMSNorm" in type(self).__name__ else "layer",
                self.eps,
                stays_flat,
            )
            return Unrotated(hidden_states, norm, self.__dict__[RAN])

        return forward

    return fuse


@functools.cache
def _rewritten(kind: Any, names: tuple[str, ...]) -> tuple[type, int] | None:
    """The processor's subclass, and the passes that each of its rotations takes at least.

    None where its source is not the one that was read.
    """
    known = {name: _rotation_of(kind.__call__, name) for name in names}
    rotations = {f"_sdaccel_{name}": each for name, each in known.items() if each is not None}
    if len(rotations) < len(names):
        return None

    def change(definition: ast.FunctionDef) -> None:
        for node in ast.walk(definition):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                own = f"_sdaccel_{node.func.id}"
                if own in rotations:
                    node.args.insert(0, node.func)
                    node.func = ast.copy_location(ast.Name(own, ast.Load()), node.func)

    calls = {own: each.call for own, each in rotations.items()}
    call = rewritten(kind.__call__, change, calls)
    if call is None:
        return None
    subclass = same_name_subclass(kind, {"__call__": call})
    register_as_its_base(subclass)
    return subclass, min(each.passes for each in rotations.values())


def _rotation_of(call: Forward, name: str) -> Rotation | None:
    """What takes the place of the rotation that a processor's `__call__` uses under this name."""
    definition = syntax_of(call)
    if definition is None:
        return None
    for node in ast.walk(definition):
        if isinstance(node, ast.FunctionDef) and node.name == name:
            return ROTATIONS.get(fingerprint(node))
        if isinstance(node, ast.ImportFrom) and name in [each.name for each in node.names]:
            from diffusers.models import embeddings

            return _known(getattr(embeddings, name, None))
    return _known(call.__globals__.get(name))


def _known(function: Any) -> Rotation | None:
    definition = syntax_of(function) if callable(function) else None
    return None if definition is None else ROTATIONS.get(fingerprint(definition))
