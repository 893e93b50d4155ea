"""One field: every method trained alike on the same images, measured, and loadable by name.

`plan` says what is trained and how, `training` trains it, `judging` measures it, `results` keeps
what was measured and `report` makes tables, plots and pages of that. `packing` writes the small
files that `boxatlas.load("field/NAME")` reads, `finding` finds them.
"""
