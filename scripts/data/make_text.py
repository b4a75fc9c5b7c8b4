#!/usr/bin/python3
"""Makes scripts/data/text.xz from the text of the design material.

  scripts/data/make_text.py SHARED_DATA_FOLDER/text.bin

Keeps the entries that say of themselves that they are Webster's Dictionary of 1913, which is in the public domain, and
leaves out all else (later additions, manual pages).
"""
import lzma
import os
import re
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
LONGEST_ENTRY = 1500  # over that, other text has run into the entry
MARK = re.compile(rb"^ +(\[[^]\n]*(?:Webster|WordNet|PJC)[^]\n]*\]).*\n", re.MULTILINE)


def main():
    with open(sys.argv[1], "rb") as f:
        text = f.read()
    kept, begin = [], 0
    for mark in MARK.finditer(text):
        entry = text[begin:mark.end()]
        begin = mark.end()
        if mark[1] in (b"[1913 Webster]", b"[Webster 1913 Suppl.]") and len(entry) <= LONGEST_ENTRY:
            kept.append(entry)
    with open(os.path.join(HERE, "text.xz"), "wb") as f:
        f.write(lzma.compress(b"".join(kept), preset=9 | lzma.PRESET_EXTREME))


if __name__ == "__main__":
    main()
