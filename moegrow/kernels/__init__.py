"""What happens to the values of weights: noise, scales, rounding, block after block."""
