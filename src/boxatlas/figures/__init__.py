"""Pictures of what the code does, drawn from the objects themselves: change them and the picture
changes. `assigned`: which boxes learn for which object; `structure`: a network's maps; `svg`: pen
and paper."""
