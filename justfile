# The same commands as CI; `just` lists them. Each works in a virtual environment with `pip install -e '.[test,lint,docs]'`.

default:
    @just --list

# Tests that take less than three minutes together
test *arguments:
    pytest -q -n auto {{arguments}}

# Tests that do much more, or wait for long
slow *arguments:
    pytest -q -n auto -m slow {{arguments}}

# What the quick tests reach of all but the compiled core; CI fails below 93 %
coverage:
    pip install -q pytest-cov==7.1.0
    pytest -q -n auto --cov --cov-report=term:skip-covered --cov-fail-under=93

# Lint, format and types
lint:
    ruff check .
    ruff format --check .
    mypy

# The public face as pyright reads it, which needs Node
pyright:
    pip install -q pyright==1.1.414
    pyright

# Put the format right
format:
    ruff check --fix .
    ruff format .

# Build the documentation, and fail on a link that leads nowhere
docs:
    zensical build --strict --clean

# Compile the core where it stands
core:
    CFLAGS="-O2 -g0" cythonize -i -3 kvstream/_core/{buckets,columns,kv_events,recorder,reuse,table}.py

# Write the schemas anew, which tests hold against the code
schemas:
    python -m kvstream schemas write

# Everything that must pass before a change lands
ci:
    .ci/run
