"""The method: what is queried of the teacher, when, and how the student's answer is measured."""
