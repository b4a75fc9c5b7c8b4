#!/usr/bin/python3
"""test_documented.py RINGSCAN: runs the examples of README.md, docs/activation-files.md and docs/context.md as they stand
there, and finds the fields of docs/report.md in reports."""
import json
import os
import re
import subprocess
import sys
import tempfile

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../..")


def blocks(document):
    """[(language, code)] of the fenced blocks that name a language."""
    with open(os.path.join(ROOT, document)) as f:
        return re.findall(r"^```(\w+)\n(.*?)^```$", f.read(), re.MULTILINE | re.DOTALL)


def run(language, code, folder, environment):
    command = {"python": [sys.executable, "-c", code], "sh": ["bash", "-euc", code]}[language]
    print(f"--- {language}\n{code}", flush=True)
    subprocess.run(command, cwd=folder, env=environment, check=True)


def check_report(section, path):
    """Every field in the first column of a section's tables is in the report."""
    with open(os.path.join(ROOT, "docs/report.md")) as f:
        text = f.read().split(f"## {section}\n")[1].split("\n## ")[0]
    with open(path) as f:
        report = json.load(f)
    fields = [name for row in re.findall(r"^\| (`[^|]*) \|", text, re.MULTILINE) for name in re.findall(r"`([\w.]+)`", row)]
    assert len(fields) > 8, fields
    for field in fields:
        place = report
        for name in field.split("."):
            assert name in place, f"docs/report.md names {field}, which is not in the report of {section}"
            place = place[name]


def main():
    ringscan = os.path.abspath(sys.argv[1])
    environment = {**os.environ, "PATH": os.path.dirname(ringscan) + ":" + os.environ["PATH"]}
    with tempfile.TemporaryDirectory() as folder:
        for document in ("README.md", "docs/context.md"):
            examples = blocks(document)
            assert [language for language, _ in examples] == ["python", "sh", "python"], examples
            for language, code in examples:
                run(language, code, folder, environment)

        files = ["--input", "in.h5", "--output", "out.h5", "--report", "report.json"]
        for section, options in (("Of run", ["run", "--mechanism", "softmax", "--overwrite"]), ("Of verify", ["verify"])):
            subprocess.run([ringscan, *options, *files], cwd=folder, check=True)
            check_report(section, os.path.join(folder, "report.json"))

        (language, code), = blocks("docs/activation-files.md")
        run(language, code + 'with h5py.File("b.h5", "w") as f:\n    for name in "qkv":\n'
            '        write_bf16(f, name, np.ones((1, 9, 2, 8), np.float32) / 3)\n', folder, environment)
        shown = subprocess.run([ringscan, "inspect", "b.h5"], cwd=folder, check=True, capture_output=True, text=True).stdout
        assert shown.count("bfloat16") == 3, shown


if __name__ == "__main__":
    main()
