"""What ASG sees besides images and reports: region boxes, the sentences that name them, and image tags."""

import numpy as np
import pandas as pd
from jaxtyping import Float

from lgdea_core.crops import boxes_to_crop, boxes_to_frame, crop_frame
from lgdea_core.vocabulary import REGIONS


def crop_boxes(regions: pd.DataFrame, images: pd.DataFrame) -> Float[np.ndarray, "images regions 4"]:
    """The region boxes of images as shares of the crop's side; NaN where there is none or the crop does not show it."""
    boxes = np.full((len(images), len(REGIONS), 4), np.nan, dtype=np.float32)
    row_of = {image_id: row for row, image_id in enumerate(images["image_id"])}
    column_of = {region: column for column, region in enumerate(REGIONS)}
    table = regions.merge(images[["image_id", "height", "width"]], on="image_id")
    for (height, width), rows in table.groupby(["height", "width"]):
        frame = crop_frame(int(height), int(width), 1)
        cut = boxes_to_crop(boxes_to_frame(rows, int(height), int(width)), frame)
        boxes[rows["image_id"].map(row_of), rows["region"].map(column_of)] = cut
    shown = (boxes[..., 2] > boxes[..., 0]) & (boxes[..., 3] > boxes[..., 1])  # False for NaN too
    boxes[~shown] = np.nan
    return boxes


def shuffle_regions(regions: pd.DataFrame, seed: int) -> pd.DataFrame:
    """The control that must fail: within each image the boxes keep their places and change their names at random."""
    rng = np.random.default_rng([seed, *b"regions"])
    names = regions.groupby("image_id", sort=False)["region"].transform(lambda column: rng.permutation(column))
    return regions.assign(region=names)
