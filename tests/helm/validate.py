"""Holds manifests to Kubernetes' own schemas, strictly: validate.py MANIFESTS.json VERSION...

Prints each fault as a line, and ends with 1 if there is one.
"""

import json
import sys

import kubernetes_validate


def faults(manifests, versions):
    for version in versions:
        for manifest in manifests:
            try:
                kubernetes_validate.validate(manifest, version, strict=True)
            except (kubernetes_validate.ValidationError, kubernetes_validate.SchemaNotFoundError) as error:
                kind, name = manifest.get("kind"), manifest.get("metadata", {}).get("name")
                where = ".".join(str(part) for part in getattr(error, "path", []))
                yield f"{version}: {kind} {name}: {where}: {error.message}"


with open(sys.argv[1], encoding="utf-8") as file:
    found = list(faults(json.load(file), sys.argv[2:]))
print("\n".join(found))
sys.exit(bool(found))
