"""LGDEA and ASG: vision-language pretraining on chest radiographs when few image-report pairs exist."""
