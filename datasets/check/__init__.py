"""What is wrong with the data, and how to mend it: python -m datasets.check --root data"""
