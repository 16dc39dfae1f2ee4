"""`python -m pipeline`, for where the `pipeline` script is not on the path."""

from pipeline.cli import main

main()
