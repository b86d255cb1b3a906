"""Active learning, three levels (PVD-AL, section 3.4): which views, which rays and which points are looked at most.

Plain torch: nothing here knows nerfstudio, so each file serves other trainings too (docs/active_learning.md).
"""
