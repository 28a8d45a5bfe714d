"""Set before any test imports torch: models here are tiny, so one thread is the fastest, and runs repeat bitwise."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
