"""The steps of an iteration that auto-refine and 3D classification share."""
