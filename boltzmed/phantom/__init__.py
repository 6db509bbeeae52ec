"""A CT phantom of chest and abdomen, made from a seed, that knows every mask."""
