"""Geometry of boxes: formats and overlaps, coders, anchors, matching, sampling, NMS.

Functions on tensors that know no network; each module's docstring lists its public names.
"""
