"""Analyse weights, maps and logits before and after a growth."""
