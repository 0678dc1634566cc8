"""The course kit: assignments that grade themselves.

One master per assignment lies in `course/assignments`. `python -m course build` makes from it the student's
notebook, the instructor's solution, the autograder and the rubric; `python -m course grade` grades a folder of
submissions; `python -m course drill` hands the autograder right, blank and wrong work and compares the points.
"""
