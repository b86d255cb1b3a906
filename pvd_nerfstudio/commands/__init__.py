"""What is typed beside nerfstudio's own commands."""
