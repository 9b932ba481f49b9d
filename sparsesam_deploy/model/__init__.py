"""Segment Anything and SparseSAM encoders in torch: checkpoints, token order, routing."""
