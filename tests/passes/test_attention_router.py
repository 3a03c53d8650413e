"""The router and its stand-ins: who computes which call, in eager code and in compiled graphs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import racing
import torch
from torch.nn import functional

from sdaccel.passes import attention_router
from sdaccel.passes.attention_choices import STOCK, Choices
from sdaccel.passes.attention_operator import enrol, routed_attention, stock
from sdaccel.passes.attention_router import Router
from sdaccel.passes.attention_seam import Seam
from sdaccel.passes.attention_stand_ins import _for_diffusers, stand_ins
from sdaccel.report import PassRecord

pytestmark = pytest.mark.usefixtures("forget_programs")


@pytest.fixture(autouse=True)
def no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


@pytest.fixture
def race(monkeypatch: pytest.MonkeyPatch) -> racing.Race:
    race = racing.Race(monkeypatch)
    race.enter("quick", 0.5)
    return race


@pytest.fixture
def make(race: racing.Race, tmp_path: Path) -> Callable[..., Router]:
    def make(**options: Any) -> Router:
        record = PassRecord("attention", "exact")
        candidates = {each.name: each for each in race.candidates}
        return Router(candidates, Choices(tmp_path, {}, record.note), record, **options)

    return make


def heads(tokens: int = 12, keys: int = 0, key_heads: int = 2) -> list[torch.Tensor]:
    """Query, key and value as a model has them: (B, H, S, D), rows of all heads side by side."""
    torch.manual_seed(0)
    sizes = ((tokens, 2), (keys or tokens, key_heads), (keys or tokens, key_heads))
    return [torch.randn(2, size, count, 8).transpose(1, 2) for size, count in sizes]


def torch_s(router: Router) -> Callable[..., torch.Tensor]:
    return stand_ins(router)[0][1]


def diffusers_s(router: Router) -> Callable[..., torch.Tensor]:
    return stand_ins(router)[1][1]


BOOL = torch.arange(12).view(1, 1, 1, 12) < torch.tensor([12, 7]).view(2, 1, 1, 1)
ADDED = torch.linspace(-3, 3, 144).view(1, 1, 12, 12)
CALLS: dict[str, dict[str, Any]] = {
    "plain": {},
    "bool mask": {"attn_mask": BOOL},
    "added mask": {"attn_mask": ADDED},
    "causal": {"is_causal": True},
    "scaled": {"scale": 0.5},
}


@pytest.mark.parametrize("options", CALLS.values(), ids=CALLS)
def test_a_call_of_torch_s_attention_means_the_same(
    make: Callable[..., Router], options: dict[str, Any]
) -> None:
    router = make()
    expected = functional.scaled_dot_product_attention(*heads(), **options)
    assert torch.equal(torch_s(router)(*heads(), **options), expected)
    assert router.record.ran["quick"] == 1


@pytest.mark.parametrize("options", CALLS.values(), ids=CALLS)
def test_so_does_one_of_diffusers_dispatcher(
    make: Callable[..., Router], options: dict[str, Any]
) -> None:
    from diffusers.models.attention_dispatch import dispatch_attention_fn

    router, rows = make(), [each.transpose(1, 2) for each in heads()]
    expected = dispatch_attention_fn(*rows, **options)
    assert torch.equal(diffusers_s(router)(*rows, **options), expected)
    assert router.record.ran["quick"] == 1


def test_a_mask_of_keys_is_what_diffusers_takes_it_for(make: Callable[..., Router]) -> None:
    from diffusers.models.attention_dispatch import dispatch_attention_fn

    router, rows, mask = make(), [each.transpose(1, 2) for each in heads()], BOOL[:, 0, 0]
    expected = dispatch_attention_fn(*rows, attn_mask=mask)
    assert torch.equal(diffusers_s(router)(*rows, attn_mask=mask), expected)
    assert not torch.equal(expected, dispatch_attention_fn(*rows))
    assert router.record.ran["quick"] == 1


def test_heads_that_share_a_key(make: Callable[..., Router]) -> None:
    router, shared = make(), heads(key_heads=1)
    expected = functional.scaled_dot_product_attention(*shared, enable_gqa=True)
    assert torch.equal(torch_s(router)(*shared, enable_gqa=True), expected)
    assert router.record.ran["quick"] == 1


LEFT: dict[str, tuple[list[torch.Tensor], dict[str, Any]]] = {
    "dropout": (heads(), {"dropout_p": 0.5}),
    "fp64": ([each.double() for each in heads()], {}),
    "three dimensions": ([each[0] for each in heads()], {}),
    "no tokens": ([each[:, :, :0] for each in heads()], {}),
}


@pytest.mark.parametrize(("tensors", "options"), LEFT.values(), ids=LEFT)
def test_what_is_out_of_the_ordinary_is_left_to_stock(
    make: Callable[..., Router], tensors: list[torch.Tensor], options: dict[str, Any]
) -> None:
    router = make()
    torch.manual_seed(1)
    expected = functional.scaled_dot_product_attention(*tensors, **options)
    torch.manual_seed(1)
    assert torch.equal(torch_s(router)(*tensors, **options), expected)
    assert router.record.ran["quick"] == 0


def test_stock_s_own_errors_stay(make: Callable[..., Router]) -> None:
    query, key, value = heads()
    with pytest.raises(RuntimeError):
        torch_s(make())(query, key[..., :4], value)
    with pytest.raises(TypeError):
        torch_s(make())(query, key, value, wings=2)


@pytest.mark.parametrize(
    "options", [{"backend": "_native_math"}, {"attention_kwargs": {"return_lse": False}}]
)
def test_a_call_with_a_backend_or_arguments_of_its_own_is_left_alone(
    make: Callable[..., Router], options: dict[str, Any]
) -> None:
    router, rows = make(), [each.transpose(1, 2) for each in heads()]
    found = diffusers_s(router)(*rows, **options)
    torch.testing.assert_close(found.transpose(1, 2), stock(*heads(), None, False, None))
    assert router.record.ran["quick"] == 0
    assert sum(router.record.ran.values()) == 1


def test_context_parallelism_is_left_to_diffusers(make: Callable[..., Router]) -> None:
    router, given = make(), object()
    asked: list[Any] = []

    def dispatcher(*arguments: Any, parallel_config: Any, **options: Any) -> torch.Tensor:
        asked.append(parallel_config)
        return arguments[0]

    rows = [each.transpose(1, 2) for each in heads()]
    _for_diffusers(router, dispatcher)(*rows, parallel_config=given)
    assert asked == [given]
    assert router.record.ran == {"stock, in parallel over devices": 1}


def test_a_dispatcher_that_has_changed_is_left_alone(
    make: Callable[..., Router], monkeypatch: pytest.MonkeyPatch
) -> None:
    from diffusers.models import attention_dispatch

    monkeypatch.setattr(attention_dispatch, "dispatch_attention_fn", lambda query, _novelty: query)
    router = make()
    assert len(stand_ins(router)) == 1
    assert any("dispatcher has changed" in note for note in router.record.notes)


def test_every_shape_has_its_own_verdict(make: Callable[..., Router], race: racing.Race) -> None:
    race.candidates.clear()
    race.enter("short", 0.5, fits=lambda problem: problem.keys < 20)
    router = make()
    for tokens in (12, 24, 12):
        torch_s(router)(*heads(tokens))
    assert router.record.ran == {"short": 2, STOCK: 1, "shapes measured": 1}


def test_a_kept_winner_that_refuses_these_tensors_is_not_used(
    make: Callable[..., Router], race: racing.Race
) -> None:
    def only_even(query: torch.Tensor, *rest: Any) -> torch.Tensor:
        if query.shape[2] % 2:
            raise ValueError("odd")
        return stock(query, *rest)

    race.candidates.clear()
    race.enter("even", 0.5, compute=only_even)
    torch_s(make())(*heads(300, 304))
    router = make()
    assert torch.equal(
        torch_s(router)(*heads(303, 304)), stock(*heads(303, 304), None, False, None)
    )
    assert router.record.ran == {STOCK: 1}
    assert any("since even refuses (ValueError: odd)" in each for each in router.record.notes)
    torch_s(router)(*heads(300, 304))
    assert router.record.ran["even"] == 1


def test_nothing_is_measured_while_a_graph_is_captured(
    make: Callable[..., Router], race: racing.Race, monkeypatch: pytest.MonkeyPatch
) -> None:
    router = make()
    monkeypatch.setattr(attention_router, "_capturing", lambda _query: True)
    torch_s(router)(*heads())
    assert race.calls["quick"] == race.timed == 0
    assert router.record.ran["stock, unknown when a graph was captured"] == 1
    monkeypatch.setattr(attention_router, "_capturing", lambda _query: False)
    torch_s(router)(*heads())
    assert router.record.ran["quick"] == 1
    monkeypatch.setattr(attention_router, "_capturing", lambda _query: True)
    torch_s(router)(*heads())
    assert router.record.ran["quick"] == 2, "what is known is taken"


def test_a_result_that_is_not_finite_is_measured_another_time(
    make: Callable[..., Router], race: racing.Race
) -> None:
    router, spoilt = make(), heads()
    spoilt[0][0, 0, 0, 0] = float("nan")
    torch_s(router)(*spoilt)
    assert router.record.ran[STOCK] == 1
    torch_s(router)(*heads())
    assert router.record.ran["quick"] == 1


def test_without_the_memory_to_try_stock_stays(
    make: Callable[..., Router], monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_room(*_: Any) -> None:
        raise torch.OutOfMemoryError("no room")

    monkeypatch.setattr(attention_router.Trial, "verdict", no_room)
    router = make()
    torch_s(router)(*heads())
    assert router.record.ran[STOCK] == 1
    assert any("no memory" in note for note in router.record.notes)


# Compiled graphs ------------------------------------------------------------------------------


class Processor:
    """Calls attention as diffusers' processors do."""

    def __call__(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        found = functional.scaled_dot_product_attention(
            query, key, value, dropout_p=0.0, is_causal=False
        )
        return functional.silu(found)


class LongWay:
    """Names torch itself, and goes through a helper."""

    def __call__(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.silu(helper(query, key, value))


def helper(*tensors: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.scaled_dot_product_attention(*tensors)


def routed(kind: type, router: Router) -> Any:
    subclass = Seam(stand_ins(router)).subclass_of(kind)
    assert subclass is not None
    return subclass()


class Graphs:
    """A backend for `torch.compile` that runs graphs as they are, and keeps them."""

    def __init__(self) -> None:
        self.graphs: list[Any] = []

    def __call__(self, graph: Any, inputs: Any) -> Any:
        self.graphs.append(graph)
        return graph

    def calls(self) -> list[str]:
        return [str(node.target) for graph in self.graphs for node in graph.graph.nodes]


def compiled(processor: Any, graphs: Callable[..., Any]) -> Callable[..., torch.Tensor]:
    def call(*tensors: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = processor(*tensors)
        return found

    return torch.compile(call, backend=graphs, fullgraph=True, dynamic=None)


@pytest.mark.parametrize("kind", [Processor, LongWay])
def test_a_graph_holds_one_node_which_serves_new_sizes(
    kind: type, make: Callable[..., Router]
) -> None:
    router, graphs = make(), Graphs()
    run = compiled(routed(kind, router), graphs)
    for tokens in (12, 16, 20, 28, 36):
        torch.testing.assert_close(run(*heads(tokens)), kind()(*heads(tokens)))
    assert len(graphs.graphs) == 2, "one for the first size, one for all others"
    assert sum("routed_attention" in each for each in graphs.calls()) == 2
    assert not any("scaled_dot_product" in each for each in graphs.calls())
    assert router.record.ran["quick"] == 5
    assert router.record.ran["shapes measured"] == 5


def test_nothing_is_measured_while_a_graph_is_made(
    make: Callable[..., Router], race: racing.Race
) -> None:
    made: list[int] = []

    def backend(graph: Any, inputs: Any) -> Any:
        made.append(race.calls["quick"] + race.timed)
        return graph

    compiled(routed(Processor, make()), backend)(*heads())
    assert made == [0]
    assert race.timed > 0


def test_an_exported_program_has_torch_s_own_attention(make: Callable[..., Router]) -> None:
    class Model(torch.nn.Module):
        def forward(self, *tensors: torch.Tensor) -> torch.Tensor:
            return processor(*tensors)

    processor = routed(Processor, make())
    program = torch.export.export(Model(), tuple(heads()))
    targets = [str(node.target) for node in program.graph.nodes]
    assert any("scaled_dot_product_attention" in each for each in targets)
    assert not any("routed" in each for each in targets)


def test_two_pipes_don_t_share_what_is_compiled(make: Callable[..., Router]) -> None:
    first, second, graphs = make(), make(), Graphs()
    for router in (first, second):
        compiled(routed(Processor, router), graphs)(*heads())
    assert first.record.ran["quick"] == second.record.ran["quick"] == 1


def test_the_operator_is_one_that_torch_can_check(make: Callable[..., Router]) -> None:
    arguments = (*heads(13, 9), None, False, None, enrol(make()))
    torch.library.opcheck(
        routed_attention, arguments, test_utils=("test_schema", "test_faketensor")
    )
    found = routed_attention(*arguments)
    assert found.transpose(1, 2).is_contiguous()
    torch.testing.assert_close(found, stock(*heads(13, 9), None, False, None))


def test_a_graph_that_outlives_its_pipe_calls_torch_s_attention() -> None:
    found = routed_attention(*heads(), None, False, None, "nobody")
    assert torch.equal(found, stock(*heads(), None, False, None))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_inductor_takes_the_node_with_its_strides(make: Callable[..., Router]) -> None:
    router = make()
    run = torch.compile(compiled_body(routed(Processor, router)), fullgraph=True)
    torch.testing.assert_close(run(*heads()), compiled_body(Processor())(*heads()))
    assert router.record.ran["quick"] == 1


def compiled_body(processor: Any) -> Callable[..., torch.Tensor]:
    def run(*tensors: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = processor(*tensors).transpose(1, 2).reshape(2, -1, 16)
        return found * 2

    return run
