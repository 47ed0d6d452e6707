"""The three networks, in PyTorch. Input ``[batch, 1, 32, 32]``, output ``[batch, 10]`` logits."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

CLASSES = 10


def lenet5() -> nn.Sequential:
    """LeNet-5, common variant: ReLU, mean pooling, C3 fully connected over channels; 61,706."""
    return nn.Sequential(
        OrderedDict[str, nn.Module](
            conv1=nn.Conv2d(1, 6, 5),  # 6×28×28
            relu1=nn.ReLU(),
            pool1=nn.AvgPool2d(2),  # 6×14×14
            conv2=nn.Conv2d(6, 16, 5),  # 16×10×10
            relu2=nn.ReLU(),
            pool2=nn.AvgPool2d(2),  # 16×5×5
            flatten=nn.Flatten(),
            fc1=nn.Linear(16 * 5 * 5, 120),
            relu3=nn.ReLU(),
            fc2=nn.Linear(120, 84),
            relu4=nn.ReLU(),
            fc3=nn.Linear(84, CLASSES),
        )
    )


def vgg_small() -> nn.Sequential:
    """VGG style, ``[64, 64, 'M', 64, 'M']`` and three fully connected layers.

    The convolutions have no padding and each pooling divides its input exactly, so the
    fully convolutional form gives on a larger image what this net gives on each crop.
    """
    return nn.Sequential(
        OrderedDict[str, nn.Module](
            conv1=nn.Conv2d(1, 64, 3),  # 64×30×30
            relu1=nn.ReLU(),
            conv2=nn.Conv2d(64, 64, 3),  # 64×28×28
            relu2=nn.ReLU(),
            pool1=nn.MaxPool2d(2),  # 64×14×14
            conv3=nn.Conv2d(64, 64, 3),  # 64×12×12
            relu3=nn.ReLU(),
            pool2=nn.MaxPool2d(2),  # 64×6×6
            flatten=nn.Flatten(),
            fc1=nn.Linear(64 * 6 * 6, 128),
            relu4=nn.ReLU(),
            drop1=nn.Dropout(0.5),
            fc2=nn.Linear(128, 64),
            relu5=nn.ReLU(),
            drop2=nn.Dropout(0.5),
            fc3=nn.Linear(64, CLASSES),
        )
    )


def gap_net() -> nn.Sequential:
    """Three padded convolutions; the head is a 1×1 convolution, averaged over all positions."""
    return nn.Sequential(
        OrderedDict[str, nn.Module](
            conv1=nn.Conv2d(1, 32, 3, padding=1),  # 32×32×32
            relu1=nn.ReLU(),
            pool1=nn.MaxPool2d(2),  # 32×16×16
            conv2=nn.Conv2d(32, 64, 3, padding=1),  # 64×16×16
            relu2=nn.ReLU(),
            pool2=nn.MaxPool2d(2),  # 64×8×8
            conv3=nn.Conv2d(64, 64, 3, padding=1),  # 64×8×8
            relu3=nn.ReLU(),
            classes=nn.Conv2d(64, CLASSES, 1),  # 10×8×8
            average=nn.AdaptiveAvgPool2d(1),  # 10×1×1
            flatten=nn.Flatten(),
        )
    )
