"""Weights of boxatlas's field: NAME.safetensors, each with its card NAME.json. Nothing runs here:

import boxatlas
detector = boxatlas.load("field/fpn")
"""
