"""What methods are fitted and evaluated on: rows, where they come from, and contrasts."""

from steersman.data.contrast import Contrast, pair
from steersman.data.folder import load_folder, save_folder
from steersman.data.hub import load_dataset_rows
from steersman.data.load import load
from steersman.data.prompts import to_prompt
from steersman.data.rows import LEAVE_ALONE, Dataset, Row, check_behaviours

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
