"""Export of a whole model, from cells and pixels to predictions, as one ONNX file."""
