"""A pytest plugin for diffusers' own tests: what they take for its schedulers are the stand-ins."""

from __future__ import annotations


def pytest_configure() -> None:
    """Before a test module is imported, put each stand-in under the name of its stock class."""
    import diffusers

    import sdaccel.schedulers
    from sdaccel.schedulers.counterparts import KINDS

    for name in KINDS:
        setattr(diffusers, name, getattr(sdaccel.schedulers, name))
