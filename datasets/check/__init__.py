"""Check the data of a run and say what is wrong: python -m run.check --root data"""
