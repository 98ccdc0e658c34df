"""The shortest torchvision script that names the top 5: MODEL PICTURE."""

import json
import sys

import torch
from PIL import Image
from safetensors import safe_open
from torchvision import transforms
from torchvision.models.resnet import Bottleneck, ResNet

with safe_open(sys.argv[1], framework="pt") as file:
    document = json.loads(file.metadata()["resnext"])
    state = {key: file.get_tensor(key).float() for key in file.keys()}
blocks = {"resnext26_32x4d": [2, 2, 2, 2], "resnext50_32x4d": [3, 4, 6, 3]}
names, size = document["class_names"], document["preprocess"]["input_size"]
with torch.device("meta"):
    model = ResNet(
        Bottleneck,
        blocks[document["architecture"]["name"]],
        num_classes=len(names),
        groups=32,
        width_per_group=4,
    )
model.load_state_dict(state, strict=False, assign=True)
model.eval()
transform = transforms.Compose(
    [
        transforms.Resize(document["preprocess"]["resize"]),
        transforms.CenterCrop(size),
        transforms.ToTensor(),
        transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
    ]
)
with torch.inference_mode():
    scores = model(transform(Image.open(sys.argv[2]).convert("RGB"))[None])[0].softmax(0)
for probability, index in zip(*scores.topk(5), strict=True):
    print(f"{probability:.4f} {names[index]}")
