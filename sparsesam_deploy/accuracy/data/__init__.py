"""Images and ground truth: COCO JSON, label maps, mask pairs, folders."""
