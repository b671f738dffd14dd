"""Install what `make` needs, with uv: the same files as pip's, several times faster.

    python .ci/install.py -c constraints.txt -e '.[test]'      takes what `pip install` takes

uv does not read pip's settings (indexes, certificates), so it is told of them. Where there is no uv
for this machine, or uv fails, pip does the work.
"""

import ast
import os
import subprocess
import sys

PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check")
PLACES = (":env:", "install", "global")  # the first that has a setting decides
SHARED = ("index-url", "extra-index-url", "find-links", "constraint", "trusted-host")


def settings_of_pip() -> dict[str, str]:
    """Return pip's settings by name, from its files and its environment variables."""
    listed = subprocess.run([*PIP, "config", "list"], capture_output=True, text=True)
    pairs = [line.partition("=")[::2] for line in listed.stdout.splitlines()]
    found: dict[str, str] = {}
    for place in PLACES:
        for name, value in pairs:
            if name.startswith(f"{place}."):
                found.setdefault(name.removeprefix(f"{place}."), ast.literal_eval(value))
    return found


def uv_install(arguments: list[str]) -> bool:
    """Install with uv; say whether it did."""
    pins = arguments[:2] if arguments[0] == "-c" else []
    if subprocess.run(
        [*PIP, "install", "--quiet", *pins, "uv"], stderr=subprocess.DEVNULL
    ).returncode:
        return False
    told = settings_of_pip()
    same = [f"--{name}={each}" for name in SHARED for each in told.get(name, "").split()]
    quiet = [] if sys.stderr.isatty() else ["--quiet"]
    # As pip has it: the best version of all indexes, not of the first that has the package.
    command = ["pip", "install", "--index-strategy=unsafe-best-match", *quiet, *same, *arguments]
    certificates = {"SSL_CERT_FILE": told["cert"]} if "cert" in told else {}
    here = {"VIRTUAL_ENV": sys.prefix} | certificates
    done = subprocess.run([sys.executable, "-m", "uv", *command], env=os.environ | here)
    return done.returncode == 0


def main(arguments: list[str]) -> int:
    """Install; return the exit status."""
    if uv_install(arguments):
        return 0
    print("Installing with pip instead ...", file=sys.stderr)
    return subprocess.run([*PIP, "install", "--no-compile", "--quiet", *arguments]).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
