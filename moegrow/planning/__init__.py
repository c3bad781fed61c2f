"""Plan a growth without reading weights: steps to maps, maps to outputs, checks."""
