"""The ``kvstream`` command; says what to install where the command line's packages are missing."""

import sys

from kvstream.faults.interrupt import exit_at_interrupt


def main() -> None:
    """Run the command line."""
    exit_at_interrupt()
    from kvstream.cli.standard import open_standard_streams

    open_standard_streams()
    try:
        import rich  # noqa: F401
        import typer  # noqa: F401
    except ImportError:
        sys.exit("kvstream: the command line needs optional packages: pip install 'kvstream[cli]'")
    from kvstream.cli.app import run_app

    sys.exit(run_app())


if __name__ == "__main__":
    main()
