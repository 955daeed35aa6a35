"""The pure part: arrays, tensors and dataclasses in, the same out. No paths, files, logs or trackers."""
