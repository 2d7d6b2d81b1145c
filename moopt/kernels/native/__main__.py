"""Build the compiled host kernels: `python -m moopt.kernels.native`, with $CXX or c++."""

import sys

from moopt.kernels.native.form import native_form
from moopt.kernels.native.library import build


def main() -> int:
    """Build, load and check; the exit code."""
    try:
        built = build()
    except (OSError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    form = native_form()
    print(f"{built.name}: {form.name}, {form.why}")
    return int(form.name != "native")


if __name__ == "__main__":
    sys.exit(main())
