"""The `Model` of the Python interface: a checkpoint that is opened once, grown and written."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Concatenate, ParamSpec

from moegrow import display
from moegrow.analysis import inspection
from moegrow.checkpoint.store import Access
from moegrow.errors import printable
from moegrow.planning import grow, model_size, open_source
from moegrow.planning.model_size import Inspection
from moegrow.planning.open_source import AnySource, Opened
from moegrow.planning.plan import Plan
from moegrow.write import write_checkpoint
from moegrow.write.write_checkpoint import Written
from moegrow.write.write_job import Progress

P = ParamSpec("P")


def _growing(
    verb: Callable[Concatenate[AnySource, P], Plan],
) -> Callable[Concatenate["Model", P], "Model"]:
    """The method that does to a model what a verb does to a source."""

    @wraps(verb)
    def method(self: "Model", /, *arguments: P.args, **options: P.kwargs) -> "Model":
        return Model(Opened(verb(self.opened, *arguments, **options), self.opened.layout))

    return method


@dataclass(frozen=True, repr=False)
class Model:
    """A model as it is, or as it will be once it is written: a plan with its open source.

    `deepen`, `widen`, `convert` and `run` give a new one and write nothing; they take what
    `moegrow.depth`, `moegrow.width`, `moegrow.convert` and `moegrow.run` take behind the source.
    """

    opened: Opened

    deepen = _growing(grow.depth)
    widen = _growing(grow.width)
    convert = _growing(grow.convert)
    run = _growing(grow.run)

    @property
    def plan(self) -> Plan:
        """What would be written, as a plan."""
        return open_source.load(self.opened).plan

    def inspect(self) -> Inspection:
        """What the model is, or would be: family, layers, experts, parameters, bytes."""
        return inspection.inspect(self.opened)

    def apply(
        self,
        output: str | os.PathLike[str],
        *,
        force: bool = False,
        threads: int | None = None,
        max_shard_size: str | int = "5GB",
        reflink: bool = True,
        download: bool = False,
        token: str | None = None,
        links_to: Sequence[str | os.PathLike[str]] = (),
        progress: Progress = lambda count: None,
    ) -> Written:
        """Write the model to the folder `output`, as `moegrow.apply` writes a plan."""
        return write_checkpoint.apply(
            self.plan, output, force=force, threads=threads, max_shard_size=max_shard_size,
            reflink=reflink, download=download, token=token, links_to=links_to, progress=progress,
        )  # fmt: skip

    def __repr__(self) -> str:
        growth = self.opened.plan.growth
        return (
            f"<model of {self.opened.layout.family.name}: {len(growth.layers)} layers,"
            f" {len(growth.experts)} experts, top-{growth.top_k}>"
        )

    def __str__(self) -> str:
        return printable("\n".join([display.text(self._rows()), *self._sentences()]))

    def _repr_html_(self) -> str:
        return display.html(self._rows(), self._sentences(), heading=True)

    def _rows(self) -> list[tuple[str, str, str]]:
        plan, layout = open_source.load(self.opened)
        before, after = model_size.numbers(layout), model_size.grown_numbers(plan, layout)
        return [(layout.family.name, "before", "after"), *model_size.comparison(before, after)]

    def _sentences(self) -> list[str]:
        steps = self.opened.plan.steps
        return [f"{step.axis}: {note}" for step in steps for note in step.notes]


def open_model(
    source: AnySource,
    *,
    family: str | os.PathLike[str] | None = None,
    revision: str | None = None,
    token: str | None = None,
    links_to: Sequence[str | os.PathLike[str]] = (),
) -> Model:
    """The model in a checkpoint's folder or file, or the one that a plan describes.

    family: a family file of your own, for a model that moegrow does not know. revision, token: for
    a repository of the Hub. Raises MoegrowError where the source is no checkpoint of a known
    family, or has changed since the plan was made.
    """
    return Model(open_source.begin(source, family, Access(token, revision, links_to)))
