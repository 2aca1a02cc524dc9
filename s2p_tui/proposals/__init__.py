"""What proposes alignments: the offline matcher."""
