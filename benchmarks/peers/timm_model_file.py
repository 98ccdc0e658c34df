"""The shortest timm script that names the top 5 by one of our files: MODEL PICTURE."""

import json
import sys

import torch
from PIL import Image
from safetensors import safe_open
from timm.data import create_transform
from timm.models.resnet import Bottleneck, ResNet

with safe_open(sys.argv[1], framework="pt") as file:
    document = json.loads(file.metadata()["resnext"])
    state = {key: file.get_tensor(key).float() for key in file.keys()}
names, size = document["class_names"], document["preprocess"]["input_size"]
with torch.device("meta"):
    model = ResNet(Bottleneck, (2, 2, 2, 2), num_classes=len(names), cardinality=32, base_width=4)
model.load_state_dict(state, strict=False, assign=True)
model.eval()
transform = create_transform(
    size, crop_pct=size / document["preprocess"]["resize"], interpolation="bilinear"
)
with torch.inference_mode():
    scores = model(transform(Image.open(sys.argv[2]).convert("RGB"))[None])[0].softmax(0)
for probability, index in zip(*scores.topk(5), strict=True):
    print(f"{probability:.4f} {names[index]}")
