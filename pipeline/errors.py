"""The one exception that means: a person can fix this."""

import errno

#: What the system says where a disk, or one's share of it, is full.
FULL = (errno.ENOSPC, errno.EDQUOT)
#: Of more names than `MANY`, an error lists the `NEAREST` alone.
MANY, NEAREST = 10, 5


class UserError(ValueError):
    """Something outside the program is wrong: a file, a key, a value.

    The message is one line that names it, says what was expected and what to do. The command
    line prints it without a traceback and exits with 1.
    """


def unknown(kind: str, name: object, available: "list[str] | tuple[str, ...]") -> UserError:
    """The error for a name that is not in a registry, with the best match and all there is, or of many the nearest."""
    from difflib import get_close_matches

    near = get_close_matches(str(name), available, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    listed = f"Available: {', '.join(available) or 'none'}"
    if len(available) > MANY:
        nearest = get_close_matches(str(name), available, n=NEAREST, cutoff=0.0)
        listed = f"The nearest of {len(available)}: {', '.join(nearest)}"
    return UserError(f"{kind} {str(name)!r} is unknown.{hint} {listed}.")
