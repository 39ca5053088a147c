"""What is wrong with the data, and how to mend it: python -m run.check --root data"""
