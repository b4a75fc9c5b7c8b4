#!/usr/bin/python3
"""scripts/make-demo-activations gives layer 0 of the model's own script bit for bit (that script's result is kept as a hash)."""
import os
import subprocess
import sys
import tempfile

import h5py
import numpy as np

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.join(HERE, "../..")
sys.path.insert(0, os.path.join(ROOT, "tests/data"))
sys.dont_write_bytecode = True
import make_sample  # noqa: E402


def make(out, *options):
    subprocess.run([sys.executable, os.path.join(ROOT, "scripts/make-demo-activations"), out, *options], check=True)


def check(condition, message):
    if not condition:
        sys.exit("FAILED: " + message)


def main():
    with open(os.path.join(ROOT, "tests/data/layer0.sha256")) as f:
        expected = f.read().strip()
    with tempfile.TemporaryDirectory() as folder:
        text = make_sample.short_text(folder)
        length = ["--seq-len", str(make_sample.LAYER0_SEQ_LEN), "--text", text]
        every, some = os.path.join(folder, "every.h5"), os.path.join(folder, "some.h5")
        make(every, "--heads", "0-7", *length)
        check(make_sample.layer0_hash(every) == expected, "all heads differ from make_activations.py")

        make(some, "--heads", "1-2,7", *length)
        with h5py.File(every) as a, h5py.File(some) as b:
            for name in "qkv":
                wanted = a["layers/0"][name][:, :, [1, 2, 7]]
                check(np.array_equal(b["layers/0"][name][:], wanted), f"heads 1-2,7 of {name} differ")
            check(np.array_equal(b["layers/0/log_decay"][:], a["layers/0/log_decay"][:, :, 1:]), "log_decay differs")
    print("same bits as make_activations.py")


if __name__ == "__main__":
    main()
