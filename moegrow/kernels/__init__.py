"""Compute on the values of weights, chunk by chunk: noise, scales, rounding, norms."""
