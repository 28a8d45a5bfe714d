"""Experiments whose rows are committed: `python -m lgdea_core.experiments limited_pairing | ablation | relations`."""
