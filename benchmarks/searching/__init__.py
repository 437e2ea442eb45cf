"""The parts of search_quality.py: problems whose best is known, trials in simulated time, rivals, and the measure."""
