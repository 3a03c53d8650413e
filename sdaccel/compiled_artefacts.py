"""What torch can keep of what a process has compiled, as bytes, and back into torch's cache."""

from __future__ import annotations

from collections import defaultdict
from typing import Any


def compiled_here() -> bytes | None:
    """All that this process has compiled, or found in torch's cache; None where nothing was kept.

    Code with weights frozen into it is not.
    """
    import torch

    found = torch.compiler.save_cache_artifacts()
    return None if found is None else found[0]


def restore_compiled(content: bytes) -> int | None:
    """Put artefacts into torch's cache; returns how many, None where torch can't read them.

    torch's own `load_cache_artifacts` takes of each kind what the last of a process's saves has
    added, and loses what the ones before have (2.13): so they are put together here.
    """
    import torch

    try:
        from torch.compiler._cache import CacheArtifactManager, _deserialize_single_cache
        from torch.utils._appending_byte_serializer import AppendingByteSerializer
    except ImportError:  # another torch has another reader
        info = torch.compiler.load_cache_artifacts(content)
        return None if info is None else _count(info)
    try:
        CacheArtifactManager._ensure_cache_artifacts_registered()
        read = AppendingByteSerializer.to_list(content, deserialize_fn=_deserialize_single_cache)
        together: defaultdict[str, list[Any]] = defaultdict(list)
        for kind, artefacts in read:
            together[kind] += artefacts
        return _count(CacheArtifactManager.populate_caches(together))
    except Exception:  # a checksum, a version, or bytes that make no sense
        return None


def _count(info: Any) -> int:
    return sum(map(len, info.artifacts.values()))
