"""What several test modules share."""

import os

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
