"""Cross-validation of models, their blend, prediction intervals and calibration."""
