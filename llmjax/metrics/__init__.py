"""Standard metrics with bootstrap intervals.

Only this package uses scikit-learn, scipy and sacrebleu, and imports them on use.
"""
