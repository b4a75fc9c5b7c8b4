#!/usr/bin/python3
"""test_documented.py RINGSCAN: runs the examples of README.md and docs/activation-files.md as they stand there."""
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


def main():
    ringscan = os.path.abspath(sys.argv[1])
    environment = {**os.environ, "PATH": os.path.dirname(ringscan) + ":" + os.environ["PATH"]}
    with tempfile.TemporaryDirectory() as folder:
        readme = blocks("README.md")
        assert [language for language, _ in readme] == ["python", "sh", "python"], readme
        for language, code in readme:
            run(language, code, folder, environment)

        (language, code), = blocks("docs/activation-files.md")
        run(language, code + 'with h5py.File("b.h5", "w") as f:\n    for name in "qkv":\n'
            '        write_bf16(f, name, np.ones((1, 9, 2, 8), np.float32) / 3)\n', folder, environment)
        shown = subprocess.run([ringscan, "inspect", "b.h5"], cwd=folder, check=True, capture_output=True, text=True).stdout
        assert shown.count("bfloat16") == 3, shown


if __name__ == "__main__":
    main()
