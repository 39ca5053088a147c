"""Check the data of a run and report what is wrong: python -m run.check --root data"""
