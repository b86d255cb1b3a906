"""What is typed beside nerfstudio's own commands."""

from pvd_nerfstudio.input.quiet import ignore_others

ignore_others()  # before nerfstudio is imported, which warns at once
