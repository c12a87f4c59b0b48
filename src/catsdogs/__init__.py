"""Image classification from a small labelled set of photographs.

Importing the package is cheap: TensorFlow is loaded only by the modules that compute with it.
"""

__version__ = "0.1.0"
