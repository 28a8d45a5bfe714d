"""ConVIRT / CLIP: symmetric InfoNCE on the known pairs alone (Zhang et al. 2020; Radford et al. 2021)."""

from lgdea_core.method import Method

METHOD = Method()
