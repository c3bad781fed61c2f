"""How quantised weights are stored, and the numbers that they stand for."""
