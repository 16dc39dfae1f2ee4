"""The range of seeds, for params and for command lines, which do not wait for pydantic."""

#: Seeds are below this.
SEEDS = 2**32
