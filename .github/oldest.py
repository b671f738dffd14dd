"""Print the lower bounds of pyproject.toml as a constraints file: python .github/oldest.py."""

import re
import tomllib
from pathlib import Path

project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
lines = list(project["dependencies"])
for extra in project["optional-dependencies"].values():
    lines += extra
for line in lines:
    name, version = re.match(r"([\w.-]+)>=([\w.]+)", line).groups()
    print(f"{name}=={version}")
