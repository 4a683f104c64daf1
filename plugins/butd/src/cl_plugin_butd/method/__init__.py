"""Learning: one loop for a single stage, one for streams of instructions, one for transfer."""
