"""The papers' claims as figures: who is kept, what is obeyed, on people nobody was trained on."""
