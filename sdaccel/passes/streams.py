"""The calls that each step makes of one denoiser, told apart, each with what is kept for it.

With sequential guidance these are the conditional call, then the unconditional one. What was kept
for a call serves the same call of a later step of the same generation, of the same sizes and the
same text, and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar


@dataclass(eq=False)
class Stream:
    """One call of each step; those who keep something for it add fields.

    `condition` is the tensor of the text, `signature` whatever else has to be equal; `used` says
    whether this step has made the call.
    """

    signature: Hashable
    condition: Any
    used: bool = True

    def fits(self, signature: Hashable, condition: Any) -> bool:
        """Whether a call may be served. A text that is another object is another text."""
        return self.condition is condition and self.signature == signature


S = TypeVar("S", bound=Stream)


class Streams(Generic[S]):
    """The streams of one generation; `make` makes a new one from a signature and a condition."""

    def __init__(self, make: Callable[[Hashable, Any], S]) -> None:
        self._make = make
        self.clear()

    def __iter__(self) -> Iterator[S]:
        return iter(self._known)

    def clear(self) -> None:
        """Forget everything."""
        self._known: list[S] = []
        self._place: tuple[int, int] | None = None

    def arrive(self, generation: int, step: int) -> None:
        """At a new step only what the step before has used is kept, at a new generation nothing."""
        if (generation, step) == self._place:
            return
        same = self._place is not None and generation == self._place[0]
        self._known = [each for each in self._known if same and each.used]
        for stream in self._known:
            stream.used = False
        self._place = generation, step

    def of(self, signature: Hashable, condition: Any) -> tuple[S, bool]:
        """The stream of a call, and whether it was there before.

        It is the first one that fits and that this step has not used yet.
        """
        for stream in self._known:
            if stream.fits(signature, condition) and not stream.used:
                stream.used = True
                return stream, True
        fresh = self._make(signature, condition)
        self._known.append(fresh)
        return fresh, False
