#!/usr/bin/python3
"""Makes real_layer1.h5, real_layer1_linear.h5, real_layers.h5 and layer0.sha256 beside it from the small trained language
model of the design material.

  tests/data/make_sample.py SHARED_DATA_FOLDER [--linear-only | --all-layers-only]

Runs SHARED_DATA_FOLDER/make_activations.py on its text.bin and keeps what the tests need: layer 1 (its inputs have been
through layer 0's attention, so no two tokens are alike): heads 0-1 (softmax) and 2-3 (stick-breaking) in one file, heads
6-7 (linear attention with their log decays) in another, which --linear-only makes alone. All heads of all four layers, of
fewer tokens, are a third file, which --all-layers-only makes alone. Then once more on the first bytes of
scripts/data/text.xz, repeated, and keeps a hash of layer 0. Needs numpy and h5py.
"""
import hashlib
import lzma
import os
import subprocess
import sys
import tempfile

import h5py
import numpy as np

SEQ_LEN = 449  # a prime: no number of ranks or tiles divides it
ALL_LAYERS_SEQ_LEN = 127  # a prime, too
LAYER = "layers/1"
HEADS = slice(0, 4)
LINEAR_HEADS = slice(6, 8)
LAYER0_TEXT_BYTES = 700  # so that the text is repeated
LAYER0_SEQ_LEN = 9001    # over one block of scripts/make-demo-activations
HERE = os.path.dirname(os.path.abspath(__file__))


def bf16_type():
    """bfloat16 as HDF5 sees it: sign 15, exponent 7..14 with bias 127, mantissa 0..6."""
    t = h5py.h5t.IEEE_F32LE.copy()
    t.set_fields(15, 7, 8, 0, 7)
    t.set_size(2)
    t.set_ebias(127)
    return t


def make_activations(shared, text, out, seq_len, *options):
    subprocess.run([sys.executable, os.path.join(shared, "make_activations.py"), text, out, "--seq-len", str(seq_len),
                    "--dtype", "bf16", *options], check=True)


def bf16_bits(x):
    """The 16 bits of float32 that are exact in bfloat16."""
    bits = (np.ascontiguousarray(x).view(np.uint32) >> 16).astype(np.uint16)
    assert np.array_equal((bits.astype(np.uint32) << 16).view(np.float32), x)
    return bits


def keep_heads(source, name, heads, with_decay, layers=(LAYER,)):
    """The heads' q, k, v bit for bit, their expected o, and the two linear heads' log decays."""
    with h5py.File(os.path.join(HERE, name), "w") as target:
        target.attrs["source"] = "tests/data/make_sample.py"
        for layer in layers:
            group = target.create_group(layer)
            for name in "qkv":
                bits = bf16_bits(source[layer][name][:, :, heads])
                dataset = h5py.h5d.create(group.id, name.encode(), bf16_type(), h5py.h5s.create_simple(bits.shape))
                dataset.write(h5py.h5s.ALL, h5py.h5s.ALL, bits, bf16_type())
            if with_decay:
                group.create_dataset("log_decay", data=source[layer]["log_decay"][:])
            group.create_dataset("o", data=source[layer]["o"][:, :, heads])


def make_layer1(shared, folder, linear_only):
    full = os.path.join(folder, "full.h5")
    make_activations(shared, os.path.join(shared, "text.bin"), full, SEQ_LEN, "--layers", LAYER[-1], "--outputs")
    with h5py.File(full) as source:
        keep_heads(source, "real_layer1_linear.h5", LINEAR_HEADS, True)
        if not linear_only:
            keep_heads(source, "real_layer1.h5", HEADS, False)


def make_all_layers(shared, folder):
    full = os.path.join(folder, "all.h5")
    make_activations(shared, os.path.join(shared, "text.bin"), full, ALL_LAYERS_SEQ_LEN, "--outputs")
    with h5py.File(full) as source:
        keep_heads(source, "real_layers.h5", slice(0, 8), True, sorted("layers/" + name for name in source["layers"]))


def layer0_hash(path):
    """Of the bits of q, k, v (bfloat16) and log_decay (float32), in this order."""
    digest = hashlib.sha256()
    with h5py.File(path) as f:
        for name in "qkv":
            digest.update(bf16_bits(f["layers/0"][name][:]).tobytes())
        digest.update(f["layers/0/log_decay"][:].tobytes())
    return digest.hexdigest()


def short_text(folder):
    path = os.path.join(folder, "short.txt")
    with lzma.open(os.path.join(HERE, "../../scripts/data/text.xz")) as text, open(path, "wb") as short:
        short.write(text.read(LAYER0_TEXT_BYTES))
    return path


def make_layer0_hash(shared, folder):
    out = os.path.join(folder, "layer0.h5")
    make_activations(shared, short_text(folder), out, LAYER0_SEQ_LEN, "--layers", "0")
    with open(os.path.join(HERE, "layer0.sha256"), "w") as f:
        f.write(layer0_hash(out) + "\n")


def main():
    linear_only, all_layers_only = "--linear-only" in sys.argv[2:], "--all-layers-only" in sys.argv[2:]
    with tempfile.TemporaryDirectory() as folder:
        if not all_layers_only:
            make_layer1(sys.argv[1], folder, linear_only)
        if not linear_only:
            make_all_layers(sys.argv[1], folder)
        if not linear_only and not all_layers_only:
            make_layer0_hash(sys.argv[1], folder)


if __name__ == "__main__":
    main()
