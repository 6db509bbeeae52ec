"""The reader of mask folders: file names, label values and their names, grids."""
