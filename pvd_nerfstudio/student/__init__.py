"""What is trained: fields of several architectures behind one nerfstudio model."""
