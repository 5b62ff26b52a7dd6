"""The automatic whole: inspect, fit, resume, tune."""
