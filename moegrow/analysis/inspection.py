"""The Python functions `inspect` and `norms`."""

import os
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from moegrow.checkpoint.store import Access
from moegrow.planning import model_size
from moegrow.planning.model_size import Inspection
from moegrow.planning.open_source import AnySource, load

if TYPE_CHECKING:
    from moegrow.analysis.norm_profile import Profile


def inspect(
    source: AnySource,
    *,
    family: str | os.PathLike[str] | None = None,
    revision: str | None = None,
    token: str | None = None,
    links_to: Sequence[str | os.PathLike[str]] = (),
    values: bool = False,
) -> Inspection:
    """What a checkpoint is, or what a plan makes: family, layers, experts, parameters, bytes.

    With `values`, all weights are read, a plan's source's, and under "values" stand the tensors
    that hold NaN or infinity, one value alone, or none. docs/json.md describes the keys; printed,
    it is a table.
    """
    opened = load(source, family, Access(token, revision, links_to))
    facts = model_size.inspection(*opened)
    if values:
        from moegrow.kernels.nonfinite import find_values

        facts["values"] = asdict(find_values(opened.layout.checkpoint))
    return facts


def norms(
    source: AnySource,
    *,
    sample: bool = False,
    threads: int | None = None,
    family: str | os.PathLike[str] | None = None,
    revision: str | None = None,
    token: str | None = None,
    links_to: Sequence[str | os.PathLike[str]] = (),
) -> "Profile":
    """The norms of a model's weights, layer by layer; of a plan, what it will make of its source.

    All weights are read, quantised ones decoded; with `sample` a little of each layer.
    """
    from moegrow.analysis import norm_profile

    opened = load(source, family, Access(token, revision, links_to))
    return norm_profile.of(opened, sample=sample, threads=threads)
