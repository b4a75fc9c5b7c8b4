#!/usr/bin/python3
"""test_language_model.py SCRIPT RINGSCAN DATA: the loss of the whole language model with ringscan doing the attention equals
that of the numpy model, to 1e-4 nats per byte, at 1 and 3 ranks. DATA is shared/data; without it the test is skipped."""
import os
import subprocess
import sys
import tempfile

SKIPPED = 77
SEQ_LEN = "256"


def loss(command):
    out = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return float(out.split("nats per byte")[1])


def main():
    script, ringscan, data = sys.argv[1:]
    if not os.path.exists(os.path.join(data, "weights_a.h5")):
        print(f"skipped: {data} has no weights of the language model")
        return SKIPPED
    text = os.path.join(data, "text.bin")
    with tempfile.TemporaryDirectory() as work:
        expected = loss([sys.executable, os.path.join(data, "make_activations.py"), text, os.path.join(work, "numpy.h5"),
                         "--seq-len", SEQ_LEN, "--layers", "0", "--dtype", "f32", "--loss"])
        for ranks in ("1", "3"):
            found = loss([sys.executable, script, text, "--weights", data, "--seq-len", SEQ_LEN, "--ranks", ranks,
                          "--work", work, "--ringscan", ringscan])
            print(f"{ranks} ranks: {found:.6f} nats per byte, numpy {expected:.6f}")
            if not abs(found - expected) <= 1e-4:
                return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
