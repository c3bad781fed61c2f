"""Rewrite config.json and quantisation configs for a grown model."""
