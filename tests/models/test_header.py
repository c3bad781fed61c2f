"""Headers of safetensors files: read from strangers, written for everyone."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import load

from moegrow.checkpoint.header import nbytes, read_header, write_header
from moegrow.dtypes import BITS
from moegrow.errors import MoegrowError
from moegrow.files.byte_ranges import BLOCK

shapes = st.lists(st.integers(0, 5), max_size=3).map(tuple)
names = st.text(st.characters(codec="utf-8", categories=["L", "N", "P"]), min_size=1, max_size=9)


def write(path, table, data=b"", length=None):
    """A file with this header, however wrong it is."""
    text = table if isinstance(table, bytes) else json.dumps(table).encode()
    size = len(text) if length is None else length
    path.write_bytes(size.to_bytes(8, "little") + text + data)
    return path


def entry(start=0, stop=8, dtype="F32", shape=(2,)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, stop]}


@given(st.dictionaries(names, shapes, max_size=5))
def test_what_is_written_is_what_the_safetensors_library_reads(shapes_by_name):
    tensors = {name: np.ones(shape, np.float32) for name, shape in shapes_by_name.items()}
    header = write_header((name, "F32", value.shape) for name, value in tensors.items())
    assert len(header) % 8 == 0
    found = load(header + b"".join(value.tobytes() for value in tensors.values()))
    assert found.keys() == tensors.keys()
    assert all(np.array_equal(found[name], value) for name, value in tensors.items())


@given(st.integers(0, BLOCK - 1), st.text("ab", min_size=1, max_size=20))
def test_a_header_is_padded_until_the_data_begins_where_it_should_in_a_block(residue, name):
    value = np.arange(5, dtype=np.float32)
    header = write_header([(name, "F32", (5,))], residue=residue)
    assert len(header) % BLOCK == residue
    found = load(header + value.tobytes())
    assert np.array_equal(found[name], value)
    shortest = write_header([(name, "F32", (5,))])
    assert len(header) - len(shortest) < BLOCK
    assert json.loads(header[8:]) == json.loads(shortest[8:])


def test_a_header_says_where_the_data_begins(tmp_path):
    path = tmp_path / "model.safetensors"
    for residue in (None, 0, 8, 17, 4095):
        header = write_header([("a", "F32", (2,))], residue=residue)
        path.write_bytes(header + bytes(8))
        found = read_header(path)
        assert found.begin == len(header) == found.tensors[0].start


def test_a_written_header_carries_the_format(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(write_header([("a", "BF16", (2, 3))]) + bytes(12))
    assert read_header(path).metadata == {"format": "pt"}
    with safe_open(path, "pt") as opened:
        assert opened.metadata() == {"format": "pt"}


def test_every_tensor_that_transformers_writes_is_found_where_it_lies(checkpoint):
    for file in checkpoint().glob("*.safetensors"):
        header = read_header(file)
        content = file.read_bytes()
        with safe_open(file, "pt") as opened:
            assert {tensor.name for tensor in header.tensors} == set(opened.keys())
            for tensor in header.tensors:
                value = opened.get_tensor(tensor.name)
                assert (tensor.dtype, tensor.shape) == ("F32", tuple(value.shape))
                assert content[tensor.start : tensor.stop] == value.numpy().tobytes()
        assert header.size == len(content)


@pytest.mark.parametrize(
    "dtype",
    [
        torch.float16,
        torch.bfloat16,
        torch.float64,
        torch.float8_e4m3fn,
        torch.uint8,
        torch.bool,
        torch.int64,
    ],
)
def test_sizes_are_those_of_the_safetensors_library(tmp_path, dtype):
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(3, 4).to(dtype)}, tmp_path / "a.safetensors")
    (spec,) = read_header(tmp_path / "a.safetensors").tensors
    assert spec.stop - spec.start == nbytes(spec.dtype, spec.shape)


def test_half_bytes_must_fill_whole_bytes():
    assert nbytes("F4", (3, 2)) == 3
    with pytest.raises(ValueError, match="whole bytes"):
        nbytes("F4", (3,))


@pytest.mark.parametrize(
    ("table", "data", "says"),
    [
        (b"", b"", "not valid JSON"),
        (b"[]", b"", "not a JSON object"),
        (b'{"a": \xff}', b"", "not UTF-8"),
        ({"a": entry()}, bytes(7), "should be .* bytes long"),
        ({"a": entry()}, bytes(9), "should be .* bytes long"),
        ({"a": entry(), "b": entry(4, 12)}, bytes(12), "overlaps"),
        ({"a": entry(), "b": entry(9, 17)}, bytes(17), "gap"),
        ({"a": entry(4, 12)}, bytes(12), "gap"),
        ({"a": entry(stop=4)}, bytes(4), "8 bytes, but has 4"),
        ({"a": entry(8, 0)}, bytes(8), "8 bytes, but has -8"),
        ({"a": entry(dtype="F7")}, bytes(8), "'F7', which is not known"),
        ({"a": entry(shape=(-2,))}, bytes(8), "malformed"),
        ({"a": entry(shape=(2.0,))}, bytes(8), "malformed"),
        ({"a": entry(shape=(True,), stop=4)}, bytes(4), "malformed"),
        ({"a": entry(shape=(1,), stop=4), "b": entry(4, 8, shape=(True,))}, bytes(8), "malformed"),
        ({"a": entry(False, 8)}, bytes(8), "malformed"),
        ({"a": {"dtype": "F32", "shape": [2]}}, bytes(8), "malformed"),
        (
            {"a": {"dtype": ["F32"], "shape": [2], "data_offsets": [0, 8]}},
            bytes(8),
            "malformed|not known",
        ),
        ({"a": 5}, b"", "malformed"),
        ({"a": entry(dtype="F4", shape=(3,), stop=2)}, bytes(2), "whole bytes"),
        ({"a\x1b[31m": entry()}, bytes(8), "control characters"),
        ({"__metadata__": [], "a": entry()}, bytes(8), "__metadata__"),
        (b'{"a": {}, "a": {}}', b"", "stands twice"),
        ({"__metadata__": {"a": "\ud800"}, "a": entry()}, bytes(8), "no character"),
        ({"a": entry() | {"shape": ""}}, bytes(8), "must be lists"),
    ],
)
def test_a_broken_header_is_refused_by_the_name_of_its_file(tmp_path, table, data, says):
    path = write(tmp_path / "broken.safetensors", table, data)
    with pytest.raises(MoegrowError, match=says) as refused:
        read_header(path)
    assert "broken.safetensors" in refused.value.message


@pytest.mark.parametrize("length", [1000, 2**63, 2**64 - 1])
def test_a_header_longer_than_its_file_is_refused(tmp_path, length):
    path = write(tmp_path / "broken.safetensors", {}, length=length)
    with pytest.raises(MoegrowError, match=f"{length} bytes long") as refused:
        read_header(path)
    assert "fetch it again" in refused.value.hint


def test_a_header_over_the_limit_of_the_library_is_refused_unread(tmp_path):
    path = tmp_path / "broken.safetensors"
    with path.open("wb") as file:
        file.write((200_000_000).to_bytes(8, "little"))
        file.truncate(300_000_000)
    with pytest.raises(MoegrowError, match="over the limit"):
        read_header(path)


@pytest.mark.parametrize("size", range(9))
def test_a_file_of_a_few_bytes_is_refused(tmp_path, size):
    path = tmp_path / "broken.safetensors"
    path.write_bytes(bytes([2] * size))
    with pytest.raises(MoegrowError, match=r"broken\.safetensors"):
        read_header(path)


def test_the_digest_covers_every_byte_of_the_header(tmp_path):
    one = read_header(write(tmp_path / "a.safetensors", {"a": entry()}, bytes(8)))
    two = read_header(write(tmp_path / "b.safetensors", {"b": entry()}, bytes(8)))
    spaced = json.dumps({"a": entry()}).encode() + b" "
    three = read_header(write(tmp_path / "c.safetensors", spaced, bytes(8)))
    assert len({one.digest, two.digest, three.digest}) == 3


def test_every_known_dtype_is_one_the_library_may_write():
    assert set(BITS.values()) == {4, 6, 8, 16, 32, 64}
    assert {"F32", "BF16", "F16", "F8_E4M3", "F8_E8M0", "U8", "I64", "BOOL"} <= BITS.keys()


def test_a_header_is_not_written_that_would_not_be_read():
    tensors = ((f"layers.{number}.weight", "F32", (1, 1)) for number in range(200_000))
    with pytest.raises(MoegrowError, match="200000 tensors") as refused:
        write_header(tensors)
    assert "max_shard_size='1GB'" in refused.value.hint
