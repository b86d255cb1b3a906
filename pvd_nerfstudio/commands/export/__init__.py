"""`pvd export`: a student for programs that know nothing of nerfstudio."""
