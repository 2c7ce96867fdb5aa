"""Rigid alignment of particle images without labels: unsupervised difference learning (UDL, JUDL)."""
