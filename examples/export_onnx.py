"""Export the embedded model as ONNX graphs, and run its text encoder on ONNX Runtime.

python examples/export_onnx.py shapes-onnx
"""

import sys
from pathlib import Path

import onnxruntime

from sdaccel import shapes
from sdaccel.export import Manifest, export

folder = Path(sys.argv[1] if len(sys.argv) > 1 else "shapes-onnx")
pipe = shapes.load("unet")
export(pipe, folder, tell=lambda name, done, total: print(f"{done + 1} of {total}: {name}"))

manifest = Manifest.read(folder)
manifest.verify(folder)
for name, entry in manifest.components.items():
    print(name, "takes", ", ".join(f"{each.name} {list(each.shape)}" for each in entry.inputs))

prompt, how = "a large red circle", {"padding": "max_length", "truncation": True}
tokens = pipe.tokenizer([prompt], return_tensors="np", **how)["input_ids"].astype("int64")
graph = str(folder / manifest.component("text_encoder").file)
session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
(embeddings,) = session.run(["last_hidden_state"], {"input_ids": tokens})
print("embeddings", embeddings.shape, "of mean", float(embeddings.mean()))
