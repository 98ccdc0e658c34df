"""A folder through timm as its `inference.py` does it: CHECKPOINT FOLDER OUT.csv."""

import sys

import timm
import torch
from timm.data import create_dataset, create_loader, resolve_data_config

model = timm.create_model("resnext50_32x4d", checkpoint_path=sys.argv[1]).eval()
config = resolve_data_config({}, model=model)
dataset = create_dataset(root=sys.argv[2], name="")
loader = create_loader(
    dataset, batch_size=32, use_prefetcher=False, num_workers=2, device="cpu", **config
)
rows = []
with torch.inference_mode():
    for batch, _ in loader:
        values, indices = model(batch).softmax(-1).topk(5)
        rows += zip(values.tolist(), indices.tolist(), strict=True)
with open(sys.argv[3], "w") as out:
    for name, (values, indices) in zip(dataset.filenames(basename=True), rows, strict=True):
        out.write(f"{name},{values},{indices}\n")
