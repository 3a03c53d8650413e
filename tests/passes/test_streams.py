"""Which call of which step is served by what was kept for which."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from sdaccel.passes.streams import Stream, Streams

TEXT, OTHER = object(), object()


@pytest.fixture
def streams() -> Streams[Stream]:
    return Streams(Stream)


def at(streams: Streams[Stream], step: int, *texts: object, generation: int = 0) -> list[Stream]:
    """The streams of a step's calls, one for each text."""
    streams.arrive(generation, step)
    return [streams.of("8x8", text)[0] for text in texts]


def test_a_call_of_the_next_step_gets_what_was_kept_for_it(streams: Streams[Stream]) -> None:
    assert at(streams, 1, TEXT, OTHER) == at(streams, 0, TEXT, OTHER)
    assert streams.of("8x8", TEXT)[1] is False, "this step has used it"


def test_calls_in_another_order_are_told_by_their_text(streams: Streams[Stream]) -> None:
    assert at(streams, 1, OTHER, TEXT) == at(streams, 0, TEXT, OTHER)[::-1]


def test_calls_of_one_text_are_told_by_their_order(streams: Streams[Stream]) -> None:
    first, second = at(streams, 0, TEXT, TEXT)
    assert first is not second
    assert at(streams, 1, TEXT, TEXT) == [first, second]


@pytest.mark.parametrize("asked", [("8x8", OTHER), ("16x8", TEXT)], ids=["text", "size"])
def test_another_text_or_size_is_served_by_nothing(
    streams: Streams[Stream], asked: tuple[str, object]
) -> None:
    (before,) = at(streams, 0, TEXT)
    streams.arrive(0, 1)
    found, known = streams.of(*asked)
    assert found is not before
    assert not known


def test_a_text_that_is_equal_but_another_object_is_another_one(streams: Streams[Stream]) -> None:
    (before,) = at(streams, 0, [1.0])
    assert at(streams, 1, [1.0]) != [before]


def test_at_a_new_generation_nothing_is_kept(streams: Streams[Stream]) -> None:
    (before,) = at(streams, 0, TEXT)
    assert at(streams, 1, TEXT, generation=1) != [before]
    assert len(list(streams)) == 1


def test_what_a_step_does_not_use_is_let_go(streams: Streams[Stream]) -> None:
    _, unused = at(streams, 0, TEXT, OTHER)
    at(streams, 1, TEXT)
    assert unused in streams
    assert at(streams, 2, OTHER) != [unused]
    assert unused not in streams


def test_cleared_it_knows_nothing_even_at_the_same_step(streams: Streams[Stream]) -> None:
    (before,) = at(streams, 0, TEXT)
    streams.clear()
    assert at(streams, 0, TEXT) != [before]


def test_it_makes_streams_that_hold_more() -> None:
    @dataclass(eq=False)
    class Counted(Stream):
        count: int = 3

    found, known = Streams(Counted).of("8x8", TEXT)
    assert (found.count, found.condition, known) == (3, TEXT, False)
