"""The package as a whole: its messages, its types, its README."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
import types
import unittest
from pathlib import Path

from google.protobuf.descriptor_pb2 import DescriptorProto, FileDescriptorProto, FileDescriptorSet
from support import CLIENTS, REPOSITORY, Service
from tollgate_quota import BilledReason, EstimateBasis, Verdict, Workload
from tollgate_quota._proto import quota_pb2

PYTHON = CLIENTS / "python"


def without_json_names(message: DescriptorProto) -> None:
    for field in message.field:
        field.ClearField("json_name")
    for nested in message.nested_type:
        without_json_names(nested)


class Package(unittest.TestCase):
    def test_the_messages_are_those_of_the_proto(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            protoc = [sys.executable, "-m", "grpc_tools.protoc", "-I", str(REPOSITORY / "proto")]
            protoc += [f"--descriptor_set_out={folder}/set", "tollgate/v1/quota.proto"]
            subprocess.run(protoc, check=True, timeout=60)
            wanted = FileDescriptorSet.FromString(Path(folder, "set").read_bytes()).file[0]
        got = FileDescriptorProto()
        quota_pb2.DESCRIPTOR.CopyToProto(got)
        for file in (got, wanted):
            for message in file.message_type:
                without_json_names(message)
        self.assertEqual(got, wanted, "run clients/generate")

    def test_every_value_of_the_enums_has_a_name(self) -> None:
        for ours in (Verdict, BilledReason, Workload, EstimateBasis):
            theirs = quota_pb2.DESCRIPTOR.enum_types_by_name[ours.__name__]
            prefix = re.sub("(?<!^)([A-Z])", r"_\1", ours.__name__).upper()
            wanted = {f"{prefix}_{value.name}": value.value for value in ours}
            wanted[f"{prefix}_UNSPECIFIED"] = 0
            self.assertEqual({it.name: it.number for it in theirs.values}, wanted)

    def test_the_service_config_is_the_example(self) -> None:
        example = (REPOSITORY / "examples" / "service-config.json").read_text("utf-8")
        ours = PYTHON / "src" / "tollgate_quota" / "service-config.json"
        self.assertEqual(ours.read_text("utf-8"), example)

    def test_the_types_are_strict(self) -> None:
        with tempfile.TemporaryDirectory() as cache:
            mypy = [sys.executable, "-m", "mypy", "--cache-dir", cache]
            run = subprocess.run(mypy, cwd=PYTHON, capture_output=True, text=True, timeout=300)
        self.assertEqual(run.returncode, 0, run.stdout + run.stderr)

    def test_it_is_installed_whole(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            # A build leaves files beside the sources.
            ignored = shutil.ignore_patterns("build", "*.egg-info", "__pycache__")
            shutil.copytree(PYTHON, f"{folder}/source", ignore=ignored)
            pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
            pip += ["--no-build-isolation", "--target", f"{folder}/installed", f"{folder}/source"]
            subprocess.run(pip, check=True, timeout=120)
            installed = Path(folder, "installed", "tollgate_quota")
            sources = PYTHON / "src" / "tollgate_quota"
            for file in sources.rglob("*"):
                if file.is_file() and "__pycache__" not in file.parts:
                    self.assertTrue((installed / file.relative_to(sources)).is_file(), file)

    def test_the_examples_of_the_readme_run(self) -> None:
        readme = (PYTHON / "README.md").read_text("utf-8")
        examples = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
        self.assertEqual(len(examples), 5)
        response = types.SimpleNamespace(total_tokens=830)
        endpoint = types.SimpleNamespace(complete=lambda _: response)
        # What the examples leave to the gateway.
        names = {"sharing_project": endpoint, "other_project": endpoint}
        with Service() as service:
            for example in examples:
                with self.subTest(example):
                    code = example.replace("localhost:50051", service.address)
                    exec(compile(code, "README.md", "exec"), names)


if __name__ == "__main__":
    unittest.main()
