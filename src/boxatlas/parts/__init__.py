"""What the methods of `detectors` stand on; each method's own file says what is its own."""
