"""Experiments whose rows are committed; `python -m lgdea_core.experiments --help` lists them."""
