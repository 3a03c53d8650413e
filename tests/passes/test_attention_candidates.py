"""The ways there are: on a CPU each computes what torch does, and each is offered where it fits."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch

from sdaccel.kernels.operator import UnsupportedError
from sdaccel.passes.attention_candidates import NAMES, _bias, candidates
from sdaccel.passes.attention_operator import stock
from sdaccel.passes.attention_problem import Problem


def tensors(dtype: torch.dtype = torch.float32, **sizes: Any) -> tuple[torch.Tensor, ...]:
    """Query, key and value, (B, H, S, D), with the rows of all heads side by side."""
    torch.manual_seed(0)
    heads, width = sizes.get("heads", 3), sizes.get("width", 40)
    counts = (heads, sizes.get("key_heads", heads), sizes.get("key_heads", heads))
    tokens = (17, sizes.get("keys", 29), sizes.get("keys", 29))
    found = (torch.randn(2, t, c, width) for t, c in zip(tokens, counts, strict=True))
    return tuple(each.transpose(1, 2).to(dtype) for each in found)


def problem(device: str, **options: Any) -> Problem:
    """As these tensors would pose it on a device."""
    mask, causal = options.pop("mask", None), options.pop("causal", False)
    posed = Problem.of(*tensors(**options), mask, causal)
    return Problem(**{**vars(posed), "device": device})


def offered(device: str, **options: Any) -> set[str]:
    posed = problem(device, **options)
    return {each.name for each in candidates() if each.fits(posed)}


KEPT = torch.arange(29).view(1, 1, 1, 29) < 20
ON_CPU = [each for each in candidates() if each.fits(problem("cpu"))]


@pytest.mark.parametrize("candidate", ON_CPU, ids=lambda each: each.name)
@pytest.mark.parametrize("scale", [None, 0.3])
def test_on_a_cpu_each_computes_what_torch_does(candidate: Any, scale: float | None) -> None:
    arguments = (*tensors(), None, False, scale)
    try:
        found = candidate.compute(*arguments)
    except UnsupportedError as error:
        pytest.skip(str(error))
    torch.testing.assert_close(found, stock(*arguments))


@pytest.mark.parametrize("options", [{"mask": KEPT}, {"causal": True}, {"key_heads": 1}])
def test_what_is_offered_for_a_mask_takes_it(options: dict[str, Any]) -> None:
    names = offered("cpu", **options)
    mask, causal = options.pop("mask", None), options.pop("causal", False)
    arguments = (*tensors(**options), mask, causal, None)
    expected = stock(*arguments)
    for candidate in candidates():
        if candidate.name in names:
            torch.testing.assert_close(candidate.compute(*arguments), expected)
    assert names


def test_products_of_a_part_of_the_heads_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    from sdaccel.passes import attention_candidates

    monkeypatch.setattr(attention_candidates, "_heads_at_once", lambda *_: 4)
    products = next(each for each in candidates() if each.name == "products")
    arguments = (*tensors(), None, False, None)
    torch.testing.assert_close(products.compute(*arguments), stock(*arguments))


HALF = {"dtype": torch.bfloat16}


def test_on_a_gpu_all_are_offered_for_plain_heads_in_16_bit() -> None:
    assert offered("cuda", **HALF) == set(NAMES) - {"products", "native"}


@pytest.mark.parametrize(
    ("options", "left"),
    [
        ({**HALF, "mask": KEPT}, {"kernel", "sdpa_cudnn", "sdpa_efficient", "sdpa_math"}),
        ({"dtype": torch.float32}, {"kernel", "sdpa_efficient", "sdpa_math", "flex"}),
        ({**HALF, "width": 44}, {"kernel", "sdpa_efficient", "sdpa_math", "flex"}),
        ({**HALF, "width": 264}, {"sdpa_efficient", "sdpa_math", "flex"}),
        ({**HALF, "key_heads": 1}, {"kernel", "sdpa_math", "flex"}),
        ({**HALF, "causal": True}, {"sdpa_flash", "sdpa_cudnn", "sdpa_efficient", "sdpa_math"}),
    ],
)
def test_what_a_way_can_t_do_it_is_not_offered(options: dict[str, Any], left: set[str]) -> None:
    assert offered("cuda", **options) == left


def test_others_align_a_causal_mask_at_the_last_token() -> None:
    posed = problem("cuda", **HALF, causal=True, keys=17)
    assert posed.queries == posed.keys
    names = {each.name for each in candidates() if each.fits(posed)}
    assert {"flash_attn", "flash_attn_3", "sage"} <= names


ON_META = [
    (name, mask)
    for name in ("sdpa_flash", "sdpa_cudnn", "sdpa_efficient", "sdpa_math")
    for mask in (None, KEPT)
    if mask is None or name != "sdpa_flash"
]


@pytest.mark.parametrize(("name", "mask"), ON_META)
def test_torch_s_operators_take_what_they_are_given(name: str, mask: Any) -> None:
    """On the meta device their arguments are checked, and nothing is computed."""
    candidate = next(each for each in candidates() if each.name == name)
    given = [each.to("meta") for each in tensors(torch.bfloat16)]
    mask = None if mask is None else mask.to("meta")
    found = candidate.compute(*given, mask, False, 0.3)
    assert (found.shape, found.dtype) == ((2, 3, 17, 40), torch.bfloat16)


class Installed:
    """In the place of a package: computes by torch, and refuses another layout or argument."""

    def __init__(self, result: Callable[..., Any]) -> None:
        self._result = result

    def attention(self, query: Any, key: Any, value: Any, mask: Any, *, scale: Any) -> Any:
        return stock(query, key, value, mask, False, scale)

    def flash_attn_func(
        self, query: Any, key: Any, value: Any, *, softmax_scale: Any, causal: bool
    ) -> Any:
        heads_first = (each.transpose(1, 2) for each in (query, key, value))
        return self._result(stock(*heads_first, None, causal, softmax_scale).transpose(1, 2))

    def sageattn(
        self, query: Any, key: Any, value: Any, tensor_layout: str, is_causal: bool, sm_scale: Any
    ) -> Any:
        assert tensor_layout == "HND"
        return stock(query, key, value, None, is_causal, sm_scale)


@pytest.mark.parametrize(
    ("name", "module", "result"),
    [
        ("kernel", "sdaccel.kernels.attention", lambda found: found),
        ("flash_attn", "flash_attn", lambda found: found),
        ("flash_attn_3", "flash_attn_interface", lambda found: (found, None)),
        ("sage", "sageattention", lambda found: found),
    ],
)
@pytest.mark.parametrize("causal", [False, True])
def test_packages_are_called_as_they_want_it(
    name: str,
    module: str,
    result: Callable[..., Any],
    causal: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, module, Installed(result))  # type: ignore[arg-type]
    candidate = next(each for each in candidates() if each.name == name)
    causal = causal and name != "kernel"
    arguments = (*tensors(keys=17), None, causal, 0.3)
    torch.testing.assert_close(candidate.compute(*arguments), stock(*arguments))


def test_in_16_bit_products_would_round_their_scores() -> None:
    assert "products" in offered("cpu")
    assert "products" not in offered("cpu", **HALF)


def test_scores_that_would_fill_memory_are_never_written() -> None:
    large = Problem(**{**vars(problem("cuda", **HALF)), "queries": 20000, "keys": 20000})
    assert "sdpa_math" not in {each.name for each in candidates() if each.fits(large)}


def test_a_problem_names_all_that_speed_depends_on() -> None:
    q, k, v = tensors()
    keys = {
        str(Problem.of(q, k, v, None, False)),
        str(Problem.of(q, k, v, None, True)),
        str(Problem.of(q, k, v, KEPT, False)),
        str(Problem.of(q, k, v, torch.zeros(29), False)),
        str(Problem.of(q, k.contiguous(), v, None, False)),
        str(Problem.of(q.bfloat16(), k.bfloat16(), v.bfloat16(), None, False)),
        str(Problem.of(q[:1], k[:1], v[:1], None, False)),
        str(Problem.of(*tensors(width=48), None, False)),
        str(Problem.of(*tensors(key_heads=1), None, False)),
    }
    assert len(keys) == 9
    assert str(Problem.of(q, k, v, KEPT, False)).endswith("mask bool t")
    assert problem("cpu").in_words == "2 x 17x29 tokens, 3 heads of 40, fp32"


def test_a_prompt_of_a_few_more_tokens_is_no_new_problem() -> None:
    keys = {keys: str(problem("cpu", keys=keys)) for keys in (300, 301, 311, 312, 320, 400, 512)}
    assert keys[301] == keys[311] != keys[312], "aligned or not"
    assert keys[312] == keys[320] != keys[400] != keys[512]


@pytest.mark.parametrize("keys", [29, 32])
@pytest.mark.parametrize("as_bool", [True, False])
def test_a_mask_for_torch_s_operators_is_added_full_and_aligned(keys: int, as_bool: bool) -> None:
    q, k, v = tensors(keys=keys)
    kept = torch.arange(keys).view(1, 1, 1, keys) < 20
    mask = kept if as_bool else torch.zeros(kept.shape).masked_fill_(~kept, float("-inf"))
    bias = _bias(q, k, mask)
    assert bias.shape == (2, 3, 17, keys)
    assert bias.untyped_storage().nbytes() % (16 * 4) == 0
    torch.testing.assert_close(stock(q, k, v, bias, False, None), stock(q, k, v, kept, False, None))


def test_a_package_that_is_not_installed_is_no_candidate() -> None:
    here = {each.name: each.here for each in candidates()}
    assert here["sdpa_flash"]
    assert not here["sage"]
