"""How good predictions are: accepted metrics, with bootstrap intervals.

scikit-learn, scipy and sacrebleu are known here alone, and imported where they are used.
"""
