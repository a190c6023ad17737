"""Write an importance matrix in which every weight counts the same. Run as a program:
`uniform_imatrix.py MODEL.gguf|SHAPES.json OUT.gguf`, with the toolchain's `gguf-py` on PYTHONPATH.
Shapes (tensor -> its shape, the row's length first) save `gguf-py` from reading a vocabulary, which
takes it seconds.

With any matrix llama.cpp searches the scale of each block for the least error; without one, the
older types (Q5_0, Q5_1: what K-quants fall back to) take the block's extremes as they are. On a
base that was once quantised itself the search finds the old grid again: mean KLD of SmolLM2's
Q5_K_M falls from 0.056 to 0.006.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path


def write(model: str, out: str) -> None:
    """Write the matrix for every weight matrix of `model` (experts of one tensor one by one)."""
    import gguf
    import numpy as np

    writer = gguf.GGUFWriter(out, "imatrix")
    writer.add_type("imatrix")
    writer.add_array("imatrix.datasets", ["uniform"])
    writer.add_uint32("imatrix.chunk_count", 1)
    writer.add_uint32("imatrix.chunk_size", 512)
    if model.endswith(".json"):
        shapes = json.loads(Path(model).read_text(encoding="utf-8"))
    else:
        shapes = {t.name: [int(n) for n in t.shape] for t in gguf.GGUFReader(model).tensors}
    for name, (columns, *rest) in shapes.items():
        if rest and name.endswith(".weight"):
            experts = rest[1] if len(rest) > 1 else 1
            sums = np.ones((experts, columns), dtype=np.float32)
            writer.add_tensor(f"{name}.in_sum2", sums)
            writer.add_tensor(f"{name}.counts", np.ones((experts, 1), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    write(sys.argv[1], sys.argv[2])
