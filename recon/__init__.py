"""From a capture to a scene: fitting, density control, checkpoints, and files in and out."""
