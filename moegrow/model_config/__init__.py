"""What a config.json says of layers, experts and quantised modules, as a model grows."""
