"""Models fitted over folds, their blend, its intervals and its calibration."""
