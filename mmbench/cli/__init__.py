"""The command line: commands parse, call and print; the work is elsewhere."""

import sys


def main() -> None:
    """Run the command line; a user's mistake leaves with exit code 2 and no traceback."""
    from mmbench.cli.app import app
    from mmbench.errors import UserError
    from mmbench.folders import HINDERED

    try:
        app()
    except UserError as err:
        print(f"error: {err}", file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:
        sys.exit(1)
    except OSError as err:
        if err.errno not in HINDERED:
            raise
        print(
            f"error: {err.filename or 'a file'}: {err.strerror}; get permission or make room, and "
            "type the command again: finished work is kept",
            file=sys.stderr,
        )
        sys.exit(2)
