"""The method: what is asked of the teacher, when, and how the student's answer is measured."""
