"""The ``kvstream`` command; says what to install where the command line's packages are missing."""

import sys


def main() -> None:
    """Runs the command line."""
    try:
        import rich  # noqa: F401
        import typer  # noqa: F401
    except ImportError:
        sys.exit("kvstream: the command line needs optional packages: pip install 'kvstream[cli]'")
    from kvstream.cli.app import run_app

    sys.exit(run_app())


if __name__ == "__main__":
    main()
