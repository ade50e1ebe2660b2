"""Merging fine-tuned models by their weights alone. Importing this registers every method."""

from merging import methods  # noqa: F401 - for its effect: the registry
from merging.engine import Report, Step, merge
from merging.errors import MergeError, MergeStopped
from merging.extraction import extract
from merging.method import METHODS
from merging.recipe import Recipe, load_recipe

__version__ = "0.1.0"
__all__ = ["METHODS", "MergeError", "MergeStopped", "Recipe", "Report", "Step", "extract", "load_recipe", "merge"]
