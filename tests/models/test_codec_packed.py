"""The codec of packed integers, held against compressed-tensors."""

import pytest
from stored import SHAPES, decoded_as_compressed_tensors


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", ["int4", "int4 with zero points"])
def test_compressed_tensors_decodes_the_same(name, shape):
    decoded_as_compressed_tensors(name, shape)
