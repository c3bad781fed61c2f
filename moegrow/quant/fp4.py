"""The MXFP4 and NVFP4 codec: 4-bit floats, with a scale for each group."""

import math
from fractions import Fraction

import numpy as np

from moegrow.quant.codec import Shape, expect, same
from moegrow.quant.decoding import SCALES
from moegrow.quant.groups import Grouped
from moegrow.quant.packing import Packing, Turned, together
from moegrow.quant.stochastic_rounding import Codes
from moegrow.quant.unpack import Floats, Read, Words, companion, float_values, paired


class Fp4(Grouped):
    """Two codes in a byte, times a scale of their group, and NVFP4 times one of the tensor."""

    dtypes = ("U8",)
    roles = ("scale", "divisor?", "factor?")
    floats = "F4"
    pairs = paired(float_values("F4"))

    def _shape(self) -> Shape:
        spec, scale = self.spec, self.parts["scale"]
        expect(scale, *SCALES)
        for role in ("divisor", "factor"):
            if role in self.parts:
                expect(self.parts[role], "F32")
                if math.prod(self.parts[role].shape) != 1:
                    raise ValueError(f"its {role} {list(self.parts[role].shape)} is not one number")
        if len(spec.shape) == len(scale.shape) + 1:
            same(spec.shape[:-1], scale.shape)
            shape = (*spec.shape[:-2], spec.shape[-2] * spec.shape[-1] * 2)
        else:
            same(spec.shape[:-1], scale.shape[:-1])
            shape = (*spec.shape[:-1], spec.shape[-1] * 2)
        if len(shape) < 2 or not scale.shape[-1] or shape[-1] % scale.shape[-1]:
            raise ValueError(f"a scale of {list(scale.shape)} does not fit {list(shape)}")
        return (*shape[:-2], shape[-1], shape[-2]) if self.is_swapped else shape

    @property
    def is_swapped(self) -> bool:
        return self.is_turned

    @property
    def grouped(self) -> tuple[int, int]:
        return self.shape[-2 if self.is_swapped else -1], self.parts["scale"].shape[-1]

    def groups(self, read: Read, number: int) -> tuple[Floats, Floats | None]:
        scale, _ = super().groups(read, number)
        # A scale that becomes infinite, or NaN, is that of the format.
        with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
            if "divisor" in self.parts:
                scale = scale / companion(self.parts["divisor"], read, 0, 1)
            if "factor" in self.parts:
                scale = scale * companion(self.parts["factor"], read, 0, 1)
        return scale, None

    def packing(self) -> Packing:
        if not self.is_swapped:
            return super().packing()
        return Turned((self.shape[-1], self.shape[-2] // 2), "u1", _put)

    def factor(self, factor: Fraction) -> tuple[str, Fraction]:
        if "factor" in self.parts:
            return "factor", factor
        return ("divisor", 1 / factor) if "divisor" in self.parts else ("scale", factor)


def _put(new: Words, codes: Codes, first: int) -> None:
    new[:, first // 2 : (first + codes.shape[1]) // 2] = together(codes)
