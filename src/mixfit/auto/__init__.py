"""The whole pipeline: inspect, fit, resume, tune."""
