"""Losses shared by methods.

smooth_l1 and softmax_cross_entropy (regression.py, classification.py), multibox_loss (SSD's mining,
multibox.py), focal_loss (RetinaNet, focal.py).
"""
