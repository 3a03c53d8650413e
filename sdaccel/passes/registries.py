"""diffusers looks blocks and processors up by their exact class: it is told of subclasses here.

Its registries are open for that. An entry stays there when a pipe is restored; nobody else has the
class that it is for.
"""

from __future__ import annotations

import copy


def register_as_its_base(subclass: type) -> None:
    """Give a subclass what `enable_cache` knows about the class that it stands in for, if anything.

    A diffusers without such registries is left as it is.
    """
    try:
        from diffusers.hooks._helpers import AttentionProcessorRegistry, TransformerBlockRegistry
    except ImportError:
        return
    for registry in (TransformerBlockRegistry, AttentionProcessorRegistry):
        for base in subclass.__mro__[1:]:
            try:
                metadata = registry.get(base)
            except ValueError:
                continue
            # a copy: registering writes the class into it
            registry.register(subclass, copy.copy(metadata))
            break
