"""What two-stage detectors share: features -> proposals -> RoIs -> head -> detections."""
