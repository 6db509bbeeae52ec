"""Text-prompted segmentation of small things in CT and MRI: BoltzFormer as a MONAI Bundle. Research
software.
"""

__version__ = "0.1.0"
