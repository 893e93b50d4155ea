"""Labelled images: reading any layout into one table, augmenting, feeding batches."""

from boxatlas.data.formats import detect_format, read, read_splits, split_to_judge, splits
from boxatlas.data.loader import Loader, make_loader
from boxatlas.data.table import Row, Table
from boxatlas.data.transforms import augmentation

__all__ = [
    "Loader",
    "Row",
    "Table",
    "augmentation",
    "detect_format",
    "make_loader",
    "read",
    "read_splits",
    "split_to_judge",
    "splits",
]
