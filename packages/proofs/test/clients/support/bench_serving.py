"""Runs SGLang's own benchmark, unmodified, without the packages of a GPU that importing SGLang would need.

Usage: bench_serving.py FOLDER FLAG…, where FOLDER holds SGLang's wheel, unpacked.
"""

import os
import sys
import types

folder = sys.argv.pop(1)


def add(name, **contents):
    module = types.ModuleType(name)
    vars(module).update(contents)
    sys.modules[name] = module


# Packages whose own files are found, while their __init__.py, which imports torch, is left out.
for name in ("sglang", "sglang.srt", "sglang.srt.utils", "sglang.srt.disaggregation"):
    add(name, __path__=[os.path.join(folder, *name.split("."))])
add("sglang.srt.disaggregation.utils", FAKE_BOOTSTRAP_HOST="2.2.2.2")
# Imported by a data set of pictures alone.
add("datasets", load_dataset=None)

from sglang.benchmark.serving import cli_main  # noqa: E402

cli_main()
