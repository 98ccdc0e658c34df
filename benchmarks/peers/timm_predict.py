"""The shortest timm script that names the top 5: CHECKPOINT PICTURE."""

import sys

import timm
import torch
from PIL import Image
from timm.data import ImageNetInfo

model = timm.create_model("resnext50_32x4d", checkpoint_path=sys.argv[1]).eval()
config = timm.data.resolve_model_data_config(model)
transform = timm.data.create_transform(**config, is_training=False)
with torch.inference_mode():
    scores = model(transform(Image.open(sys.argv[2]).convert("RGB"))[None])[0].softmax(0)
names = ImageNetInfo()
for probability, index in zip(*scores.topk(5), strict=True):
    print(f"{probability:.4f} {names.index_to_description(int(index))}")
