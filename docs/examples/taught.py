"""mobilenet.pth: torchvision's MobileNetV3-Small taught, without labels, to give the features of EfficientNet-Lite0.

Taught by the photographs of cifar10_small that the table does not use; needs lite0.pth (docs/networks.md); 10 minutes.
"""

from pathlib import Path

import torch
from timm import create_model
from torch import nn
from torchvision import models
from torchvision.io import decode_image
from torchvision.transforms.v2.functional import resize

files = [file for folder in sorted(Path("cifar10_small/train").iterdir()) for file in sorted(folder.iterdir())[200:]]
pictures = torch.stack([resize(decode_image(file, "RGB"), [96, 96], antialias=True) for file in files])
teacher = create_model("tf_efficientnet_lite0")
teacher.load_state_dict(torch.load("lite0.pth"))
teacher.reset_classifier(0)
teacher.eval()
with torch.no_grad():
    given = [
        torch.cat([teacher((x.float() - 127) / 128) for x in way.split(100)]) for way in (pictures, pictures.flip(-1))
    ]
torch.manual_seed(0)
student = models.mobilenet_v3_small(num_classes=1280)
mean, std = (torch.tensor(numbers)[:, None, None] for numbers in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
epochs, batch = 12, 64
optimizer = torch.optim.AdamW(student.parameters(), weight_decay=0.05)
schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, epochs * -(-len(pictures) // batch))
for _ in range(epochs):
    for rows in torch.randperm(len(pictures)).split(batch):
        mirrored = int(torch.rand(()) < 0.5)
        x = (pictures[rows].flip(-1) if mirrored else pictures[rows]) / 255
        loss = 1 - nn.functional.cosine_similarity(student((x - mean) / std), given[mirrored][rows]).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
torch.save(student.state_dict(), "mobilenet.pth")
