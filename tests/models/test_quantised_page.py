"""The table of docs/quantised.md: each format and each operation is tried, and is as it says."""

import re
from functools import cache
from itertools import takewhile

import alter
import pytest
import quantised
import tiny
import torch
from quantised import FORMATS
from repository import DOCS
from stored import plain

import moegrow
from moegrow.errors import MoegrowError

PAGE = DOCS / "quantised.md"
SIZES = {"moe_intermediate_size": 32, "shared_expert_intermediate_size": 64}
DOWN, UP = "model.layers.{}.mlp.experts.{}.down_proj", "model.layers.{}.mlp.experts.{}.up_proj"


def table():
    """The cells of the table of operations, by format and operation."""
    lines = PAGE.read_text().splitlines()
    first = next(n for n, line in enumerate(lines) if line.startswith("| format | copies |"))
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in takewhile(lambda line: line.startswith("|"), lines[first:])
    ]
    head, _, *formats = rows
    return {
        (row[0], name): cell
        for row in formats
        for name, cell in zip(head[1:], row[1:], strict=True)
    }


CELLS = table()
OTHER = "any other"


@pytest.fixture(scope="module")
def made(made, checkpoint, tmp_path_factory):
    """A checkpoint in a format of tests/support/quantised.py, or in an unknown one, made once."""

    @cache
    def any_of_them(name):
        if name == OTHER:
            folder = tmp_path_factory.mktemp("quantised")
            return unheard_of(checkpoint("kolibri1", **SIZES), folder)
        return made(name, model_type="kolibri1", **SIZES)

    return any_of_them


def unheard_of(source, folder):
    """A copy of a checkpoint whose experts are in a format that nobody knows."""
    copy = alter.copy(source, folder)
    with alter.weights(copy) as tensors:
        for name in [name for name in tensors if quantised.LINEAR.fullmatch(name)]:
            tensors[name] = tensors[name].to(torch.float8_e4m3fn)
            tensors[f"{name}.absmax"] = torch.ones(4)
    with alter.table(copy / "config.json") as config:
        config["quantization_config"] = {"quant_method": "unheard of"}
    return copy


class Tried:
    """One checkpoint, and what comes of it."""

    def __init__(self, source, form, out):
        self.source, self.form, self.out = source, form, out

    def weight(self, folder, module):
        """A weight in float32, decoded if need be."""
        named = {
            name.removeprefix(f"{module}."): tensor
            for name, tensor in tiny.tensors(folder).items()
            if name.startswith(f"{module}.")
        }
        if named.keys() == {"weight"}:
            return named["weight"].float()
        config = [FORMATS[self.form].config]
        return plain({f"a.{part}": tensor for part, tensor in named.items()}, config)

    def grown(self, plan):
        moegrow.apply(plan, self.out)
        assert moegrow.verify(self.out).ok
        return self.out

    def copies(self):
        plan = moegrow.width(moegrow.depth(self.source), noise=0, top_k="keep")
        new, old = tiny.tensors(self.grown(plan)), tiny.tensors(self.source)
        copied = {name: name.replace("layers.3.mlp.experts.7", "layers.1.mlp.experts.3")
                  for name in new if "layers.3.mlp.experts.7" in name}  # fmt: skip
        assert copied
        return all(tiny.same_bytes(new[name], old[first]) for name, first in copied.items())

    def factor(self):
        new = self.grown(moegrow.width(self.source, noise=0))
        found = self.weight(new, DOWN.format(1, 6))
        return torch.equal(found, self.weight(self.source, DOWN.format(1, 2)) * 0.5)

    def zeros(self):
        new = self.grown(moegrow.depth(self.source, new_layers="identity"))
        return not self.weight(new, DOWN.format(3, 2)).any()

    def decoded(self, **options):
        new = self.grown(moegrow.convert(self.source, **options))
        is_exact = True
        for module in (UP.format(1, 2), DOWN.format(2, 0)):
            exact, found = self.weight(self.source, module), self.weight(new, module)
            assert torch.equal(found, exact.to(torch.bfloat16).float())
            is_exact = is_exact and torch.equal(found, exact)
        return is_exact

    def noise(self):
        plan = moegrow.width(self.source, noise=0.05, rounding="stochastic")
        with pytest.raises(MoegrowError, match="lost in rounding to nearest"):
            moegrow.width(self.source, noise=0.05)
        new = self.grown(plan)
        found, old = self.weight(new, UP.format(1, 6)), self.weight(self.source, UP.format(1, 2))
        assert 0 < (found - old).std() < 0.5 * old.std()
        # Beside the factor that is in the scales.
        found, old = (
            self.weight(new, DOWN.format(1, 6)),
            self.weight(self.source, DOWN.format(1, 2)),
        )
        assert 0 < (found - old * 0.5).std() < 0.25 * old.std()
        return False

    def norms(self):
        found = moegrow.norms(self.source).norms["experts"][1]
        every = [self.weight(self.source, name.format(1, expert)) for expert in range(4)
                 for name in (UP, DOWN, UP.replace("up_", "gate_"))]  # fmt: skip
        return found == pytest.approx(
            sum(float(w.double().square().mean().sqrt()) for w in every) / len(every), rel=1e-9
        )


OPERATIONS = {
    "copies": Tried.copies,
    "a factor": Tried.factor,
    "zeros": Tried.zeros,
    "`--dtype bf16`": lambda tried: tried.decoded(dtype="bf16"),
    "`--experts-dtype bf16`": lambda tried: tried.decoded(experts_dtype="bf16"),
    "noise by a draw": Tried.noise,
    "`norms`": Tried.norms,
}


def test_the_table_speaks_of_every_format_and_every_operation(made):
    assert {operation for _, operation in CELLS} == OPERATIONS.keys()
    known = {name for form in FORMATS for name in moegrow.inspect(made(form))["formats"]}
    assert {name for name, _ in CELLS} == known | {OTHER}


@pytest.mark.parametrize("form", [*FORMATS, OTHER])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_what_the_table_says_is_so(made, form, operation, tmp_path):
    source = made(form)
    (named,) = moegrow.inspect(source)["formats"] or [OTHER]
    told = CELLS[named, operation]
    tried = Tried(source, form, tmp_path / "out")
    if told == "refused":
        with pytest.raises(MoegrowError) as refused:
            OPERATIONS[operation](tried)
        assert refused.value.hint
        assert not tried.out.exists()
        return
    assert re.fullmatch("exact|rounded", told)
    assert OPERATIONS[operation](tried) == (told == "exact")
