"""Identity + prompt -> the direction in which the person moves the prompt's text."""
