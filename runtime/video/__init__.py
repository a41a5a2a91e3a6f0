"""Video files: decoding, colour, encoding and containers, with PyAV."""
