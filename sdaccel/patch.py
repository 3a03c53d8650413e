"""The undo log: the one place that changes somebody else's object.

Every change goes through a `Patch`, which remembers how to take it back. Undoing happens last in,
first out, at most once, and also when a later change failed. Only instances are changed, never the
classes or modules of another package.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

_ABSENT = object()


@dataclass(frozen=True)
class Undo:
    """One step back, and the component whose acceleration it belongs to (None: the pipe's)."""

    run: Callable[[], None]
    component: object | None


@dataclass
class Patch:
    """Changes made to one pipe, in order, each with its undo."""

    undos: list[Undo] = field(default_factory=list)
    _component: object | None = None

    @contextmanager
    def scope(self, component: object | None) -> Iterator[None]:
        """Attribute the changes made inside to `component`, which another pipe may share."""
        outer, self._component = self._component, component
        try:
            yield
        finally:
            self._component = outer

    def on_undo(self, undo: Callable[[], None]) -> None:
        """Register how to take back a change that the caller makes itself, right after this."""
        self.undos.append(Undo(undo, self._component))

    def set(self, owner: object, name: str, value: object) -> None:
        """Set an attribute on one instance; an attribute that was absent is absent again after.

        A module's parameters, buffers and children are set through `torch.nn.Module` itself.
        """
        before = _instance_value(owner, name)
        self.on_undo(lambda: _put_back(owner, name, before))
        setattr(owner, name, value)

    def set_class(self, owner: object, subclass: type) -> None:
        """Give one instance a subclass of its own class, under the same `__name__`.

        Raises `TypeError` where `subclass` is no subclass of the instance's class.
        """
        before = type(owner)
        if not issubclass(subclass, before) or subclass.__name__ != before.__name__:
            raise TypeError(f"{subclass.__name__} can't stand in for {before.__name__}")
        self.on_undo(lambda: object.__setattr__(owner, "__class__", before))
        object.__setattr__(owner, "__class__", subclass)

    def set_item(self, mapping: dict[Any, Any], key: object, value: object) -> None:
        """Set one item of a dictionary; on the way back the keys keep their order."""
        before = dict(mapping)

        def put_back() -> None:
            mapping.clear()
            mapping.update(before)

        self.on_undo(put_back)
        mapping[key] = value

    def add_handle(self, handle: Any) -> None:
        """Take over a removable handle, such as a hook's."""
        self.on_undo(handle.remove)

    def undo(self) -> None:
        """Take everything back, last in, first out. A second call does nothing.

        A step that raises does not keep the others from running; its error is raised at the end.
        """
        undos, self.undos = self.undos, []
        run_back(undos)

    def take(self, component: object) -> list[Undo]:
        """Hand out the undos of one component, in order; this patch forgets them."""
        taken = [undo for undo in self.undos if undo.component is component]
        self.undos = [undo for undo in self.undos if undo.component is not component]
        return taken


def run_back(undos: Iterable[Undo]) -> None:
    """Run undos last in, first out; all of them, then raise the first error there was."""
    errors = []
    for undo in reversed(list(undos)):
        try:
            undo.run()
        except Exception as error:
            errors.append(error)
    if errors:
        raise errors[0]


def same_name_subclass(base: type, members: dict[str, Any]) -> type:
    """A subclass of `base` that carries its name, so that diffusers saves and matches it so."""
    named = {
        "__module__": base.__module__,
        "__qualname__": base.__qualname__,
        "__doc__": base.__doc__,
    }
    return type(base)(base.__name__, (base,), {**named, **members})


def _instance_value(owner: object, name: str) -> object:
    """The instance's own value of `name`, not its class's; `_ABSENT` where it has none."""
    for store in ("_parameters", "_buffers", "_modules"):
        values = owner.__dict__.get(store)
        if isinstance(values, dict) and name in values:
            return values[name]
    return owner.__dict__.get(name, _ABSENT)


def _put_back(owner: object, name: str, before: object) -> None:
    if before is not _ABSENT:
        setattr(owner, name, before)
    elif _instance_value(owner, name) is not _ABSENT:
        delattr(owner, name)
