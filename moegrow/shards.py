"""Which output goes to which file of the new checkpoint."""

import re
from dataclasses import dataclass
from functools import cached_property

from moegrow.checkpoint import index_text
from moegrow.errors import UsageError
from moegrow.header import BITS, write_header
from moegrow.layout import parameters
from moegrow.plans import Output, Plan

DEFAULT_SIZE = "5GB"

# More than nothing, of a unit that huggingface_hub reads.
_SIZE = re.compile(r"(?!0*\.?0*\D*$)\d{1,15}(\.\d{1,15})?\s*[KMGT]B", re.IGNORECASE | re.ASCII)


@dataclass(frozen=True)
class Shard:
    """One file of the new checkpoint: its tensors in the order in which their bytes lie.

    Wider elements come first, so that every tensor begins at a multiple of its element's size.
    """

    name: str
    outputs: tuple[Output, ...]

    @cached_property
    def header(self) -> bytes:
        """Everything in front of the data."""
        return write_header((output.name, output.dtype, output.shape) for output in self.outputs)

    @property
    def nbytes(self) -> int:
        """Bytes of the whole file."""
        return len(self.header) + sum(output.nbytes for output in self.outputs)


def check_size(max_shard_size: str | int) -> None:
    """Raise UsageError for a size that is none, such as "5 apples" or "0GB"."""
    if isinstance(max_shard_size, int):
        is_size = max_shard_size > 0
    else:
        is_size = bool(_SIZE.fullmatch(max_shard_size.strip()))
    if not is_size:
        raise UsageError(
            f"--max-shard-size {max_shard_size} is not a size", "write it like 5GB or 500MB"
        )


def split(plan: Plan, max_shard_size: str | int = DEFAULT_SIZE) -> tuple[Shard, ...]:
    """The files of a plan, none with more bytes of tensors than `max_shard_size`.

    A tensor that is larger than that has a file of its own. Raises UsageError for a size that
    is none, such as "5 apples".
    """
    from huggingface_hub import split_state_dict_into_shards_factory

    outputs = {output.name: output for output in plan.outputs}
    check_size(max_shard_size)
    found = split_state_dict_into_shards_factory(
        outputs,
        get_storage_size=lambda output: output.nbytes,
        filename_pattern="{suffix}",
        max_shard_size=max_shard_size,
    )
    groups = list(found.filename_to_tensors.values())
    return tuple(
        Shard(
            f"model-{number:05d}-of-{len(groups):05d}.safetensors",
            tuple(sorted((outputs[name] for name in names), key=lambda it: -BITS[it.dtype])),
        )
        for number, names in enumerate(groups, 1)
    )


def index(shards: tuple[Shard, ...]) -> str:
    """The text of the index that says which tensor is in which file."""
    outputs = [output for shard in shards for output in shard.outputs]
    return index_text(
        {output.name: shard.name for shard in shards for output in shard.outputs},
        total_size=sum(output.nbytes for output in outputs),
        total_parameters=parameters(output.shape for output in outputs),
    )
