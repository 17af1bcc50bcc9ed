"""The box convention, and box arithmetic in numpy (on tensors: torchvision.ops).

A box is `x1 y1 x2 y2` in absolute pixels of the original image, 0-based and continuous: pixel
column `i` covers `[i, i + 1]`, so a box that covers the whole image is `0 0 width height` and its
width is `x2 - x1`. VOC files are 1-based and inclusive; `from_voc` converts them, once, on
reading. In these coordinates the plain IoU *is* the devkit's IoU with its "+ 1" pixels, so nothing
else in the project adds or subtracts a pixel. Arrays are `float32 (N, 4)`.
"""
