"""Identity + prompt -> the direction in which the person pulls the prompt's text."""
