"""What methods are fitted and evaluated on: rows, where they come from, and contrasts."""

from .contrast import Contrast, pair
from .folder import load_folder, save_folder
from .hub import load_dataset_rows
from .load import load
from .prompts import to_prompt
from .rows import LEAVE_ALONE, Dataset, Row, check_behaviours

__all__ = [
    "LEAVE_ALONE",
    "Contrast",
    "Dataset",
    "Row",
    "check_behaviours",
    "load",
    "load_dataset_rows",
    "load_folder",
    "pair",
    "save_folder",
    "to_prompt",
]
