"""Quantised formats: how values are stored, and how to dequantize and requantize them."""
