"""Which images and reports training may use, and which pairs it knows."""

from dataclasses import dataclass

import pandas as pd


@dataclass(frozen=True, kw_only=True)
class Pools:
    """Training's view of a corpus: two pools and the known pairs between them.

    Unpaired images and reports stand in the pools in an order that says nothing of their true pairing.
    """

    image_ids: tuple[str, ...]
    """all training images, those with a known pair first"""
    report_ids: tuple[str, ...]
    """study ids of all training reports, those with a known pair first"""
    seed_pairs: pd.DataFrame
    """columns image_id, report_id: the known pairs"""
    hidden_pairs: pd.DataFrame
    """columns image_id, report_id: true pairs hidden from training, only to measure relations; may be empty"""
