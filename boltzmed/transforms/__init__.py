"""MONAI transforms of the pipeline, from a path to the network and from its masks to files."""
