"""`python -m boxatlas`, and what torchrun starts in each process."""

from boxatlas.cli import main

if __name__ == "__main__":
    main()
