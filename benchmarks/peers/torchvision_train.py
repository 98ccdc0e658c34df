"""A plain torchvision training loop, as its tutorials have it: FOLDER SIZE BATCH EPOCHS PRECISION.

Prints the pictures a second of the last epoch, data loading included.
"""

import json
import sys
import time

import torch
from torch import nn
from torchvision import datasets, models, transforms

folder, precision = sys.argv[1], sys.argv[5]
size, batch_size, epochs = (int(text) for text in sys.argv[2:5])
transform = transforms.Compose(
    [
        transforms.RandomResizedCrop(size),
        transforms.RandomHorizontalFlip(),
        transforms.ToTensor(),
        transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
    ]
)
pictures = datasets.ImageFolder(folder, transform)
loader = torch.utils.data.DataLoader(
    pictures, batch_size, shuffle=True, num_workers=2, drop_last=True, persistent_workers=True
)
model = models.resnext50_32x4d(num_classes=len(pictures.classes))
model.train()
criterion = nn.CrossEntropyLoss()
optimizer = torch.optim.SGD(model.parameters(), lr=0.025, momentum=0.9, weight_decay=1e-4)
for _ in range(epochs):
    start, seen = time.perf_counter(), 0
    for images, labels in loader:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16"):
            loss = criterion(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        seen += len(images)
        assert loss.item() == loss.item()
    rate = seen / (time.perf_counter() - start)
print(json.dumps({"rate": rate}))
